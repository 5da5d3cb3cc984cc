"""Exact, exclusive times of the phases of an iteration, measured in RLlib's own timer blocks.

RLlib's `timers/*` metrics are exponential averages and say little about a single iteration. But on the new API stack, every phase
of every algorithm runs inside `metrics.log_time(key)`. The clock here wraps those blocks and adds up their durations. RLlib's
metrics don't change.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
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
        self._records = records
        self._lock = threading.Lock()  # a learner's thread enters phases, the Algorithm's thread reads them
        self._thread: int | None = None
        self._running: list[str] = []
        self._beside: list[str] = []
        self._since = 0.0
        self._seconds: dict[str, float] = {}
        self._segments: list[Segment] = []

    def watch(self, metrics: Any) -> None:
        """Wrap the `log_time` blocks of a `MetricsLogger`.

        Raises:
            AttributeError: the logger has no `log_time`.
        """
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
