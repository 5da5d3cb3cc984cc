"""What an iteration spent its time on, and what collects it from the reports of env runners and learners."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from rl_scaling_callback.core.attribution import typical_and_longest
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.rllib.results import RunnerReport


class Spent(NamedTuple):
    """What an iteration spent its time on; NaN where unknown.

    Attributes:
        phases: exclusive seconds by phase; if phases overlap, means over the env runners (see `overlap`). None if unknown.
        exact: 1.0 if losses that follow from the phases are exact, 0.0 if phases overlap and the env runners' time is unknown.
        evaluation_s: time of the iteration spent on evaluation [s].
        connectors: part of the learn phase in the learner's connectors, such as for advantages and batches [s].
        reports: the summed report of each env runner that reported.
        busy: sampling time of the typical env runner [s] (see `TimeBreakdown`).
        longest: the same for the slowest env runner.
        reset: time in env resets, in the form of `TimeBreakdown.reset` [s].
        all_resets: the same for all env runners together.
        learner_busy: time that asynchronous learners spent on updates, mean over the learners [s].
        learner_waiting: the same for waiting for batches.
        dropped: number of env steps that asynchronous learners dropped.
    """

    phases: Mapping[str, float] | None = None
    exact: float = 1.0
    evaluation_s: float = 0.0
    connectors: float = NAN
    reports: tuple[RunnerReport, ...] = ()
    busy: float = NAN
    longest: float = NAN
    reset: float = 0.0
    all_resets: float = 0.0
    learner_busy: float = NAN
    learner_waiting: float = NAN
    dropped: float = NAN


class Rounds:
    """Collects the reports of env runners as the Algorithm's process merges their metrics, once per round or less often."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Discard all reports at the start of an iteration."""
        self._totals: dict[str, RunnerReport] = {}
        self._round: dict[str, RunnerReport] = {}
        self._busy = self._longest = self._reset = self._all_resets = 0.0

    def add(self, reports: Iterable[tuple[str, RunnerReport]]) -> None:
        """Add the reports of one merge. A second report of the same env runner starts a new round."""
        for runner, report in reports:
            if runner in self._round:
                self._end_round()
            self._round[runner] = report
            before = self._totals.get(runner)
            self._totals[runner] = report if before is None else before + report
        self._end_round()

    def read(self) -> Spent:
        """Return the work reported since the start of the iteration."""
        if not self._totals:
            return Spent()
        return Spent(
            reports=tuple(self._totals.values()),
            busy=self._busy,
            longest=self._longest,
            reset=self._reset,
            all_resets=self._all_resets,
        )

    def _end_round(self) -> None:
        if not self._round:
            return
        busy, longest = typical_and_longest([report.busy for report in self._round.values()])
        self._busy += busy
        self._longest += longest
        if resets := [report.reset for report in self._round.values() if report.reset == report.reset]:
            self._reset += max(resets)
            self._all_resets += sum(resets)
        self._round = {}


class Learners:
    """Collects the reports of asynchronous learners (IMPALA, APPO) in an iteration: seconds by phase.

    Args:
        num_learners: number of learners that report.
    """

    def __init__(self, num_learners: int) -> None:
        self._num_learners = num_learners
        self._reported: dict[str, float] = {}

    def start(self) -> None:
        """Start an iteration."""
        # A learner that has reported before and doesn't now made no update in this iteration; its next report covers the time.
        self._reported = dict.fromkeys(self._reported, 0.0)

    def add(self, report: Mapping[str, float]) -> None:
        """Add one learner's work since its last report, without phases that did not run."""
        for name, value in {"busy": 0.0, "waiting": 0.0, **report}.items():
            self._reported[name] = self._reported.get(name, 0.0) + value

    def read(self) -> dict[str, float]:
        """Return the means of what was reported since the start of the iteration."""
        return {name: value / self._num_learners for name, value in self._reported.items()}
