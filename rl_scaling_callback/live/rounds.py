"""What the env runners reported in an iteration, round by round."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from rl_scaling_callback.core.attribution import typical_and_longest
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.rllib import RunnerReport


class RunnersWork(NamedTuple):
    """What the env runners did in an iteration.

    Attributes:
        reports: the sum of what each env runner reported.
        busy: sampling of the typical env runner [s], NaN where none reported (see `Spent`).
        longest: the same of the slowest.
        phases: the phases of the iteration as the env runners spent it (see `overlap`); None where they follow one another.
    """

    reports: tuple[RunnerReport, ...] = ()
    busy: float = NAN
    longest: float = NAN
    phases: Mapping[str, float] | None = None


class Rounds:
    """Collects what env runners report when the Algorithm's process merges their metrics, once a round or less often."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Forget what was reported, at the beginning of an iteration."""
        self._totals: dict[str, RunnerReport] = {}
        self._round: dict[str, float] = {}
        self._busy = self._longest = 0.0

    def add(self, reports: Iterable[tuple[str, RunnerReport]]) -> None:
        """Take in what was merged at once, by env runner. One that reports for a second time begins a new round."""
        for runner, report in reports:
            if runner in self._round:
                self._end_round()
            self._round[runner] = report.busy
            before = self._totals.get(runner)
            self._totals[runner] = report if before is None else before + report
        self._end_round()

    def read(self) -> RunnersWork:
        """Return what was reported since the start of the iteration."""
        if not self._totals:
            return RunnersWork()
        return RunnersWork(tuple(self._totals.values()), self._busy, self._longest)

    def _end_round(self) -> None:
        if self._round:
            busy, longest = typical_and_longest(list(self._round.values()))
            self._busy += busy
            self._longest += longest
            self._round = {}
