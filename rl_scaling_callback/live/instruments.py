"""What an iteration spends its time on: three instruments, for synchronous and asynchronous algorithms and the old API stack."""

from __future__ import annotations

import functools
import time
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.live.learners import Learners, LearnersWork
from rl_scaling_callback.live.overlap import OverlappingRunners
from rl_scaling_callback.live.runners import Rounds
from rl_scaling_callback.live.spent import Spent
from rl_scaling_callback.rllib import hooks, introspection
from rl_scaling_callback.rllib.configs import (
    evaluation_is_parallel,
    is_asynchronous,
    is_new_stack,
    read_scale,
    samples_env,
    uses_gpus,
)
from rl_scaling_callback.rllib.names import LEARNER_PHASES, TIMER_PHASES
from rl_scaling_callback.rllib.phases import PhaseClock
from rl_scaling_callback.rllib.values import number

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm import Algorithm

    from rl_scaling_callback.baseline.source import Warn

Attempt = Callable[[str, Callable[[], Any], Any], Any]
"""Takes a topic, a function and a default: returns what the function returns; if it fails, warns once and returns the default."""


class Instrument(Protocol):
    """Measures the iterations of one trial.

    Attributes:
        clock: the clock of the phases.
        times_evaluation: whether RLlib's timers time evaluation; if not, the callback's hooks must.
    """

    clock: PhaseClock
    times_evaluation: bool

    def start(self) -> None:
        """Start an iteration."""

    def read(self) -> Spent:
        """Return what was spent since the start of the iteration."""


class Synchronous:
    """For algorithms that sample and learn in turn, on the new API stack."""

    def __init__(self, algorithm: Algorithm, config: Mapping[str, Any], attempt: Attempt) -> None:
        self.clock = PhaseClock(TIMER_PHASES, _settled(config, "learn"), background=_background(config))
        self._runners = Rounds()
        add = _attempted(attempt, self._runners.add)
        attempt("env runners", lambda: hooks.watch_reports(algorithm, add), None)
        self.times_evaluation = attempt("phases", lambda: hooks.watch_phases(algorithm, self.clock), False)
        self._times_connectors = attempt("learner connectors", lambda: hooks.watch_local_learner(algorithm, self.clock), False)

    def start(self) -> None:
        """Start an iteration."""
        self.clock.start()
        self._runners.start()

    def read(self) -> Spent:
        """Return what was spent since the start of the iteration."""
        phases = self.clock.take()
        connectors = phases.pop("connectors", 0.0)
        phases["learn"] = phases.get("learn", 0.0) + connectors
        return Spent(
            phases if self.times_evaluation else None,
            phases.get("evaluate", 0.0),
            self._runners.read(),
            connectors=connectors if self._times_connectors else NAN,
        )


class Overlapping:
    """For algorithms that sample and learn at the same time (IMPALA, APPO), on the new API stack."""

    def __init__(self, algorithm: Algorithm, config: Mapping[str, Any], attempt: Attempt) -> None:
        self.clock = PhaseClock(
            TIMER_PHASES, _settled(config, "learn"), background=_background(config), clock=time.time, records=True
        )
        self._runners = OverlappingRunners(self.clock, max(1, read_scale(config).num_env_runners))
        self._learners: Learners | None = None
        add = _attempted(attempt, self._runners.add)
        attempt("env runners", lambda: hooks.watch_reports(algorithm, add, self._add_learner), None)
        self.times_evaluation = attempt("phases", lambda: hooks.watch_phases(algorithm, self.clock), False)
        self._learners = attempt("learners", lambda: _watch_learners(algorithm, config), None)

    def start(self) -> None:
        """Start an iteration."""
        self.clock.start()
        self._runners.start()
        if self._learners is not None:
            self._learners.start()

    def read(self) -> Spent:
        """Return what was spent since the start of the iteration."""
        phases, runners = self.clock.take(), self._runners.read()
        learners = LearnersWork() if self._learners is None else self._learners.read()
        named = (phases if runners.phases is None else runners.phases) if self.times_evaluation else None
        return Spent(named, phases.get("evaluate", 0.0), runners, learners)

    def _add_learner(self, report: Mapping[str, float]) -> None:
        if self._learners is not None:
            self._learners.add(report)


class OldStack:
    """For the old API stack: reads its own timers. Its env runners report nothing, and nothing is known of overlapping phases."""

    times_evaluation = False

    def __init__(self, algorithm: Algorithm, config: Mapping[str, Any], attempt: Attempt, warn: Warn) -> None:
        self.clock = PhaseClock(TIMER_PHASES, background=_background(config))
        self._attempt = attempt
        self._timers: Callable[[], dict[str, float]] | None = None
        self._before: Mapping[str, float] = {}
        if is_asynchronous(config):
            warn("old stack", "APPO and IMPALA don't report where time goes on the old API stack: time/* and loss/<cause> stay NaN")
            return
        timers = functools.partial(introspection.read_timers, weakref.proxy(algorithm))
        if attempt("phases", timers, None) is None:
            return
        self._timers = timers
        if samples_env(config):
            warn(
                "old stack",
                "env runners don't report how long they sample on the old API stack: only the learn, sync, evaluate and other "
                "losses are known, and there is no diagnosis",
            )

    def start(self) -> None:
        """Start an iteration."""
        self.clock.start()
        if self._timers is not None:
            self._before = self._attempt("phases", self._timers, {})

    def read(self) -> Spent:
        """Return what was spent since the start of the iteration."""
        phases = self.clock.take()
        evaluation_s = phases.get("evaluate", 0.0)
        if self._timers is None:
            return Spent(None, evaluation_s)
        phases |= {phase: total - self._before.get(phase, 0.0) for phase, total in self._timers().items()}
        return Spent(phases, evaluation_s)


def instrument_for(algorithm: Algorithm, attempt: Attempt, warn: Warn) -> Instrument:
    """Return the instrument for an Algorithm, attached to it."""
    config = introspection.config_of(algorithm)
    if not is_new_stack(config):
        return OldStack(algorithm, config, attempt, warn)
    return (Overlapping if is_asynchronous(config) else Synchronous)(algorithm, config, attempt)


def _attempted(attempt: Attempt, add: Callable[[Any], None]) -> Callable[[Any], None]:
    return lambda reports: attempt("env runners", lambda: add(reports), None)


def _settled(config: Mapping[str, Any], phase: str) -> dict[str, Callable[[], None]]:
    return {phase: hooks.wait_for_gpu} if uses_gpus(config) else {}


def _background(config: Mapping[str, Any]) -> tuple[str, ...]:
    # Evaluation in parallel to training costs iteration time only if it outlasts training.
    return ("evaluate",) if evaluation_is_parallel(config) else ()


def _watch_learners(algorithm: Algorithm, config: Mapping[str, Any]) -> Learners:
    take = hooks.watch_learners(algorithm, functools.partial(PhaseClock, LEARNER_PHASES, _settled(config, "busy")))
    group = weakref.proxy(algorithm)
    num_learners = max(1, int(number(config.get("num_learners"))))
    return Learners(take, num_learners, lambda: introspection.dropped_steps(group))
