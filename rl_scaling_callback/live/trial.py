"""One trial as the callback sees it: takes in iterations, gives the dict to inject."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from rl_scaling_callback import rllib
from rl_scaling_callback.baseline.tracker import Warn
from rl_scaling_callback.core import schema
from rl_scaling_callback.core.attribution import Spent, diagnosis, losses
from rl_scaling_callback.core.comparison import Resources, compare
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import Steady, SteadyRule, SteadyWindow
from rl_scaling_callback.live.load import Load
from rl_scaling_callback.rllib import RunnerReport

_SMALLEST_TURN_S: Final = 0.01
_SMALLEST_TURN: Final = 0.01


class BaselineSource(Protocol):
    """Where the baseline comes from (see `reference`)."""

    @property
    def is_baseline(self) -> float:
        """1.0 when this trial is the reference, else 0.0."""

    @property
    def spent(self) -> Spent | None:
        """Where the baseline's time went, per env step; None where not known."""

    @property
    def single_busy(self) -> float:
        """Busy time per env step of one runner with as many envs as this trial's [s]; NaN where not known."""

    def update(self, steady: Steady) -> None:
        """Look for a baseline, or publish one."""

    def end(self) -> None:
        """Say so where there was none to the end."""

    def compare_with(self, steady: Steady, env_steps: float) -> tuple[float, float]:
        """Return the SPS per unit of parallelism to compare with, and `comparable`."""


class Trial:
    """One trial's measurement, from its first iteration to its last, in constant memory.

    Args:
        config: the trial's config.
        scale: its scale.
        workload: id of its workload.
        resources: what it runs on.
        source: where its baseline comes from.
        rule: when it counts as steady.
        is_exclusive: tells whether the trial had its node for itself since the last call; NaN where it can't be told.
        load: tells how many cores it and others keep busy.
        warn: logs a warning once.
        offset: seconds that the clock of `time_this_iter_s` is ahead of one that nobody turns.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        *,
        scale: Scale,
        workload: str,
        resources: Resources,
        source: BaselineSource,
        rule: SteadyRule,
        is_exclusive: Callable[[], float],
        load: Load,
        warn: Warn,
        offset: Callable[[], float] = lambda: time.time() - time.monotonic(),
    ) -> None:
        self._scale = scale
        self._workload = workload
        self._resources = resources
        self._source = source
        self._window = SteadyWindow(rule)
        self._is_exclusive = is_exclusive
        self._load = load
        self._warn = warn
        self._offset = offset
        self._offset_before = offset()
        self._first_steps_may_be_late = rllib.iterations_are_timed(config)
        self._learns_after = rllib.steps_before_learning(config)
        self._samples = rllib.samples_env(config)
        self._overlaps = rllib.is_asynchronous(config)
        self._env_steps = 0.0
        self._lifetime = NAN

    def end(self) -> None:
        """Say what was missing to the end."""
        self._source.end()

    def measure(
        self,
        result: Mapping[str, Any],
        evaluation_s: float,
        named: Mapping[str, float] | None = None,
        reports: Sequence[RunnerReport] = (),
        learner: Mapping[str, float] | None = None,
    ) -> dict[str, Any]:
        """Return the dict to inject for the iteration that `result` describes.

        Args:
            result: RLlib's result.
            evaluation_s: seconds of the iteration that evaluation took; steady figures leave them out.
            named: exclusive seconds of each phase; None where they are not known.
            reports: what the env runners did.
            learner: what a learner did in a thread of its own [s]; None where there is none, or its time is not known.
        """
        env_steps, seconds = self._read(result)
        spent = Spent.of(named or {}, seconds, [report.busy for report in reports])
        # Before learning starts, iterations do less than those after.
        warm = self._env_steps >= self._learns_after
        self._window.add(env_steps, seconds - evaluation_s, {} if named is None else spent.parts, warm=warm)
        if env_steps > 0:
            self._env_steps += env_steps
        steady = self._window.read()
        self._source.update(steady)
        baseline_sps, comparable = self._source.compare_with(steady, env_steps)
        values = compare(
            env_steps=env_steps,
            seconds=seconds,
            scale=self._scale,
            baseline_sps=baseline_sps,
            steady=steady,
            resources=self._resources,
        )
        values["time/evaluate"] = evaluation_s
        values["is_baseline"] = self._source.is_baseline
        values["comparable"] = comparable
        values["workload"] = self._workload
        values["exclusive"] = self._is_exclusive()
        utilisation = rllib.read_circumstances(result).cpu_utilisation
        values["cores/own"], values["cores/others"] = self._load.look(utilisation, [report.cpu for report in reports])
        values["runners/healthy"], values["runners/restarts"] = rllib.read_fleet(result)
        values.update(_runner_values(reports, spent))
        if learner is not None:
            values["learner/busy"], values["learner/waiting"] = learner.get("busy", 0.0), learner.get("waiting", 0.0)
        if named is not None:
            values.update({f"time/{phase}": getattr(spent, phase) for phase in schema.PHASES})
            values["account/exclusive"] = float(not self._overlaps)
            baseline = self._source.spent
            if comparable == 1 and not self._overlaps and baseline is not None:
                values.update(self._account(env_steps, spent, baseline, steady))
        return schema.nest(values)

    def _read(self, result: Mapping[str, Any]) -> tuple[float, float]:
        """Return the env steps and seconds of the iteration; warn once of what can't be read."""
        offset = self._offset()
        turned, self._offset_before = offset - self._offset_before, offset
        iteration = rllib.read_iteration(result, self._lifetime)
        self._lifetime = iteration.lifetime
        if not self._samples:
            # The old API stack counts the steps that it reads from recorded data as sampled.
            self._warn("result", "this algorithm learns from recorded data (offline): it samples no env steps, so there is no SPS")
            return NAN, iteration.seconds
        if iteration.problem:
            self._warn("result", iteration.problem)
        elif iteration.env_steps == 0 and (self._env_steps > 0 or not self._first_steps_may_be_late):
            self._warn("steps", "no env steps were sampled in an iteration: its SPS is NaN")
        if abs(turned) > max(_SMALLEST_TURN_S, _SMALLEST_TURN * iteration.seconds):
            self._warn("clock", f"the clock was turned by {turned:+.3g} s: the time of this iteration is not known, its SPS is NaN")
            return iteration.env_steps, NAN
        return iteration.env_steps, iteration.seconds

    def _account(self, env_steps: float, spent: Spent, baseline: Spent, steady: Steady) -> dict[str, float | str]:
        single = self._source.single_busy
        lost, estimated = losses(self._scale, env_steps, spent, baseline, single)
        over_window, _ = losses(self._scale, steady.env_steps, Spent.of_window(steady.parts), baseline, single)
        return {
            **{f"loss/{cause}": points for cause, points in lost.items()},
            "account/estimated": float(estimated),
            "diagnosis": diagnosis(over_window),
        }


def _runner_values(reports: Sequence[RunnerReport], spent: Spent) -> dict[str, float]:
    values = {"runners/reported": float(len(reports)), "runners/busy": spent.busy, "runners/longest": spent.longest}
    for part in ("env_step", "inference", "rest"):
        told = [seconds for report in reports if (seconds := getattr(report, part)) == seconds]
        values[f"runners/{part}"] = sum(told) / len(told) if told else NAN
    return values
