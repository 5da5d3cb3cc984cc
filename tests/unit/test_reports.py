"""What is collected in an iteration: the reports of env runners, in turn with the learner or beside it, and of learners."""

import math

import pytest

from rl_scaling_callback.live.reports import Learners, OverlappingRunners, Rounds, Spent
from rl_scaling_callback.rllib.clocks import PhaseClock
from rl_scaling_callback.rllib.results import RunnerReport


def reports(*busy):
    return [(str(runner), RunnerReport(each, cpu=each)) for runner, each in enumerate(busy, 1)]


@pytest.mark.parametrize("merged", [False, True])
def test_longest_is_summed_over_the_rounds_of_an_iteration(merged):
    rounds, (one, other) = Rounds(), (reports(1.0, 3.0), reports(3.0, 1.0))
    rounds.add(reports(9.0))
    rounds.start()
    assert rounds.read() == Spent()
    for each in [one + other] if merged else [one, other]:
        rounds.add(each)
    spent = rounds.read()
    assert (spent.busy, spent.longest) == (2.0, 6.0)
    assert [(each.busy, each.cpu) for each in spent.reports] == [(4.0, 4.0)] * 2


def test_reports_of_learners_are_averaged():
    learners = Learners(2)
    assert math.isnan(learners.busy)
    learners.add({"busy": 1.0, "waiting": 0.5})
    learners.add({"busy": 2.0})  # it never waited
    assert (learners.busy, learners.waiting) == (1.5, 0.25)
    learners.start()
    assert (learners.busy, learners.waiting) == (0.0, 0.0)


# ---------------------------------------------------------------- env runners that sample beside the learner


class Driver:
    """An Algorithm's process that polls for results and works in between, on a simulated clock."""

    def __init__(self, num_env_runners):
        self.now = 100.0
        self.clock = PhaseClock({}, background=(), clock=lambda: self.now, records=True)
        self.runners = OverlappingRunners(self.clock, num_env_runners)
        self.begin()

    def begin(self):
        self.clock.start()
        self.runners.start()
        self.began = self.now

    def spend(self, seconds, phase):
        with self.clock.block(phase):
            self.now += seconds

    def fetch(self, *samples):
        """Report samples: name of the env runner, start, end, and wait for weights."""
        self.runners.add(
            (name, RunnerReport(ended - began, began=began, ended=ended, weights=weights))
            for name, began, ended, weights in samples
        )

    def phases(self):
        phases = dict(self.runners.read().phases)
        phases["other"] = self.now - self.began - sum(phases.values()) + phases.pop("other", 0.0)
        return {phase: pytest.approx(seconds, abs=1e-9) for phase, seconds in phases.items() if abs(seconds) > 1e-9}


IN_VAIN = [(0.09, "learn"), (0.01, "sample"), ()] * 20


@pytest.mark.parametrize(
    ("events", "phases"),
    [
        # The second sample ends at 102, in the middle of an update of 3 s: the wait for the delayed poll is learn.
        ([(3.0, "learn"), (101.0, 102.0, 0.0), (1.0, "sample"), (104.0, 105.0, 0.0)], {"sample": 3.0, "learn": 2.0}),
        # It ends at 102 and is pickled until 104. Meanwhile the process does an empty update and polls in vain: that is transfer.
        # The last sample ended 0.2 s before now.
        (
            [(1.0, "sample"), *IN_VAIN, (0.2, "sample"), (101.0, 102.0, 0.0), (1.0, "sample"), (104.0, 105.0, 0.0)],
            {"sample": 5.0, "other": 0.2},
        ),
        # The wait for a delayed request counts for the phase that delays it, each time.
        (
            [(2.0, "sync"), (), (1.0, "sample"), (103.0, 104.0, 0.0), (2.0, "sync"), (), (1.0, "sample"), (106.0, 107.0, 0.0)],
            {"sample": 3.0, "sync": 4.0},
        ),
        # Waiting for weights is sync.
        ([(2.0, "sample"), (101.75, 103.0, 0.5)], {"sample": 2.5, "sync": 0.5}),
    ],
    ids=["delayed poll", "transfer", "delayed request", "weights"],
)
def test_waits_count_for_what_causes_them(events, phases):
    """Each event is a time spent in a phase, or a poll that returns one sample (start, end, wait for weights) or none."""
    driver = Driver(1)
    driver.spend(1.0, "sample")
    driver.fetch(("1", 100.0, 101.0, 0.0))
    for event in events:
        if len(event) == 2:
            driver.spend(*event)
        else:
            driver.fetch(*([("1", *event)] if event else []))
    assert driver.phases() == phases


def test_time_between_iterations_is_not_counted_nor_does_a_silent_env_runner_wait():
    driver = Driver(2)
    driver.spend(1.0, "sample")
    driver.fetch(("1", 100.0, 101.0, 0.0))
    driver.now += 5.0  # such as a checkpoint; meanwhile the env runner samples for 2 s and waits for 3 s
    driver.begin()
    driver.spend(1.0, "sample")
    driver.fetch(("1", 101.0, 103.0, 0.0))
    driver.spend(1.0, "sample")
    driver.fetch(("1", 107.0, 108.0, 0.0))
    assert driver.phases() == {"sample": 1.0, "other": 1.0}


def test_slow_env_runner_is_a_straggler_and_not_contention():
    driver = Driver(3)
    driver.spend(2.0, "sample")
    for end in (102.0, 104.0):
        samples = [(name, end - 2 + part, end - 1 + part, 0.0) for name in "12" for part in (0, 1)]
        driver.fetch(*samples, ("3", end - 2, end, 0.0))
        driver.spend(2.0, "sample")
    spent = driver.runners.read()
    # Ten samples: eight of a second and two of two seconds.
    assert (spent.busy, spent.longest, len(spent.reports)) == pytest.approx((10 * 1.0 / 3, 4.0, 3))


def test_without_reports_or_their_timestamps_nothing_is_known():
    driver = Driver(1)
    driver.spend(1.0, "learn")
    for reports in ([], [("1", RunnerReport(1.0))], [("1", RunnerReport(2.0, began=201.0, ended=203.0))]):
        driver.runners.add(reports)
        assert (driver.runners.read().phases, driver.runners.read().exact) == (None, 0.0)
