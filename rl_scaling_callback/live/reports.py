"""What an iteration spent its time on, as env runners and learners report it."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median_low
from typing import NamedTuple

from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.rllib.clocks import OUTSIDE, PhaseClock, Segment
from rl_scaling_callback.rllib.results import RunnerReport

_MAX_OUTSIDE = 4
_MAX_CLOCK_DIFFERENCE_S = 60.0


class Spent(NamedTuple):
    """What an iteration spent its time on; NaN where unknown.

    Attributes:
        phases: exclusive seconds by phase; if phases overlap, means over the env runners. None if unknown.
        exact: 1.0 if losses that follow from the phases are exact, 0.0 if phases overlap and the env runners' time is unknown.
        evaluation_s: time of the iteration spent on evaluation [s].
        connectors: part of the learn phase in the learner's connectors, such as for advantages and batches [s].
        reports: the summed report of each env runner that reported.
        busy, longest, reset, all_resets: the env runners' sampling times and resets, as in `TimeBreakdown` [s].
        learner_busy, learner_waiting: time of asynchronous learners on updates, and waiting for batches, mean over learners [s].
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
        reports = tuple(self._totals.values())
        return Spent(reports=reports, busy=self._busy, longest=self._longest, reset=self._reset, all_resets=self._all_resets)

    def _end_round(self) -> None:
        if not self._round:
            return
        busy = [report.busy for report in self._round.values()]
        self._busy += median_low(busy)
        self._longest += max(busy)
        if resets := [report.reset for report in self._round.values() if report.reset == report.reset]:
            self._reset += max(resets)
            self._all_resets += sum(resets)
        self._round = {}


class Learners:
    """Collects the reports of so many asynchronous learners (IMPALA, APPO) in an iteration: seconds by phase."""

    def __init__(self, num_learners: int) -> None:
        self._num_learners = num_learners
        self.busy = self.waiting = NAN

    def start(self) -> None:
        """Start an iteration."""
        if self.busy == self.busy:  # learners that have reported and don't now made no update; their next report covers the time
            self.busy = self.waiting = 0.0

    def add(self, report: Mapping[str, float]) -> None:
        """Add one learner's work since its last report, without phases that did not run."""
        if self.busy != self.busy:
            self.busy = self.waiting = 0.0
        self.busy += report.get("busy", 0.0) / self._num_learners
        self.waiting += report.get("waiting", 0.0) / self._num_learners


@dataclass(slots=True)
class _Runner:
    """One env runner: its last reported sample, what the Algorithm's process did before and after it, and the iteration's sums."""

    ended: float
    fetched: float
    before: list[Segment]
    after: list[Segment]
    samples: int = 0
    busy: float = 0.0
    total: RunnerReport | None = None


