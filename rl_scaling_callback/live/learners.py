"""What learners do that work beside the env runners (IMPALA, APPO)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from rl_scaling_callback.core.formulas import NAN, ratio

_IDLE: Final = {"busy": 0.0, "waiting": 0.0}
"""A report leaves out the phases that did not run."""


class Learners:
    """Collects what the learners of a trial did in an iteration.

    Args:
        take: returns what the learner in this process did since the last call; None where learners are processes of their own,
            which report the same.
        num_learners: learners that report.
        dropped: tells how many env steps found no room at the learners so far.
    """

    def __init__(self, take: Callable[[], Mapping[str, float]] | None, num_learners: int, dropped: Callable[[], float]) -> None:
        self._take = take
        self._num_learners = num_learners
        self._dropped = dropped
        self._told: dict[str, float] = {}
        self.start()

    def start(self) -> None:
        """Start an iteration."""
        # Learners that have reported before and are silent now made no update: they report later.
        self._told = dict.fromkeys(self._told, 0.0)
        self._dropped_before = self._dropped()
        if self._take is not None:
            self._take()

    def add(self, told: Mapping[str, float]) -> None:
        """Take in what one learner did since it reported last."""
        for name, value in {**_IDLE, **told}.items():
            self._told[name] = self._told.get(name, 0.0) + value

    def read(self) -> dict[str, float]:
        """Return what the learners did since the start of the iteration.

        Returns:
            How long they were `busy` and `waiting` [s], the length of their `queue` [updates], means over learners, and the env
            steps that were `dropped`. NaN where not known.
        """
        told = self._told if self._take is None else {**_IDLE, **self._take()}
        # Learners in other processes report now and then: what an iteration has no report of, a later one has.
        overwritten = told.get("overwritten", NAN) if told else 0.0
        return {
            "busy": told.get("busy", NAN) / self._num_learners,
            "waiting": told.get("waiting", NAN) / self._num_learners,
            "queue": ratio(told.get("queued", NAN), told.get("watched", NAN)),
            "dropped": self._dropped() - self._dropped_before + overwritten,
        }
