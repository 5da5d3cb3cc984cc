"""One trial as the callback sees it: takes in iterations, gives the dict to inject."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from rl_scaling_callback import keys, reading
from rl_scaling_callback.comparison import Resources, compare
from rl_scaling_callback.formulas import NAN
from rl_scaling_callback.reference import Warn
from rl_scaling_callback.scale import Scale
from rl_scaling_callback.steady import Steady, SteadyRule, SteadyWindow


class BaselineSource(Protocol):
    """Where the baseline comes from (see `reference`)."""

    @property
    def is_baseline(self) -> float:
        """1.0 when this trial is the reference, else 0.0."""

    def update(self, steady: Steady) -> None:
        """Look for a baseline, or publish one."""

    def compare_with(self, steady: Steady, env_steps: float) -> tuple[float, float]:
        """Return the SPS per unit of parallelism to compare with, and `comparable`."""


class Trial:
    """One trial's measurement, from its first iteration to its last, in constant memory.

    Args:
        config: the trial's config.
        scale: its scale.
        resources: what it runs on.
        source: where its baseline comes from.
        rule: when it counts as steady.
        is_exclusive: tells whether the trial had its node for itself since the last call; NaN where it can't be told.
        warn: logs a warning once.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        *,
        scale: Scale,
        resources: Resources,
        source: BaselineSource,
        rule: SteadyRule,
        is_exclusive: Callable[[], float],
        warn: Warn,
    ) -> None:
        self._scale = scale
        self._resources = resources
        self._source = source
        self._window = SteadyWindow(rule)
        self._is_exclusive = is_exclusive
        self._warn = warn
        self._first_steps_may_be_late = reading.iterations_are_timed(config)
        self._learns_after = reading.steps_before_learning(config)
        self._samples = reading.samples_env(config)
        self._env_steps = 0.0
        self._lifetime = NAN

    def measure(self, result: Mapping[str, Any], evaluation_s: float) -> dict[str, Any]:
        """Return the dict to inject for the iteration that `result` describes.

        Args:
            result: RLlib's result.
            evaluation_s: seconds of the iteration that evaluation took; steady figures leave them out.
        """
        iteration = reading.read_iteration(result, self._lifetime)
        env_steps, seconds, self._lifetime = iteration.env_steps, iteration.seconds, iteration.lifetime
        if not self._samples:
            # The old API stack counts the steps that it reads from recorded data as sampled.
            env_steps = NAN
            self._warn("result", "this algorithm learns from recorded data (offline): it samples no env steps, so there is no SPS")
        elif iteration.problem:
            self._warn("result", iteration.problem)
        elif env_steps == 0 and (self._env_steps > 0 or not self._first_steps_may_be_late):
            self._warn("steps", "no env steps were sampled in an iteration: its SPS is NaN")
        # Before learning starts, iterations do less than those after.
        self._window.add(env_steps, seconds - evaluation_s, warm=self._env_steps >= self._learns_after)
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
        values["exclusive"] = self._is_exclusive()
        return keys.nest(values)
