"""What learners do that work beside the env runners (IMPALA, APPO)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.live.phases import PhaseClock


class Learners:
    """Collects what the learners of a trial did in an iteration.

    Args:
        clock: clock of the learner in this process; None where learners are processes of their own, which report.
        num_learners: learners that report.
        dropped: tells how many env steps found no room at the learners so far.
    """

    def __init__(self, clock: PhaseClock | None, num_learners: int, dropped: Callable[[], float]) -> None:
        self._clock = clock
        self._num_learners = num_learners
        self._dropped = dropped
        self._told: dict[str, float] = {}
        self.start()

    def start(self) -> None:
        """Start an iteration."""
        self._told = {}
        self._dropped_before = self._dropped()
        if self._clock is not None:
            self._clock.take()

    def add(self, told: Mapping[str, float]) -> None:
        """Take in what one learner did since it reported last, seconds by phase."""
        for phase, seconds in told.items():
            self._told[phase] = self._told.get(phase, 0.0) + seconds / self._num_learners

    def read(self) -> dict[str, float]:
        """Return how long the learners were `busy` and `waiting` since the start of the iteration [s], and the steps `dropped`."""
        told = self._told if self._clock is None else {"busy": 0.0, "waiting": 0.0, **self._clock.take()}
        return {
            "busy": told.get("busy", NAN),
            "waiting": told.get("waiting", NAN),
            "dropped": self._dropped() - self._dropped_before,
        }