class OverlappingRunners:
    """Collects the reports of env runners that sample in parallel to the learner (IMPALA, APPO), as their results are fetched.

    Sampling, learning and the rest overlap in these algorithms, so the phases of the Algorithm's process don't show what delays
    sampling. Each of the r env runners has T seconds per iteration, in which it either samples or waits. Each wait is blamed on its
    cause (Tallent and Mellor-Crummey, PPoPP 2009). It lasts from the end of one sample to the start of the next, and consists of:

    - the result is pickled and sent: transfer;
    - the result is ready until the Algorithm's process polls for results again: the phase of that process in the meantime, which is
      `learn` while the learner accepts no more batches;
    - the next request waits for that process to send it: likewise;
    - the request is sent: transfer;
    - the env runner fetches weights: sync.

    If a poll finds no result, it was not ready yet, so the wait up to the last such poll is transfer. What the process did between
    that poll and the one that found the result is known exactly. The result is assumed to have been ready since the sample ended,
    which underestimates transfer by at most the time between the two polls. Timestamps from other hosts are only as accurate as
    clock synchronisation.

    Averaged over the env runners, these times are phases like those of other algorithms: exclusive, and adding up to the iteration.
    So the loss attribution is exact. Time that no report covers, such as a sample cut off by the end of an iteration, counts as
    `other`; it cancels over several iterations.

    Args:
        clock: phase clock of that process; it must record, and run on `time.time`.
        num_env_runners: number of the trial's env runners, at least 1.
    """

    def __init__(self, clock: PhaseClock, num_env_runners: int) -> None:
        self._clock = clock
        self._num_env_runners = num_env_runners
        self._runners: dict[str, _Runner] = {}
        self._cycle: list[Segment] = []  # between two polls for results; empty until the second poll
        self._outside: deque[Segment] = deque(maxlen=_MAX_OUTSIDE)
        self.start()

    def start(self) -> None:
        """Start an iteration."""
        self._waits: defaultdict[str, float] = defaultdict(float)
        for runner in self._runners.values():
            runner.samples, runner.busy, runner.total = 0, 0.0, None

    def add(self, reports: Iterable[tuple[str, RunnerReport]]) -> None:
        """Add the reports of the samples fetched in this poll, by env runner; empty if there were no results."""
        cycle, self._cycle = self._cycle, []
        cycle += self._clock.cut()
        self._outside.extend(segment for segment in cycle if segment.phase == OUTSIDE)
        now = cycle[-1].end if cycle else 0.0
        for name, report in reports:
            # If two samples were reported as one, RLlib added up their timestamps: skip them.
            if not report.began <= report.ended <= now + _MAX_CLOCK_DIFFERENCE_S:
                continue
            runner = self._runners.get(name)
            if runner is None:
                runner = self._runners[name] = _Runner(report.ended, now, cycle, self._cycle)
            else:
                self._blame(runner, report)
                runner.ended, runner.fetched, runner.before, runner.after = report.ended, now, cycle, self._cycle
            runner.samples += 1
            runner.busy += self._inside(report.began, report.ended)
            runner.total = report if runner.total is None else runner.total + report

    def read(self) -> Spent:
        """Return the work reported since the start of the iteration, with the env runners' phases; without reports, neither."""
        active = [runner for runner in self._runners.values() if runner.samples]
        if not active:
            return Spent(exact=0.0)
        samples = sum(runner.samples for runner in active)
        mean = sum(runner.busy for runner in active) / self._num_env_runners
        typical = median_low([runner.busy / runner.samples for runner in active]) * samples / self._num_env_runners
        phases = {phase: seconds / self._num_env_runners for phase, seconds in self._waits.items()}
        phases["sample"] = phases.get("sample", 0.0) + mean
        reports = tuple(runner.total for runner in active if runner.total)
        return Spent(phases, reports=reports, busy=typical, longest=mean)

    def _blame(self, runner: _Runner, report: RunnerReport) -> None:
        """Attribute the wait of an env runner between its previous sample and this one."""
        weights = min(max(0.0, report.weights), max(0.0, report.began - runner.ended)) if report.weights > 0 else 0.0
        until = report.began - weights
        # Clocks of two hosts may differ by more than a wait takes: the rest is negative then, but the sum is right.
        rest = self._inside(runner.ended, until)
        held = (*_during(runner.before, runner.ended, min(until, runner.fetched)), *_during(runner.after, runner.fetched, until))
        for phase, seconds in held:
            if phase != OUTSIDE:
                self._waits[phase] += seconds
                rest -= seconds
        self._waits["sample"] += rest
        self._waits["sync"] += weights

    def _inside(self, start: float, end: float) -> float:
        """Return how much of this time span lies within iterations."""
        return end - start - sum(seconds for _, seconds in _during(self._outside, start, end))


def _during(segments: Iterable[Segment], start: float, end: float) -> Iterator[tuple[str, float]]:
    """Yield the phases between two times, and their seconds."""
    for segment in segments:
        seconds = min(end, segment.end) - max(start, segment.start)
        if seconds > 0:
            yield segment.phase, seconds
