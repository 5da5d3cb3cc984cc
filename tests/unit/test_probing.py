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


@pytest.mark.parametrize("updates", [1.0, 8.0])
def test_learning_depends_on_the_scale_only_by_the_number_of_updates(updates):
    # 4 s of sampling at 2r×4e, 3 s of learning, 0.2 s of weights; 1r×1e takes 4 times as long to sample, and 3/4 for weights.
    # On-policy, it learns as often; off-policy, 8 times as often, once per round of one step per env.
    times, ratios = TimeBreakdown.of({"sample": 4.0, "learn": 3.0, "sync": 0.2}, 7.3), {"sample": 4.0, "sync": 0.75, "busy": 0.5}
    elsewhere = predict(times, 1, updates=updates, **ratios)
    learning = {"learn": 3.0 * updates, "sync": 0.15 * updates, "other": 0.1 * updates}
    assert elsewhere.parts == pytest.approx({**times.parts, **learning, "sample": 16.0, "busy": 8.0, "longest": 8.0})
    assert predict(times, 1, updates=updates, **ratios, factor=0.5) == pytest.approx(elsewhere.scaled(0.5))


@pytest.mark.parametrize(("runners", "resets"), [(1, 2.0), (2, 1.0)])
def test_resets_take_as_long_per_env_step_at_any_scale(runners, resets):
    # Two env runners spend 1 s on resets in turn, and 3 s for the rest of sampling; 1r×1e takes four times as long for that.
    times = TimeBreakdown.of({"sample": 4.0}, 4.0, 3.0, 3.0, 1.0, 2.0)
    assert predict(times, runners, sample=4.0).sample == pytest.approx(12.0 + resets)
