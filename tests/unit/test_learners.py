import math

import pytest

from rl_scaling_callback.live.learners import Learners
from rl_scaling_callback.rllib.phases import PhaseClock


def test_local_learner_is_timed_from_the_start_of_the_iteration():
    now, dropped = [0.0], [10.0]
    clock = PhaseClock({}, clock=lambda: now[0])
    learners = Learners(clock.take, 1, lambda: dropped[0])
    with clock.block("busy"):
        now[0] += 5.0  # before the iteration
        learners.start()
    with clock.block("busy"):
        now[0] += 2.0
    dropped[0] += 40.0
    assert learners.read() == (2.0, 0.0, 40.0)
    learners.start()
    assert learners.read() == (0.0, 0.0, 0.0)


def test_reports_of_remote_learners_are_averaged_and_unknown_until_the_first():
    learners = Learners(None, 2, lambda: 0.0)
    assert learners.read() == pytest.approx((math.nan, math.nan, 0.0), nan_ok=True)
    learners.add({"busy": 1.0, "waiting": 0.5})
    learners.add({"busy": 2.0})  # a phase that is missing in a report did not run
    assert learners.read()[:2] == (1.5, 0.25)
    learners.start()
    assert learners.read()[:2] == (0.0, 0.0)
