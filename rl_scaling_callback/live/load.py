"""Measures how many cores a trial uses and how many other programs use, without reading any files.

RLlib samples the machine's utilisation, and each process of a trial knows its own CPU time. The difference is used by others: other
programs, env simulators in separate processes and, on a virtual machine, its host (steal time).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from rl_scaling_callback.core.formulas import NAN, ratio


class Load:
    """Core usage of one machine during a trial.

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

    def look(self, utilisation: float, runners_cpu_s: Sequence[float]) -> tuple[float, float]:
        """Return the cores used by this trial, and those used by others, since the last call; NaN if unknown.

        Args:
            utilisation: mean utilisation of the machine's cores since then [%]. It is sampled, so the second value may be slightly
                negative.
            runners_cpu_s: CPU seconds of each env runner since then.
        """
        cpu_s, now = self._cpu_s(), self._clock()
        own = cpu_s - self._cpu_before
        elapsed = now - self._before
        self._cpu_before, self._before = cpu_s, now
        if self._num_env_runners:
            # An env runner without a report may still have used CPU time.
            own += math.fsum(runners_cpu_s) if len(runners_cpu_s) == self._num_env_runners else NAN
        kept_busy = ratio(own, elapsed)
        busy = self._cores * utilisation / 100 if 0 <= utilisation <= 100 else NAN
        return kept_busy, busy - kept_busy
