"""How many cores a trial keeps busy, and how many other programs do, without reading a file for it.

RLlib samples how busy the machine is, and each process of a trial knows its own CPU time. What the trial did not take others took:
programs, env simulators that are processes of their own, and on a virtual machine whatever its host gives away (steal).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from rl_scaling_callback.core.formulas import NAN, ratio


class Load:
    """The cores of one machine during a trial.

    Args:
        cores: logical cores of the machine; NaN where what keeps them busy can't be told apart.
        num_env_runners: env runners that are processes of their own.
        cpu_s: CPU seconds of this process so far.
        clock: monotonic seconds.
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
        """Return the cores that this trial, and those that others, kept busy since the last look; NaN where it can't be told.

        Args:
            utilisation: of the machine's cores since then [%]. It is sampled, so the second figure may come out a little below 0.
            runners_cpu_s: CPU seconds of each env runner since then.
        """
        cpu_s, now = self._cpu_s(), self._clock()
        own = cpu_s - self._cpu_before
        elapsed = now - self._before
        self._cpu_before, self._before = cpu_s, now
        if self._num_env_runners:
            # One that did not report is not known to have done nothing.
            own += math.fsum(runners_cpu_s) if len(runners_cpu_s) == self._num_env_runners else NAN
        kept_busy = ratio(own, elapsed)
        busy = self._cores * utilisation / 100 if 0 <= utilisation <= 100 else NAN
        return kept_busy, busy - kept_busy
