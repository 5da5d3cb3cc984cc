"""Exact, exclusive times of the phases of an iteration, measured in RLlib's own timer blocks.

RLlib's `timers/*` metrics are exponential averages and say little about a single iteration. But on the new API stack, every phase
of every algorithm runs inside `metrics.log_time(key)`. The clock here wraps those blocks and adds up their durations. RLlib's
metrics don't change.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Any, Final, NamedTuple

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
        background: phases that run in parallel to the others.
        before_leaving: functions to call at the end of a phase's blocks, as part of its time; used to wait for asynchronous work,
            such as on a GPU.
        clock: returns the time in seconds.
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
        self._lock = threading.Lock()  # a learner's thread enters phases, the Algorithm's thread reads them
        self._thread: int | None = None
        self._running: list[str] = []
        self._beside: list[str] = []
        self._since = 0.0
        self._seconds: dict[str, float] = {}
        self._segments: list[Segment] | None = [] if records else None

    def watch(self, metrics: Any) -> None:
        """Wrap the `log_time` blocks of a `MetricsLogger`.

        Raises:
            AttributeError: the logger has no `log_time`.
        """
        log_time = metrics.log_time

        def log_time_and_phase(key: Any, *args: Any, **kwargs: Any) -> Any:
            block = log_time(key, *args, **kwargs)
            phase = self._phases.get(key[-1] if isinstance(key, tuple) and key else key)
            return block if phase is None else _Block(block, self, phase)

        metrics.log_time = log_time_and_phase

    def take(self) -> dict[str, float]:
        """Return the seconds of each phase since the last call, and reset. Phases that did not run are missing."""
        with self._lock:
            self._book()
            seconds, self._seconds = self._seconds, {}
        return seconds

    def start(self) -> None:
        """Reset at the start of an iteration, so that a failed iteration before it doesn't count."""
        with self._lock:
            self._running.clear()
            self._beside.clear()
            self._seconds = {}
            self._record(OUTSIDE, self._clock())

    def cut(self) -> list[Segment]:
        """Return when each phase ran since the last call, without gaps; empty unless `records` is set."""
        with self._lock:
            self._book()
            segments = self._segments or []
            self._segments = None if self._segments is None else []
        return segments

    def enter(self, phase: str) -> bool:
        """Start a phase; return whether it counts. If it does, call `leave` at its end."""
        thread = threading.get_ident()
        with self._lock:
            if phase in self._background:
                self._book()
                self._beside.append(phase)
                return True
            if self._running and self._thread != thread:
                return False
            self._thread = thread
            self._book()
            self._running.append(phase)
        return True

    @contextmanager
    def block(self, phase: str) -> Iterator[None]:
        """Count the time of a `with` block for a phase."""
        counts = self.enter(phase)
        try:
            yield
        finally:
            if counts:
                self.leave(phase)

    def leave(self, phase: str) -> None:
        """End the innermost phase with this name."""
        running = self._beside if phase in self._background else self._running
        if phase not in running:
            return
        before = self._before_leaving.get(phase)
        if before is not None:
            before()
        with self._lock:
            self._book()
            del running[len(running) - 1 - running[::-1].index(phase) :]

    def _book(self) -> None:
        now = self._clock()
        phase = "other"
        if self._running or self._beside:
            phase = (self._running or self._beside)[-1]
            self._seconds[phase] = self._seconds.get(phase, 0.0) + now - self._since
        self._record(phase, now)

    def _record(self, phase: str, now: float) -> None:
        if self._segments is not None:
            self._segments.append(Segment(phase, self._since, now))
        self._since = now


class _Block:
    """A `log_time` block that also enters and leaves a phase."""

    __slots__ = ("_block", "_clock", "_counts", "_phase")

    def __init__(self, block: AbstractContextManager[Any], clock: PhaseClock, phase: str) -> None:
        self._block = block
        self._clock = clock
        self._phase = phase
        self._counts = False

    def __enter__(self) -> Any:
        self._counts = self._clock.enter(self._phase)
        return self._block.__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> Any:
        handled = self._block.__exit__(kind, error, trace)
        if self._counts:
            self._clock.leave(self._phase)
        return handled
