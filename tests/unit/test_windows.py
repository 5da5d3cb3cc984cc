import math

import pytest

from rl_scaling_callback.core.steady import SteadyRule
from rl_scaling_callback.sweeping.windows import Windows

RULE = SteadyRule(warmup_iterations=1, min_iterations=2)


def result(seconds, sps=500.0, evaluation_s=0.0, number=math.nan, **more):
    scaling = {"sps": sps, "env_steps": 1000.0, "time": {"evaluate": evaluation_s}}
    steps = {"env_runners": {"num_env_steps_sampled": 1000}, "time_this_iter_s": seconds, "iterations_since_restore": number}
    return {**steps, "scaling": scaling, **more}


def fill(results):
    windows = Windows(RULE)
    return [windows.add("trial", each).iterations for each in results], windows.add("trial", result(2.0))


def test_evaluation_is_excluded():
    counted, steady = fill([result(9.0), result(5.0, evaluation_s=3.0)])
    assert counted == [0, 1]
    assert steady.sps == 500.0


def test_iteration_with_a_clock_jump_does_not_count():
    counted, steady = fill([result(2.0), result(2.0), result(3602.0, sps=math.nan), result(2.0)])
    assert counted == [0, 1, 1, 2]
    assert steady.sps == 500.0


def test_restored_trial_warms_up_again():
    counted, _ = fill([result(2.0, number=1), result(2.0, number=2), result(9.0, number=1), result(2.0, number=2)])
    assert counted == [0, 1, 1, 2]


def test_iterations_before_learning_starts_do_not_count():
    config = {"num_steps_sampled_before_learning_starts": 1500}
    counted, _ = fill([result(0.1, config=config) for _ in range(4)])
    assert counted == [0, 0, 0, 1]


def test_trials_have_separate_windows_and_can_be_forgotten():
    windows = Windows(RULE)
    for _ in range(3):
        windows.add("one", result(2.0))
    assert windows.add("other", result(2.0)).iterations == 0
    windows.forget("one")
    assert windows.add("one", result(2.0)).iterations == 0
    assert windows.add("one", result(2.0)).sps == pytest.approx(500.0)
