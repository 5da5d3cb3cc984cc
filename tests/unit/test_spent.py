"""What is collected in an iteration: the reports of env runners, round by round, and of asynchronous learners."""

import pytest

from rl_scaling_callback.core.attribution import TimeBreakdown, losses
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.live.reports import Learners, Rounds, Spent
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
    assert spent.reports == (RunnerReport(4.0, cpu=4.0),) * 2


def test_alternating_stragglers_are_stragglers():
    # Ten rounds in which one env runner takes 0.1 s and the other 0.2 s, taking turns. The driver waits for the slower one.
    rounds = Rounds()
    for turn in range(10):
        rounds.add(reports(*((0.1, 0.2) if turn % 2 else (0.2, 0.1))))
    spent = TimeBreakdown.of({"sample": 2.0}, 2.5, rounds.read().busy, rounds.read().longest)
    lost, _ = losses(Scale(2, 1), 1000, spent, TimeBreakdown.of({"sample": 2.0e-3}, 2.5e-3, 2.0e-3, 2.0e-3))
    assert (lost["straggler"], lost["transfer"]) == pytest.approx((100 * 1.0 / 2.5, 0.0))


def test_reports_of_learners_are_averaged():
    learners = Learners(2)
    assert learners.read() == {}
    learners.add({"busy": 1.0, "waiting": 0.5})
    learners.add({"busy": 2.0})  # it never waited
    assert learners.read() == {"busy": 1.5, "waiting": 0.25}
    learners.start()
    assert learners.read() == {"busy": 0.0, "waiting": 0.0}
