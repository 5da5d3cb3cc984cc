"""Predictions of whole iterations from probes."""

import pytest

from rl_scaling_callback.core.attribution import TimeBreakdown
from rl_scaling_callback.core.probing import Probe, predict
from rl_scaling_callback.core.scale import Scale


def test_probe_figures_are_per_env_step_of_all_runners():
    measured = Probe(Scale(2, 4), env_steps=100, seconds=0.5, busy=(0.3, 0.4, 0.2), excess=0.1)
    assert measured.seconds_per_step == pytest.approx(0.004)
    assert measured.busy_per_step == pytest.approx(0.003)
    assert measured.longest_per_step == pytest.approx(0.004)


def test_on_policy_learning_does_not_depend_on_the_scale():
    # 4 s of sampling at 2r×4e, 3 s of learning, 0.2 s of weights; 1r×1e takes 4 times as long to sample, and 3/4 for weights.
    times = TimeBreakdown.of({"sample": 4.0, "learn": 3.0, "sync": 0.2}, 7.3)
    elsewhere = predict(times, 1, sample=4.0, sync=0.75, busy=0.5)
    expected = {**times.parts, "sample": 16.0, "sync": 0.15, "busy": 8.0, "longest": 8.0}
    assert elsewhere.parts == pytest.approx(expected)
    assert predict(times, 1, sample=4.0, sync=0.75, busy=0.5, factor=0.5) == pytest.approx(elsewhere.scaled(0.5))


@pytest.mark.parametrize(("runners", "resets"), [(1, 2.0), (2, 1.0)])
def test_resets_take_as_long_per_env_step_at_any_scale(runners, resets):
    # Two env runners spend 1 s on resets in turn, and 3 s for the rest of sampling; 1r×1e takes four times as long for that.
    times = TimeBreakdown.of({"sample": 4.0}, 4.0, 3.0, 3.0, 1.0, 2.0)
    assert predict(times, runners, sample=4.0).sample == pytest.approx(12.0 + resets)


def test_off_policy_learning_scales_with_the_updates():
    # Each round samples one step per env and learns once: 8 steps at 2r×4e, 1 at 1r×1e.
    times = TimeBreakdown.of({"sample": 2.0, "learn": 7.0, "sync": 0.5}, 10.0)
    assert predict(times, 1, sample=5.0, updates=8.0).total == pytest.approx(10.0 + 8 * 8.0)
