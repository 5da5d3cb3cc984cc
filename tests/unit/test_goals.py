import math

import pytest

from rl_scaling_callback.analysis.choice import GOALS, Goal, judge
from rl_scaling_callback.core.formulas import NAN


def test_goal_with_overridden_constraints():
    assert Goal.of() == GOALS["balanced"]
    assert Goal.of("balanced", min_speedup=None, max_cpus=8) == Goal("balanced", 60, 2.5, 8)
    assert Goal.of("save", min_efficiency=90, max_cpus=4).limits == {"efficiency": 90, "cpus": 4}
    assert GOALS["fastest"].limits == {}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Goal.of("quick"), "goal is 'quick'; allowed are save, balanced, fastest"),
        (lambda: Goal.of("save", min_efficiency=-1), "min_efficiency is -1; allowed are"),
        (lambda: Goal.of("save", min_speedup=math.inf), "min_speedup is inf; allowed are"),
        (lambda: Goal.of("save", max_cpus="8"), "max_cpus is '8'; allowed are"),
        (lambda: Goal(""), "name is ''; allowed are"),
    ],
)
def test_invalid_goals_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("value", "error", "verdict"),
    [
        (60.0, NAN, "met"),
        (59.9, NAN, "not met"),
        (66.1, 10.0, "met"),
        (65.9, 10.0, "undecided"),
        (54.6, 10.0, "undecided"),
        (54.5, 10.0, "not met"),
        (NAN, 10.0, "undecided"),
    ],
)
def test_an_interval_that_straddles_the_threshold_is_undecided(value, error, verdict):
    assert judge(value, error, 60.0) == verdict
