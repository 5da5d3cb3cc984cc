"""Clocks of the phases of an iteration, inside RLlib's own timer blocks, and of an env runner's sampling, also around `env.step`.

RLlib's `timers/*` metrics are exponential averages and say little about a single iteration. But on the new API stack, every phase
of every algorithm runs inside `metrics.log_time(key)`. The clocks here wrap those blocks; RLlib's metrics don't change.
"""

from __future__ import annotations

import inspect
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Final, NamedTuple

from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.rllib.configs import is_asynchronous
from rl_scaling_callback.rllib.names import SAMPLE_TIMER, WEIGHTS_TIMER

OUTSIDE: Final = "outside"
"""The phase of a segment between two iterations."""


class Segment(NamedTuple):
    """A time span [s] in one phase; "other" if none ran."""

    phase: str
    start: float
    end: float


class PhaseClock:
    """Adds up the time in each phase. The time of nested phases counts for the innermost one.

    While a phase runs, blocks entered by other threads are ignored, because they run in parallel. Background phases count only
    while no other phase runs in any thread, since only then do they delay the iteration.

    Args:
        phases: phase by timer name; other timers count for the block around them.
        before_leaving: functions to call at the end of a phase's blocks, as part of its time, to wait for work on a GPU.
        background: phases that run in parallel to the others.
        clock: returns the time [s].
        records: whether to record when each phase ran, for `cut`.
    """

    def __init__(
        self,
        phases: Mapping[str, str],
        before_leaving: Mapping[str, Callable[[], None]] | None = None,
        *,
        background: Collection[str] = (),
        clock: Callable[[], float] = time.perf_counter,
        records: bool = False,
    ) -> None:
        self._phases = phases
        self._background = background
        self._before_leaving = before_leaving or {}
        self._clock = clock
        self._records = records
        self._lock = threading.Lock()  # a learner's thread enters phases, the Algorithm's thread reads them
        self._thread: int | None = None
        self._running: list[str] = []
        self._beside: list[str] = []
        self._since = 0.0
        self._seconds: dict[str, float] = {}
        self._segments: list[Segment] = []

    def watch(self, metrics: Any) -> None:
        """Wrap the `log_time` blocks of a `MetricsLogger`."""
        log_time = metrics.log_time

        def log_time_and_phase(key: Any, *args: Any, **kwargs: Any) -> Any:
            block = log_time(key, *args, **kwargs)
            phase = self._phases.get(key[-1] if isinstance(key, tuple) and key else key)
            return block if phase is None else self.block(phase, block)

        metrics.log_time = log_time_and_phase

    def take(self) -> dict[str, float]:
        """Return the seconds of each phase since the last call, and reset. Phases that did not run are missing."""
        with self._lock:
            self._book()
            seconds, self._seconds = self._seconds, {}
        return seconds

    def cut(self) -> list[Segment]:
        """Return when each phase ran since the last call, without gaps; empty unless `records` is set."""
        with self._lock:
            self._book()
            segments, self._segments = self._segments, []
        return segments

    def start(self) -> None:
        """Reset at the start of an iteration, so that a failed iteration before it doesn't count."""
        with self._lock:
            self._running.clear()
            self._beside.clear()
            self._seconds = {}
            self._record(OUTSIDE)

    def enter(self, phase: str) -> bool:
        """Start a phase; return whether it counts. If it does, call `leave` at its end."""
        thread = threading.get_ident()
        with self._lock:
            is_background = phase in self._background
            if not is_background and self._running and self._thread != thread:
                return False
            self._book()
            if is_background:
                self._beside.append(phase)
            else:
                self._thread = thread
                self._running.append(phase)
        return True

    def leave(self, phase: str) -> None:
        """End the innermost phase with this name."""
        running = self._beside if phase in self._background else self._running
        if phase not in running:
            return
        if phase in self._before_leaving:
            self._before_leaving[phase]()
        with self._lock:
            self._book()
            del running[len(running) - 1 - running[::-1].index(phase) :]

    @contextmanager
    def block(self, phase: str, inner: AbstractContextManager[Any] | None = None) -> Iterator[Any]:
        """Count the time of a `with` block for a phase, which includes entering and leaving the block `inner`."""
        counts = self.enter(phase)
        try:
            with inner or nullcontext() as entered:
                yield entered
        finally:
            if counts:
                self.leave(phase)

    def _book(self) -> None:
        phases = self._running or self._beside
        seconds = self._record(phases[-1] if phases else "other")
        if phases:
            self._seconds[phases[-1]] = self._seconds.get(phases[-1], 0.0) + seconds

    def _record(self, phase: str) -> float:
        """End the current segment, and return its seconds."""
        start, self._since = self._since, self._clock()
        if self._records:
            self._segments.append(Segment(phase, start, self._since))
        return self._since - start


def method_of(holder: Any, name: str) -> Callable[..., Any]:
    """Return a method of an object: the class's, or what others have set on the instance. It doesn't keep the object alive.

    So the method can be replaced on the object without a reference cycle.
    """
    method: Callable[..., Any] = getattr(holder, name)
    if not inspect.ismethod(method) or method.__self__ is not holder:
        return method
    function, reference = method.__func__, weakref.ref(holder)
    return lambda *args, **kwargs: function(reference(), *args, **kwargs)


