"""Collects the reports of env runners in an iteration, round by round."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from rl_scaling_callback.core.attribution import typical_and_longest
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.rllib.results import RunnerReport


class RunnersWork(NamedTuple):
    """The work of the env runners in an iteration.

    Attributes:
        reports: the summed reports of each env runner.
        busy: sampling time of the typical env runner [s] (see `TimeBreakdown`); NaN if none reported.
        longest: the same for the slowest env runner.
        phases: the phases of the iteration from the env runners' point of view (see `overlap`); None if phases are sequential.
        reset: time in env resets, in the form of `TimeBreakdown.reset` [s].
        all_resets: the same for all env runners together.
    """

    reports: tuple[RunnerReport, ...] = ()
    busy: float = NAN
    longest: float = NAN
    phases: Mapping[str, float] | None = None
    reset: float = 0.0
    all_resets: float = 0.0


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

    def read(self) -> RunnersWork:
        """Return the work reported since the start of the iteration."""
        if not self._totals:
            return RunnersWork()
        return RunnersWork(tuple(self._totals.values()), self._busy, self._longest, None, self._reset, self._all_resets)

    def _end_round(self) -> None:
        if self._round:
            busy, longest = typical_and_longest([report.busy for report in self._round.values()])
            self._busy += busy
            self._longest += longest
            resets = [report.reset for report in self._round.values() if report.reset == report.reset]
            if resets:
                self._reset += max(resets)
                self._all_resets += sum(resets)
            self._round = {}
