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
    told = learners.read()
    assert (told.busy, told.waiting) == (2.0, 0.0)
    assert math.isnan(told.dropped)  # the queue is not watched
    learners.start()
    assert learners.read().busy == 0.0


def test_reports_of_remote_learners_are_averaged():
    learners = Learners(None, 2, lambda: 0.0)
    learners.add({"busy": 1.0, "waiting": 0.5, "queued": 3.0, "watched": 2.0, "overwritten": 10.0})
    learners.add({"busy": 2.0, "queued": 1.0, "watched": 2.0, "overwritten": 5.0})
    assert learners.read() == (1.5, 0.25, 1.0, 15.0)
    learners.start()
    told = learners.read()
    assert (told.busy, told.waiting, told.dropped) == (0.0, 0.0, 0.0)
    assert math.isnan(told.queue)


def test_phases_missing_in_a_report_did_not_run_and_learners_that_never_reported_are_unknown():
    learners = Learners(None, 1, lambda: 0.0)
    learners.start()
    assert learners.read() == pytest.approx((math.nan, math.nan, math.nan, 0.0), nan_ok=True)
    learners.add({"waiting": 3.0})
    assert learners.read()[:2] == (0.0, 3.0)
