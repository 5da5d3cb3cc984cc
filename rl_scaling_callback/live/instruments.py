"""What an iteration spends its time on: three instruments, for synchronous and asynchronous algorithms and the old API stack."""

from __future__ import annotations

import functools
import time
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.live.reports import Learners, OverlappingRunners, Rounds, Spent
from rl_scaling_callback.rllib import hooks, introspection
from rl_scaling_callback.rllib.clocks import PhaseClock
from rl_scaling_callback.rllib.configs import (
    evaluation_is_parallel,
    is_asynchronous,
    is_new_stack,
    read_scale,
    samples_env,
    uses_gpus,
)
from rl_scaling_callback.rllib.names import LEARNER_PHASES, TIMER_PHASES, number

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm import Algorithm

    from rl_scaling_callback.core.text import Warn

Attempt = Callable[..., Any]
"""Takes a task, a function and a default: returns what the function returns; if it fails, warns once and returns the default."""


class Synchronous:
    """For algorithms that sample and learn in turn, on the new API stack."""

    def __init__(self, algorithm: Algorithm, config: Mapping[str, Any], attempt: Attempt) -> None:
        self.clock = PhaseClock(TIMER_PHASES, _gpu_waits(config, "learn"), background=_background(config))
        self._runners = Rounds()
        self._times_phases = _watch(algorithm, attempt, self.clock, self._runners)
        self._times_connectors = attempt("timing connectors", lambda: hooks.watch_local_learner(algorithm, self.clock))

    def start(self) -> None:
        """Start an iteration."""
        self.clock.start()
        self._runners.start()

    def read(self) -> Spent:
        """Return what was spent since the start of the iteration."""
        phases = self.clock.take()
        connectors = phases.pop("connectors", 0.0)
        phases["learn"] = phases.get("learn", 0.0) + connectors
        return self._runners.read()._replace(
            phases=phases if self._times_phases else None,
            evaluation_s=phases.get("evaluate", 0.0),
            connectors=connectors if self._times_connectors else NAN,
        )


class Overlapping:
    """For algorithms that sample and learn at the same time (IMPALA, APPO), on the new API stack."""

    def __init__(self, algorithm: Algorithm, config: Mapping[str, Any], attempt: Attempt) -> None:
        self.clock = PhaseClock(TIMER_PHASES, background=_background(config), clock=time.time, records=True)
        self._runners = OverlappingRunners(self.clock, max(1, read_scale(config).num_env_runners))
        self._learners = Learners(max(1, int(number(config.get("num_learners")))))
        self._times_phases = _watch(algorithm, attempt, self.clock, self._runners, self._learners.add)
        clock = functools.partial(PhaseClock, LEARNER_PHASES, _gpu_waits(config, "busy"))
        self._take_learner = attempt("timing the learners", lambda: hooks.watch_learners(algorithm, clock))

    def start(self) -> None:
        """Start an iteration."""
        self.clock.start()
        self._runners.start()
        self._learners.start()
        if self._take_learner is not None:
            self._take_learner()

    def read(self) -> Spent:
        """Return what was spent since the start of the iteration."""
        phases, spent = self.clock.take(), self._runners.read()
        if self._take_learner is not None:  # others are in other processes, and have reported
            self._learners.add(self._take_learner())
        return spent._replace(
            phases=(phases if spent.phases is None else spent.phases) if self._times_phases else None,
            evaluation_s=phases.get("evaluate", 0.0),
            learner_busy=self._learners.busy,
            learner_waiting=self._learners.waiting,
        )


class OldStack:
    """For the old API stack: reads its own timers. Its env runners report nothing, and nothing is known of overlapping phases."""

    def __init__(self, algorithm: Algorithm, config: Mapping[str, Any], attempt: Attempt, warn: Warn) -> None:
        self.clock = PhaseClock(TIMER_PHASES, background=_background(config))
        self._attempt = attempt
        self._before: Mapping[str, float] = {}
        timers = functools.partial(introspection.read_timers, weakref.proxy(algorithm))
        is_known = not is_asynchronous(config) and attempt("timing the phases", timers) is not None
        self._timers = timers if is_known else None
        if samples_env(config):
            known = (
                "of the losses, only learn, sync, evaluate and other are known" if is_known else "time/* and loss/<cause> stay NaN"
            )
            warn(
                "old stack", f"on the old API stack, env runners don't report how long they sample: {known}; there is no diagnosis"
            )

    def start(self) -> None:
        """Start an iteration."""
        self.clock.start()
        if self._timers is not None:
            self._before = self._attempt("timing the phases", self._timers, {})

    def read(self) -> Spent:
        """Return what was spent since the start of the iteration."""
        phases = self.clock.take()
        evaluation_s = phases.get("evaluate", 0.0)
        if self._timers is None:
            return Spent(evaluation_s=evaluation_s)
        phases |= {phase: total - self._before.get(phase, 0.0) for phase, total in self._timers().items()}
        return Spent(phases, evaluation_s=evaluation_s)


Instrument: TypeAlias = Synchronous | Overlapping | OldStack
"""Measures what the iterations of one trial spend, by its `clock` of phases."""


def instrument_for(algorithm: Algorithm, attempt: Attempt, warn: Warn) -> Instrument:
    """Return the instrument for an Algorithm, attached to it."""
    config = vars(algorithm.config)
    if not is_new_stack(config):
        return OldStack(algorithm, config, attempt, warn)
    return (Overlapping if is_asynchronous(config) else Synchronous)(algorithm, config, attempt)


def _watch(algorithm: Algorithm, attempt: Attempt, clock: PhaseClock, runners: Rounds | OverlappingRunners, *learners: Any) -> bool:
    """Let `runners` collect the reports of env runners, and `clock` the times of phases; return whether these can be timed."""
    task = "timing the env runners"
    attempt(task, lambda: hooks.watch_reports(algorithm, lambda reports: attempt(task, lambda: runners.add(reports)), *learners))
    return bool(attempt("timing the phases", lambda: hooks.watch_phases(algorithm, clock)))


def _gpu_waits(config: Mapping[str, Any], phase: str) -> dict[str, Callable[[], None]]:
    return {phase: hooks.wait_for_gpu} if uses_gpus(config) else {}


def _background(config: Mapping[str, Any]) -> tuple[str, ...]:
    # Evaluation in parallel to training costs iteration time only if it outlasts training.
    return ("evaluate",) if evaluation_is_parallel(config) else ()
