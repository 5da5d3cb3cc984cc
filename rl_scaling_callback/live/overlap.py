"""Where the env runners' own time goes when they sample beside the learner (IMPALA, APPO).

Sampling, learning and the rest run at the same time there, so that the phases of the Algorithm's process don't say what holds
sampling up. Each of the r env runners has T seconds in an iteration, in which it samples or waits. A wait is blamed on what caused
it (Tallent and Mellor-Crummey, PPoPP 2009). It lasts from the end of one sample to the beginning of the next, while

- the result is pickled and on its way: transfer;
- it lies there until the Algorithm's process looks for results again: the phase of that process, which is `learn` while the learner
  takes no more batches;
- the next request waits until that process sends it: likewise;
- the request is on its way: transfer;
- the env runner asks for weights: sync.

A look that did not find a result shows that it was not there yet: all of a wait before the last such look is transfer. What the
process did between that look and the one that found the result is known exactly, and the result is taken to have been there since
the sample ended; transfer is underestimated by at most the time between the two. Times of env runners on other hosts are as good as
the hosts' clocks agree.

The means over the env runners are phases like those of other algorithms: exclusive, and together the iteration. `losses` takes them
as they are, and its account is exact. What no report covers, such as the part of a sample that the end of an iteration cuts off, is
`other`; over several iterations it cancels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median_low

from rl_scaling_callback.live.phases import OUTSIDE, PhaseClock, Segment
from rl_scaling_callback.live.rounds import RunnersWork
from rl_scaling_callback.rllib import RunnerReport

_OUTSIDE_KEPT = 4
_CLOCKS_DIFFER_S = 60.0


@dataclass(slots=True)
class _Cycle:
    """What the Algorithm's process did between two looks for results; empty until the second one."""

    segments: list[Segment] = field(default_factory=list)

    def during(self, start: float, end: float) -> Iterable[tuple[str, float]]:
        for segment in self.segments:
            seconds = min(end, segment.end) - max(start, segment.start)
            if seconds > 0:
                yield segment.phase, seconds


@dataclass(slots=True)
class _Runner:
    """One env runner: the sample that it reported last, and its sums over the iteration."""

    ended: float
    fetched: float
    before: _Cycle
    after: _Cycle
    samples: int = 0
    busy: float = 0.0
    total: RunnerReport | None = None


class OverlappingRunners:
    """Collects what env runners report when the Algorithm's process fetches their results.

    Args:
        clock: a clock of the phases of that process, which records them in the time of `time.time`.
        num_env_runners: env runners of the trial, at least 1.
    """

    def __init__(self, clock: PhaseClock, num_env_runners: int) -> None:
        self._clock = clock
        self._num_env_runners = num_env_runners
        self._runners: dict[str, _Runner] = {}
        self._cycle = _Cycle()
        self._outside: deque[Segment] = deque(maxlen=_OUTSIDE_KEPT)
        self._waits: dict[str, float] = {}

    def start(self) -> None:
        """Start an iteration."""
        self._waits = {}
        for runner in self._runners.values():
            runner.samples, runner.busy, runner.total = 0, 0.0, None

    def add(self, reports: Iterable[tuple[str, RunnerReport]]) -> None:
        """Take in the reports of the samples that were fetched now, by env runner; none where there was no result."""
        cycle, self._cycle = self._cycle, _Cycle()
        cycle.segments = self._clock.cut()
        self._outside.extend(segment for segment in cycle.segments if segment.phase == OUTSIDE)
        now = cycle.segments[-1].end if cycle.segments else 0.0
        for name, report in reports:
            # Two samples that were reported as one have no times of their own: theirs were added up.
            if not report.began <= report.ended <= now + _CLOCKS_DIFFER_S:
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

    def read(self) -> RunnersWork:
        """Return what was reported since the start of the iteration."""
        active = [runner for runner in self._runners.values() if runner.samples]
        if not active:
            return RunnersWork()
        samples = sum(runner.samples for runner in active)
        mean = sum(runner.busy for runner in active) / self._num_env_runners
        typical = median_low([runner.busy / runner.samples for runner in active]) * samples / self._num_env_runners
        phases = {phase: seconds / self._num_env_runners for phase, seconds in self._waits.items()}
        phases["sample"] = phases.get("sample", 0.0) + mean
        reports = tuple(runner.total for runner in active if runner.total is not None)
        return RunnersWork(reports, typical, mean, phases)

    def _blame(self, runner: _Runner, report: RunnerReport) -> None:
        """Book the wait of an env runner between its last sample and the one that it reports now."""
        weights = min(max(0.0, report.weights), max(0.0, report.began - runner.ended)) if report.weights > 0 else 0.0
        until = report.began - weights
        known = 0.0
        held = (*runner.before.during(runner.ended, min(until, runner.fetched)), *runner.after.during(runner.fetched, until))
        for phase, seconds in held:
            known += seconds
            if phase != OUTSIDE:
                self._wait(phase, seconds)
        # Clocks of two hosts may differ by more than a wait takes: what is left is negative then, and the sum right.
        self._wait("sample", self._inside(runner.ended, until) - known + sum(s for phase, s in held if phase == OUTSIDE))
        self._wait("sync", weights)

    def _wait(self, phase: str, seconds: float) -> None:
        self._waits[phase] = self._waits.get(phase, 0.0) + seconds

    def _inside(self, start: float, end: float) -> float:
        """Return how much of this stretch lies in iterations."""
        outside = (min(end, segment.end) - max(start, segment.start) for segment in self._outside)
        return end - start - sum(seconds for seconds in outside if seconds > 0)
