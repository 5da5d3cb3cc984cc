"""Predictions of whole iterations from probes."""

import pytest

from rl_scaling_callback.core.attribution import TimeBreakdown
from rl_scaling_callback.core.probing import Probe, Ratios
from rl_scaling_callback.core.scale import Scale

ONE, EIGHT = Scale(1, 1), Scale(2, 4)


def probe(scale, seconds, **fields):
    return Probe(scale, env_steps=100, seconds=seconds, busy=fields.pop("busy", (seconds,)), **fields)


def test_probe_figures_are_per_env_step_of_all_runners():
    measured = probe(EIGHT, 0.5, busy=(0.3, 0.4, 0.2), excess=0.1)
    assert measured.seconds_per_step == pytest.approx(0.004)
    assert measured.busy_per_step == pytest.approx(0.003)
    assert measured.longest_per_step == pytest.approx(0.004)


def test_on_policy_learning_does_not_depend_on_the_scale():
    # 1,000 steps: 4 s of sampling at 2r×4e, 3 s of learning, 0.2 s of weights; 1r×1e samples them in 16 s.
    own, single = probe(EIGHT, 0.4, sync=0.004), probe(ONE, 1.6, sync=0.003)
    spent = TimeBreakdown.of({"sample": 4.0, "learn": 3.0, "sync": 0.2}, 7.3)
    elsewhere = Ratios.of(single, own, updates=1.0).apply(spent, 1)
    assert elsewhere.parts == pytest.approx({**spent.parts, "sample": 16.0, "sync": 0.15}, nan_ok=True)


def test_resets_take_as_long_per_env_step_at_any_scale():
    # Two env runners spend 1 s on resets in turn, and 3 s for the rest of sampling; 1r×1e takes four times as long for that.
    ratios = Ratios.of(probe(ONE, 1.6), probe(EIGHT, 0.4), updates=1.0)
    spent = TimeBreakdown.of({"sample": 4.0}, 4.0, reset=1.0, all_resets=2.0)
    assert ratios.apply(spent, 1).sample == pytest.approx(12.0 + 2.0)
    assert ratios.apply(spent, 2).sample == pytest.approx(12.0 + 1.0)


def test_off_policy_learning_scales_with_the_updates():
    # Each round samples one step per env and learns once: 8 steps at 2r×4e, 1 at 1r×1e.
    own, single = probe(EIGHT, 0.2), probe(ONE, 1.0)
    elsewhere = Ratios.of(single, own, updates=8.0).apply(TimeBreakdown.of({"sample": 2.0, "learn": 7.0, "sync": 0.5}, 10.0), 1)
    assert elsewhere.total == pytest.approx(10.0 + 8 * 8.0)
    assert elsewhere.sync == pytest.approx(4.0)  # not measured by any probe
    assert Ratios.of(probe(ONE, 1.0, sync=0.1), probe(EIGHT, 1.0), updates=1.0).sync == 1.0
