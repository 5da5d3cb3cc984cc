import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_scaling_callback.core import formulas
from rl_scaling_callback.core.attribution import CAUSES, LEARNER, TimeBreakdown, diagnosis, gains, losses, most_from_runners
from rl_scaling_callback.core.scale import Scale

BASELINE = TimeBreakdown.of_window({"sample": 8.0, "learn": 1.5, "sync": 0.3, "other": 0.2, "busy": 7.5, "longest": 7.5}, 1000)
seconds = st.floats(0, 1e4)


def test_breakdown_of_an_iteration_and_per_env_step_of_a_window():
    breakdown = TimeBreakdown.of({"sample": 1.0, "learn": 0.5, "sync": 0.125, "evaluate": 0.25, "other": 0.01}, 2.0)
    assert (breakdown.other, breakdown.total) == (0.125, 2.0), "other is the remaining time"
    assert (BASELINE.total, BASELINE.busy) == pytest.approx((0.01, 0.0075))
    assert math.isnan(breakdown.busy)
    assert math.isnan(TimeBreakdown.of_window({"sample": 1.0}, 10).busy)


@given(
    scale=st.builds(Scale, st.integers(0, 64), st.integers(1, 16)),
    env_steps=st.integers(1, 10**6),
    breakdown=st.builds(TimeBreakdown, seconds, seconds, seconds, seconds, st.floats(1e-3, 1e4), seconds, seconds),
    one_runner=st.none() | st.floats(0, 10),
)
def test_causes_always_sum_to_the_loss(scale, env_steps, breakdown, one_runner):
    lost, estimated = losses(scale, env_steps, breakdown, BASELINE, math.nan if one_runner is None else one_runner)
    speedup = BASELINE.total * env_steps / breakdown.total
    loss = formulas.loss(formulas.efficiency(speedup, scale.parallelism))
    assert list(lost) == list(CAUSES)
    # 1e-9 of the largest summand
    assert sum(lost.values()) == pytest.approx(loss, abs=1e-9 * max(1.0, *map(abs, lost.values())))
    # A single runner with as many envs tells stepping and contention apart.
    assert estimated == (scale.samplers > 1 and scale.num_envs_per_env_runner > 1 and one_runner is None)


IDEAL = {"sample": 2.0, "learn": 0.375, "sync": 0.075, "evaluate": 0.0, "other": 0.05, "busy": 1.875, "longest": 1.875}


def lost(scale=Scale(4, 1), one_runner=math.nan, **changes):
    """Return what an iteration loses that differs from one with perfect scaling, and the points of that difference."""
    ideal, breakdown = TimeBreakdown(**IDEAL), TimeBreakdown(**(IDEAL | changes))
    return losses(scale, 1000, breakdown, BASELINE, one_runner)[0], 100 * (breakdown.total - ideal.total) / breakdown.total


@pytest.mark.parametrize(
    ("cause", "where"),
    [
        ("contention", {"sample": 1.5, "busy": 1.375, "longest": 1.375}),  # faster than with perfect scaling
        ("learn", {"learn": 1.375}),
        ("sync", {"sync": 1.075}),
        ("evaluate", {"evaluate": 1.0}),
        ("other", {"other": 1.05}),
        ("transfer", {"sample": 3.0}),
        ("contention", {"sample": 3.0, "busy": 2.875, "longest": 2.875}),
        ("serial_stepping", {"sample": 3.0, "busy": 2.875, "longest": 2.875, "scale": Scale(2, 2), "one_runner": 2 * 2.875 / 1000}),
        ("straggler", {"sample": 3.0, "longest": 2.875}),
    ],
)
def test_extra_time_counts_for_its_own_cause_and_nothing_else_is_lost(cause, where):
    found, points = lost(**where)
    assert found.pop(cause) == pytest.approx(points)
    assert found == dict.fromkeys(found, pytest.approx(0, abs=1e-9))


def test_causes_gain_nothing_if_they_cost_little_and_no_more_than_a_busy_learner_allows():
    little = {"learn": 4.7, "sync": -20.0, "other": math.nan, "transfer": 100.0, "contention": 4.8}
    assert gains(little) == {"contention": pytest.approx(1 / 0.952)}
    assert gains({"learn": 40.0, "transfer": 40.0}, 1.25) == {"learn": pytest.approx(1 / 0.6), "transfer": 1.25}


def test_diagnosis_names_the_largest_cause():
    lost = dict.fromkeys(CAUSES, 0.0) | {"learn": 61.0, "transfer": 5.0}
    assert diagnosis(lost).startswith("learn: 61 of 66 lost points (2.56× as fast without it); ")
    in_connectors = diagnosis(lost, parts={"learn": 3.0, "connectors": 1.0})
    assert "(2.56× as fast without it, 33 % of it in the learner's connectors); " in in_connectors
    assert diagnosis(lost, parts={"learn": 3.0, "connectors": 0.1}) == diagnosis(lost)
    assert diagnosis(lost).endswith("speed up the learner (more threads for it: not measured)")
    assert diagnosis(lost, threads="2 threads: 1.4×").endswith("speed up the learner (2 threads: 1.4×)")
    assert diagnosis(lost, threads="").endswith("speed up the learner")
    assert diagnosis(dict.fromkeys(CAUSES, 0.01)) == ""
    assert diagnosis(dict.fromkeys(CAUSES, 0.0) | {"sync": 0.6}).startswith("sync: 1 of 1 lost points; ")
    assert diagnosis(lost | {"sync": math.nan}) == ""
    assert diagnosis({}) == ""


@pytest.mark.parametrize(
    ("parts", "most"),
    [({LEARNER: 9.7}, 1 / 0.97), ({LEARNER: 10.1}, 1.0), ({LEARNER: math.nan}, math.inf), ({LEARNER: 0.0}, math.inf)],
)
def test_limit_of_an_asynchronous_learner(parts, most):
    assert most_from_runners(parts, 10.0) == pytest.approx(most)


def test_limit_of_an_asynchronous_learner_needs_no_baseline():
    line = "The learner is busy 97 %: at most 1.03× from more env runners"
    assert diagnosis(dict.fromkeys(CAUSES, math.nan), 1 / 0.97) == line
    assert diagnosis(dict.fromkeys(CAUSES, 0.0) | {"learn": 61.0}, 1 / 0.97).endswith(f"speed up the learner. {line}")
