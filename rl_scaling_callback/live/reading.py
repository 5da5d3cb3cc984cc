"""Reads the env steps and duration of each iteration, and warns about those that can't be trusted."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from rl_scaling_callback.baseline.source import Warn
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.rllib.configs import iterations_are_timed, samples_env
from rl_scaling_callback.rllib.results import read_iteration, read_number

_SMALLEST_JUMP_S: Final = 0.01
_SMALLEST_JUMP: Final = 0.01


class IterationReader:
    """Reads the results of one trial.

    Args:
        config: the trial's config.
        warn: logs a warning once.
        offset: returns the difference between the clock of `time_this_iter_s` and a monotonic one [s].
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        warn: Warn,
        offset: Callable[[], float] = lambda: time.time() - time.monotonic(),
    ) -> None:
        self._warn = warn
        self._offset = offset
        self._offset_before = offset()
        self._samples = samples_env(config)
        self._may_lack_steps = iterations_are_timed(config)
        self._lifetime = NAN
        self._failed = False

    def note_failure(self) -> None:
        """Note that an iteration failed: RLlib adds the env steps it had sampled to the next result."""
        self._failed = True

    def read(self, result: Mapping[str, Any]) -> tuple[float, float]:
        """Return the env steps and seconds of the iteration, NaN if unknown; warn once about the reason."""
        offset = self._offset()
        jump, self._offset_before = offset - self._offset_before, offset
        reading = read_iteration(result, self._lifetime)
        env_steps, seconds, self._lifetime = reading.env_steps, reading.seconds, read_number(result, "lifetime_steps")
        if not self._samples:
            # The old API stack counts the steps that it reads from recorded data as sampled.
            self._warn("result", "this algorithm learns from recorded data (offline): it samples no env steps, so there is no SPS")
            return NAN, seconds
        if self._failed:
            self._failed = False
            self._warn("failure", "an iteration failed; RLlib adds its env steps to the next one, whose SPS is NaN")
            return NAN, seconds
        if reading.problem:
            self._warn("result", reading.problem)
        elif env_steps == 0 and not self._may_lack_steps:
            self._warn("steps", "no env steps were sampled in an iteration: its SPS is NaN")
        if env_steps > 0:
            self._may_lack_steps = False  # only the first steps may be late
        if abs(jump) > max(_SMALLEST_JUMP_S, _SMALLEST_JUMP * seconds):
            self._warn("clock", f"the clock jumped by {jump:+.3g} s: the duration of this iteration is unknown, its SPS is NaN")
            return env_steps, NAN
        return env_steps, seconds