_ENOUGH_STEPS: Final = 100


class SamplingClock:
    """Times how long an env runner of the new API stack samples, and how much of that are env steps and resets.

    A step here is a vector step of all envs of the env runner. Gymnasium's vectorised envs reset sub-envs in the step after their
    episodes ended, so that it takes t = a + b·k with k resets. Least squares, over 100 steps if samples are shorter, find b, what a
    reset takes beyond a step.

    Raises:
        AttributeError: the env runner has no timers.
    """

    def __init__(
        self,
        env_runner: Any,
        *,
        clock: Callable[[], float] = time.perf_counter,
        cpu_clock: Callable[[], float] = time.process_time,
    ) -> None:
        self._metrics = env_runner.metrics
        self._log_time = self._metrics.log_time
        self._awaits_weights = is_asynchronous(vars(env_runner.config))
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._cpu_before = cpu_clock()
        self._waited = 0.0
        self._ended = 0  # episodes whose envs the next step resets
        self._reset_s = 0.0  # b
        self._sums = [0.0] * 5  # of 1, k, t, k² and k·t
        self._start_over(None)

    def watch(self, env: Any) -> None:
        """Time the steps and resets of the env runner's env, which may be made anew."""
        step, reset = method_of(env, "step"), method_of(env, "reset")

        def timed_step(*args: Any, **kwargs: Any) -> Any:
            began = self._clock()
            results = step(*args, **kwargs)
            self._count_step(self._clock() - began)
            return results

        def timed_reset(*args: Any, **kwargs: Any) -> Any:
            self._ended, began = 0, self._clock()
            results = reset(*args, **kwargs)
            self._resets_s += self._clock() - began
            return results

        env.step, env.reset = timed_step, timed_reset

    def count_episode_end(self) -> None:
        """Note that the next step resets an env."""
        self._ended += 1

    def take(self) -> dict[str, float]:
        """Return the times of the sample that ends now [s].

        Returns:
            `busy`: the whole sample; `env_step` and `reset`: parts of it; `cpu`: CPU time of the process since the last call. If
            the env runner awaits weights (APPO, IMPALA) also `weights`: the wait for them before the sample, and when it `began`
            and `ended`, on a clock shared with the Algorithm's process. Empty if the start of the sample was missed.
        """
        if self._started is None:
            return {}
        n, k, t, kk, kt = self._sums
        if (spread := n * kk - k * k) > 0:
            self._reset_s = max(0.0, (n * kt - k * t) / spread)
        if n >= _ENOUGH_STEPS:
            self._sums = [0.0] * 5
        resets_s, cpu = min(self._steps_s, self._reset_s * self._resets), self._cpu_clock()
        seconds = {
            "busy": self._clock() - self._started,
            "cpu": cpu - self._cpu_before,
            "env_step": self._steps_s - resets_s if self._steps else NAN,  # if its env can't be watched
            "reset": self._resets_s + resets_s,
        }
        if self._awaits_weights:
            now = time.time()
            seconds.update(weights=self._waited, began=now - seconds["busy"], ended=now)
        self._cpu_before, self._waited = cpu, 0.0
        self._start_over(None)
        return seconds

    def _start_over(self, started: float | None) -> None:
        """Begin a sample, or to wait for one if `started` is None."""
        self._started = started
        self._steps = self._resets = 0
        self._steps_s = self._resets_s = 0.0
        # RLlib enters about 15 timers per step: none is wrapped while it samples.
        self._metrics.log_time = self._log_time_and_seconds if started is None else self._log_time

    def _count_step(self, seconds: float) -> None:
        k, self._ended = self._ended, 0
        self._steps += 1
        self._resets += k
        self._steps_s += seconds
        self._sums = [total + each for total, each in zip(self._sums, (1, k, seconds, k * k, k * seconds), strict=True)]

    def _log_time_and_seconds(self, key: Any, *args: Any, **kwargs: Any) -> Any:
        block = self._log_time(key, *args, **kwargs)
        name = key[-1] if isinstance(key, tuple) and key else key
        return self._timed_block(block, name) if name in (SAMPLE_TIMER, WEIGHTS_TIMER) else block

    @contextmanager
    def _timed_block(self, block: AbstractContextManager[Any], timer: str) -> Iterator[Any]:
        began = self._clock()
        if timer == SAMPLE_TIMER:
            self._start_over(began)
        with block as stats:
            try:
                yield stats
            finally:
                if timer == SAMPLE_TIMER:  # also if it failed
                    self._start_over(None)
                else:
                    self._waited += self._clock() - began


class SampleTiming:
    """What a callback adds to time the samples of an env runner. RLlib calls it in the env runner's process."""

    _sampling: SamplingClock | None = None

    def _time_samples(self, env_runner: Any) -> None:
        self._sampling = self._sampling or SamplingClock(env_runner)
        self._sampling.watch(env_runner.env)

    def on_episode_end(self, **kwargs: Any) -> None:
        """Note that the next step resets an env."""
        if self._sampling is not None:
            self._sampling.count_episode_end()
