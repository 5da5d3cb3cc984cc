"""How long an env runner samples, and how much of that it spends on env steps, resets and inference, at negligible overhead.

RLlib enters about 15 timers per step. Timing all of them would cost about 1 % of the sampling time of a fast env. Instead, a random
sample of steps is timed and extrapolated. Gymnasium's vectorised envs reset a sub-env in the step after its episode ended. Such
steps take longer than others, so all of them are timed, and what they take beyond an ordinary step counts as reset.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

from rl_scaling_callback.rllib.configs import is_asynchronous
from rl_scaling_callback.rllib.names import RESET_TIMER, SAMPLE_TIMER, STEP_TIMERS, WEIGHTS_TIMER

TIMED_EVERY_S: Final = 0.02
"""Mean sampling time between timed steps; if steps take longer, all of them are timed."""
_LAST_TIMER: Final = list(STEP_TIMERS)[-1]
_TIMERS: Final = frozenset({*STEP_TIMERS, RESET_TIMER, WEIGHTS_TIMER})


class SamplingClock:
    """Wraps the `log_time` blocks of the `MetricsLogger` of an env runner of the new API stack. RLlib's metrics don't change.

    A step here is a vector step of all envs of the env runner. A timed step lasts from the end of the previous step to the end of
    the last timer in it.

    Args:
        env_runner: the env runner.
        clock: returns the time in seconds.
        cpu_clock: returns the CPU seconds of the env runner's process.
        draw: `randrange` of a separate random generator, so that the generators seeded for training are not affected.

    Attributes:
        num_envs: number of envs, which step together; it may change between samples.

    Raises:
        AttributeError: the env runner has no timers.
    """

    def __init__(
        self,
        env_runner: Any,
        *,
        clock: Callable[[], float] = time.perf_counter,
        cpu_clock: Callable[[], float] = time.process_time,
        draw: Callable[[int, int], int] | None = None,
    ) -> None:
        self.num_envs: int = env_runner.num_envs
        self._metrics = env_runner.metrics
        self._log_time = self._metrics.log_time
        self._awaits_weights = is_asynchronous(vars(env_runner.config))
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._cpu_before = cpu_clock()
        self._draw = draw or random.Random().randrange
        # The current sample.
        self._started: float | None = None
        self._has_stepped = True
        self._waited = self._resets_s = self._reset_steps_s = 0.0
        self._reset_steps = 0
        self._resets = False  # whether the next step resets an env
        # Mean number of steps between timed steps; env steps until the next one.
        self._stride = 1
        self._until_timed = 0
        # Since the parts were last returned; the latest estimate of a step [s].
        self._busy = 0.0
        self._env_steps = self._timed_steps = 0
        self._timed = dict.fromkeys(STEP_TIMERS.values(), 0.0)
        self._step_s = 0.0
        self._listen()

    def count_env_step(self) -> None:
        """Count a step or reset of one env."""
        self._env_steps += 1
        self._until_timed -= 1
        if self._until_timed == 0:
            self._listen()

    def count_episode_end(self) -> None:
        """Note that the next step resets an env."""
        self._resets = True
        self._listen()

    def take(self) -> dict[str, float]:
        """Return the times of the sample that ends now [s].

        Returns:
            `busy`: the whole sample; `reset`: env resets in it; `cpu`: CPU time of the process since the last call; and, if any
            step was timed, each part, extrapolated to all steps since the parts were last returned. If the env runner awaits
            weights (APPO, IMPALA) also `weights`: the wait for them before the sample, and when it `began` and `ended`, on a clock
            shared with the Algorithm's process. Empty if the start of the sample was missed.
        """
        if self._started is None:
            return {}
        cpu = self._cpu_clock()
        seconds = {"busy": self._clock() - self._started, "cpu": cpu - self._cpu_before}
        if self._awaits_weights:
            now = time.time()
            seconds.update(weights=self._waited, began=now - seconds["busy"], ended=now)
        self._started = None
        self._cpu_before = cpu
        self._busy += seconds["busy"]
        steps = self._env_steps / self.num_envs
        if steps > 0 and self._timed_steps:
            seconds.update({part: timed / self._timed_steps * steps for part, timed in self._timed.items()})
            self._step_s = self._timed[STEP_TIMERS[_LAST_TIMER]] / self._timed_steps
            self._stride = max(1, round(TIMED_EVERY_S * steps / self._busy))
            self._busy = 0.0
            self._env_steps = self._timed_steps = 0
            self._timed = dict.fromkeys(self._timed, 0.0)
        seconds["reset"] = self._resets_s + max(0.0, self._reset_steps_s - self._reset_steps * self._step_s)
        self._waited = self._resets_s = self._reset_steps_s = 0.0
        self._reset_steps = 0
        self._listen()
        return seconds

    def _listen(self) -> None:
        self._metrics.log_time = self._log_time_and_seconds

    def _log_time_and_seconds(self, key: Any, *args: Any, **kwargs: Any) -> Any:
        block = self._log_time(key, *args, **kwargs)
        name = key[-1] if isinstance(key, tuple) and key else key
        if name == SAMPLE_TIMER:
            self._started = self._clock()
            self._has_stepped = False
        elif name in _TIMERS:
            if name in STEP_TIMERS and not self._has_stepped:
                # From the start to here, all envs may have been reset.
                self._has_stepped = True
                if self._until_timed > 0 and not self._resets:
                    self._metrics.log_time = self._log_time
                    return block
            return self._timed_block(block, name)
        return block

    @contextmanager
    def _timed_block(self, block: AbstractContextManager[Any], timer: str) -> Iterator[Any]:
        entered = self._clock()
        with block as stats:
            try:
                yield stats
            finally:
                self._spend(timer, self._clock() - entered)

    def _spend(self, timer: str, seconds: float) -> None:
        if timer == WEIGHTS_TIMER:
            self._waited += seconds
            return
        if timer == RESET_TIMER:
            self._resets = False
            self._resets_s += seconds if self._started is not None else 0.0
            return
        if not self._resets:
            self._timed[STEP_TIMERS[timer]] += seconds
        if timer != _LAST_TIMER:
            return
        if self._resets:
            self._resets = False
            self._reset_steps_s += seconds
            self._reset_steps += 1
        else:
            self._timed_steps += 1
        if self._until_timed <= 0:
            # Random gaps avoid aliasing with work that an env does every few steps.
            self._until_timed = self._draw(1, 2 * self._stride) * self.num_envs
        self._metrics.log_time = self._log_time


class SampleTiming:
    """What a callback adds to time the samples of an env runner. RLlib calls it in the env runner's process."""

    _sampling: SamplingClock | None = None

    def on_episode_step(self, **kwargs: Any) -> None:
        """Count a step of one of the env runner's envs."""
        if self._sampling is not None:
            self._sampling.count_env_step()

    on_episode_start = on_episode_step  # the step in which an env is reset

    def on_episode_end(self, **kwargs: Any) -> None:
        """Note that the next step resets an env."""
        if self._sampling is not None:
            self._sampling.count_episode_end()
