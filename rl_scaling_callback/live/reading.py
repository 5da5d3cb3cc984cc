"""Reads the env steps and duration of each iteration, and how many cores it used; warns about what can't be trusted."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from rl_scaling_callback.core.formulas import NAN, ratio
from rl_scaling_callback.core.warn import Warn
from rl_scaling_callback.rllib.configs import iterations_are_timed, samples_env
from rl_scaling_callback.rllib.results import read_iteration, read_number

_MIN_JUMP_S: Final = 0.01
_MIN_JUMP: Final = 0.01


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
        if abs(jump) > max(_MIN_JUMP_S, _MIN_JUMP * seconds):
            self._warn("clock", f"the clock jumped by {jump:+.3g} s: the duration of this iteration is unknown, its SPS is NaN")
            return env_steps, NAN
        return env_steps, seconds


class Load:
    """Core usage of one machine during a trial, without reading any files.

    RLlib samples the machine's utilisation, and each process of a trial knows its own CPU time. The difference is used by others:
    other programs, env simulators in separate processes and, on a virtual machine, its host (steal time).

    Args:
        cores: logical cores of the machine; NaN if the trial's share can't be separated from that of others.
        num_env_runners: number of env runners in separate processes.
        cpu_s: returns the CPU time of this process so far [s].
        clock: returns monotonic time [s].
    """

    def __init__(
        self,
        cores: float,
        num_env_runners: int,
        cpu_s: Callable[[], float] = time.process_time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cores = cores
        self._num_env_runners = num_env_runners
        self._cpu_s = cpu_s
        self._clock = clock
        self._cpu_before, self._before = cpu_s(), clock()

    def read(self, utilisation: float, runners_cpu_s: Sequence[float]) -> tuple[float, float]:
        """Return the cores used by this trial, and those used by others, since the last call; NaN if unknown.

        Args:
            utilisation: mean utilisation of the machine's cores since then [%]. It is sampled, so the second value may be slightly
                negative.
            runners_cpu_s: CPU seconds of each env runner since then.
        """
        cpu_s, now = self._cpu_s(), self._clock()
        own_cpu_s, elapsed = cpu_s - self._cpu_before, now - self._before
        self._cpu_before, self._before = cpu_s, now
        if self._num_env_runners:
            # An env runner without a report may still have used CPU time.
            own_cpu_s += math.fsum(runners_cpu_s) if len(runners_cpu_s) == self._num_env_runners else NAN
        own = ratio(own_cpu_s, elapsed)
        all_used = self._cores * utilisation / 100 if 0 <= utilisation <= 100 else NAN
        return own, all_used - own
