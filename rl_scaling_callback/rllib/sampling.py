"""How long an env runner samples, and how much of that it spends on env steps, resets and inference, at negligible overhead.

RLlib enters about 15 timers per step. Timing all of them would cost about 1 % of the sampling time of a fast env. Instead, a random
sample of steps is timed and extrapolated. Gymnasium's vectorised envs reset a sub-env in the step after its episode ended. Such
steps take longer than others, so they are sampled and extrapolated separately.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Final

from rl_scaling_callback.rllib import configs, names

TIMED_EVERY_S: Final = 0.02
"""Mean sampling time between timed steps; if steps take longer, all of them are timed."""


class SamplingClock:
    """Wraps the `log_time` blocks of an env runner's `MetricsLogger`. RLlib's metrics don't change.

    A step here is a vector step of all envs of the env runner. A timed step lasts from the end of the previous step to the end of
    the last timer in `parts`.

    Args:
        metrics: the env runner's `MetricsLogger`.
        start: name of the timer at the start of a sample.
        parts: part by timer name, for the timers inside a step, in the order in which they run.
        num_envs: number of envs of the env runner, which step together.
        reset: name of the timer around a reset of all envs; None if there is none.
        weights: name of the timer around the wait for weights before a sample; if given, `take` also returns when samples begin
            and end.
        clock: returns the time in seconds.
        wall_clock: returns the time in seconds on a clock shared with the Algorithm's process.
        cpu_clock: returns the CPU seconds of the env runner's process.
        draw: `randrange` of a separate random generator, so that the generators seeded for training are not affected.

    Raises:
        AttributeError: the logger has no `log_time`.
    """

    def __init__(
        self,
        metrics: Any,
        *,
        start: str,
        parts: Mapping[str, str],
        num_envs: int,
        reset: str | None = None,
        weights: str | None = None,
        clock: Callable[[], float] = time.perf_counter,
        cpu_clock: Callable[[], float] = time.process_time,
        wall_clock: Callable[[], float] = time.time,
        draw: Callable[[int, int], int] | None = None,
    ) -> None:
        self._metrics = metrics
        self._log_time = metrics.log_time
        self._start = start
        self._parts = parts
        self._last = list(parts)[-1]
        self._reset = reset
        self._weights = weights
        self._waited = 0.0
        self._clock = clock
        self._wall_clock = wall_clock
        self._cpu_clock = cpu_clock
        self._cpu_before = cpu_clock()
        self._draw = draw or random.Random().randrange
        self._num_envs = num_envs
        self._started: float | None = None
        self._has_stepped = True
        # Mean number of steps between timed steps; env steps until the next one.
        self._stride = 1
        self._until_timed = 0
        # Since the parts were last returned.
        self._busy = 0.0
        self._env_steps = self._timed_steps = 0
        self._timed = dict.fromkeys(parts.values(), 0.0)
        self._step = dict(self._timed)
        # Mean number of resets between timed ones; resets until the next one; envs that the next step resets.
        self._reset_stride = 1
        self._until_timed_reset = 0
        self._due_resets = 0
        # Since the last sample ended.
        self._whole_resets_s = self._reset_steps_s = 0.0
        self._resets = self._timed_resets = self._timed_reset_steps = 0
        # Latest estimates [s].
        self._step_s = self._reset_s = 0.0
        self._listen()

    def resize(self, num_envs: int) -> None:
        """Follow the env runner to another number of envs."""
        self._num_envs = num_envs

    def count_env_step(self) -> None:
        """Count a step of one env."""
        self._env_steps += 1
        self._until_timed -= 1
        if self._until_timed == 0:
            self._listen()

    def count_episode_end(self) -> None:
        """Note that the next step resets an env."""
        self._due_resets += 1
        self._until_timed_reset -= 1
        if self._until_timed_reset <= 0:
            self._listen()

    def count_episode_start(self) -> None:
        """Count a step in which an env was reset."""
        if self._due_resets:  # else the reset of all envs, which is timed
            self._due_resets -= 1
            self._resets += 1
        self.count_env_step()

    def take(self) -> dict[str, float]:
        """Return the times of the sample that ends now [s].

        Returns:
            `busy`: the whole sample; `reset`: env resets in it; `cpu`: CPU time of the process since the last call; and, if any
            step was timed, each part, extrapolated to all steps since the parts were last returned. With a timer for weights also
            `weights`: the wait for them before the sample, and when it `began` and `ended`. Empty if the start of the sample was
            missed.
        """
        if self._started is None:
            return {}
        cpu = self._cpu_clock()
        seconds = {"busy": self._clock() - self._started, "cpu": cpu - self._cpu_before}
        if self._weights is not None:
            now = self._wall_clock()
            seconds.update(weights=self._waited, began=now - seconds["busy"], ended=now)
            self._waited = 0.0
        self._started = None
        self._cpu_before = cpu
        self._busy += seconds["busy"]
        steps = self._env_steps / self._num_envs
        if steps > 0 and self._timed_steps:
            seconds.update({part: timed / self._timed_steps * steps for part, timed in self._timed.items()})
            self._step_s = self._timed[self._parts[self._last]] / self._timed_steps
            self._stride = max(1, round(TIMED_EVERY_S * steps / self._busy))
            self._busy = 0.0
            self._env_steps = self._timed_steps = 0
            self._timed = dict.fromkeys(self._timed, 0.0)
        seconds["reset"] = self._take_resets(seconds["busy"])
        self._listen()
        return seconds

    def _take_resets(self, busy_s: float) -> float:
        if self._timed_resets:
            # What such a step takes beyond an ordinary one, per env that it resets.
            self._reset_s = max(0.0, self._reset_steps_s - self._timed_reset_steps * self._step_s) / self._timed_resets
        seconds = self._whole_resets_s + self._resets * self._reset_s
        self._reset_stride = max(1, round(TIMED_EVERY_S * self._resets / busy_s))
        self._whole_resets_s = self._reset_steps_s = 0.0
        self._resets = self._timed_resets = self._timed_reset_steps = 0
        return seconds

    def _listen(self) -> None:
        self._metrics.log_time = self._log_time_and_seconds

    def _rest(self) -> None:
        self._metrics.log_time = self._log_time

    def _is_due(self) -> bool:
        return self._until_timed <= 0 or (self._due_resets > 0 and self._until_timed_reset <= 0)

    def _log_time_and_seconds(self, key: Any, *args: Any, **kwargs: Any) -> Any:
        block = self._log_time(key, *args, **kwargs)
        name = key[-1] if isinstance(key, tuple) and key else key
        if name == self._start:
            self._started = self._clock()
            self._has_stepped = False
            return block
        if name == self._weights:
            return _Timed(block, self._wait, name, self._clock)
        if name == self._reset:
            return _Timed(block, self._reset_all, name, self._clock)
        if name not in self._parts:
            return block
        if not self._has_stepped:
            # From the start to here, all envs may have been reset.
            self._has_stepped = True
            if not self._is_due():
                self._rest()
                return block
        return _Timed(block, self._spend, name, self._clock)

    def _wait(self, _timer: str, seconds: float) -> None:
        self._waited += seconds

    def _reset_all(self, _timer: str, seconds: float) -> None:
        self._due_resets = 0
        if self._started is not None:
            self._whole_resets_s += seconds

    def _spend(self, timer: str, seconds: float) -> None:
        self._step[self._parts[timer]] += seconds
        if timer != self._last:
            return
        if self._due_resets:
            self._reset_steps_s += seconds
            self._timed_resets += self._due_resets
            self._timed_reset_steps += 1
            self._until_timed_reset = self._draw(1, 2 * self._reset_stride)
        else:
            for part, spent in self._step.items():
                self._timed[part] += spent
            self._timed_steps += 1
        if self._until_timed <= 0:
            # Random gaps avoid aliasing with work that an env does every few steps.
            self._until_timed = self._draw(1, 2 * self._stride) * self._num_envs
        self._step = dict.fromkeys(self._step, 0.0)
        self._rest()


def clock_of(env_runner: Any) -> SamplingClock:
    """Return a clock that times an env runner of the new API stack.

    Raises:
        AttributeError: the env runner has no timers.
    """
    return SamplingClock(
        env_runner.metrics,
        start=names.SAMPLE_TIMER,
        parts=names.STEP_TIMERS,
        num_envs=env_runner.num_envs,
        reset=names.RESET_TIMER,
        weights=names.WEIGHTS_TIMER if configs.is_asynchronous(vars(env_runner.config)) else None,
    )


class _Timed:
    """A `log_time` block that also reports its duration."""

    __slots__ = ("_block", "_clock", "_entered", "_spend", "_timer")

    def __init__(
        self, block: AbstractContextManager[Any], spend: Callable[[str, float], None], timer: str, clock: Callable[[], float]
    ) -> None:
        self._block = block
        self._spend = spend
        self._timer = timer
        self._clock = clock
        self._entered = 0.0

    def __enter__(self) -> Any:
        self._entered = self._clock()
        return self._block.__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> Any:
        self._spend(self._timer, self._clock() - self._entered)
        return self._block.__exit__(kind, error, trace)
