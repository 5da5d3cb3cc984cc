import math

import pytest

from rl_scaling_callback.core.attribution import TimeBreakdown, losses
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.live.runners import Rounds
from rl_scaling_callback.rllib.results import RunnerReport


def reports(*busy):
    return [(str(runner), RunnerReport(each, cpu=each)) for runner, each in enumerate(busy, 1)]


@pytest.mark.parametrize("merged", [False, True])
def test_longest_is_summed_over_the_rounds_of_an_iteration(merged):
    rounds, (one, other) = Rounds(), (reports(1.0, 3.0), reports(3.0, 1.0))
    assert all(map(math.isnan, (rounds.read().busy, rounds.read().longest)))
    rounds.add(one)
    rounds.start()
    for each in [one + other] if merged else [one, other]:
        rounds.add(each)
    work = rounds.read()
    assert (work.busy, work.longest) == (2.0, 6.0)
    assert work.reports == (RunnerReport(4.0, cpu=4.0),) * 2


def test_alternating_stragglers_are_stragglers():
    # Ten rounds in which one env runner takes 0.1 s and the other 0.2 s, taking turns. The driver waits for the slower one.
    rounds = Rounds()
    for turn in range(10):
        rounds.add(reports(*((0.1, 0.2) if turn % 2 else (0.2, 0.1))))
    work = rounds.read()
    spent = TimeBreakdown.of({"sample": 2.0}, 2.5, work.busy, work.longest)
    baseline = TimeBreakdown.of({"sample": 2.0e-3}, 2.5e-3, 2.0e-3, 2.0e-3)
    lost, _ = losses(Scale(2, 1), 1000, spent, baseline)
    assert lost["straggler"] == pytest.approx(100 * 1.0 / 2.5)
    assert lost["transfer"] == pytest.approx(0.0)
