"""Work of asynchronous learners (IMPALA, APPO)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from rl_scaling_callback.core.formulas import NAN

_IDLE: Final = {"busy": 0.0, "waiting": 0.0}
"""A report omits phases that did not run."""


class LearnersWork(NamedTuple):
    """The work of asynchronous learners in an iteration, means over the learners; NaN if unknown.

    Attributes:
        busy: time spent on updates [s].
        waiting: time spent waiting for batches [s].
        dropped: number of env steps dropped.
    """

    busy: float = NAN
    waiting: float = NAN
    dropped: float = NAN


class Learners:
    """Collects the work of a trial's learners during an iteration.

    Args:
        take: returns the work of the learner in this process since the last call; None if learners run in other processes, which
            report the same.
        num_learners: number of learners that report.
        dropped: returns the number of env steps dropped so far because the learners were full.
    """

    def __init__(self, take: Callable[[], Mapping[str, float]] | None, num_learners: int, dropped: Callable[[], float]) -> None:
        self._take = take
        self._num_learners = num_learners
        self._dropped = dropped
        self._reported: dict[str, float] = {}
        self.start()

    def start(self) -> None:
        """Start an iteration."""
        # A learner that has reported before and doesn't now made no update in this iteration; its next report covers the time.
        self._reported = dict.fromkeys(self._reported, 0.0)
        self._dropped_before = self._dropped()
        if self._take is not None:
            self._take()

    def add(self, report: Mapping[str, float]) -> None:
        """Add one learner's work since its last report."""
        for name, value in {**_IDLE, **report}.items():
            self._reported[name] = self._reported.get(name, 0.0) + value

    def read(self) -> LearnersWork:
        """Return the learners' work since the start of the iteration."""
        work = self._reported if self._take is None else {**_IDLE, **self._take()}
        return LearnersWork(
            work.get("busy", NAN) / self._num_learners,
            work.get("waiting", NAN) / self._num_learners,
            self._dropped() - self._dropped_before,
        )
