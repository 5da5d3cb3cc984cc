import math
from dataclasses import replace

import pytest
from scipy.special import stdtrit

from rl_scaling_callback.analysis.configurations import configurations
from rl_scaling_callback.analysis.noise import USUAL_DOF, USUAL_LEVEL, USUAL_STD
from rl_scaling_callback.analysis.runs import Run, Study
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import Steady
from tests.builders import run, window


def by_scale(*runs, **facts):
    return {str(each.scale): each for each in configurations(Study("test", runs, **facts))}


def test_without_a_baseline_figures_are_relative_to_the_smallest_scale():
    found = by_scale(run("8r1e", [0.5] * 5), run("2r1e", [1.0] * 5), run("4r2e", [0.25] * 5))
    two, four, eight = found["2r×1e"], found["4r×2e"], found["8r×1e"]
    figures = [(each.speedup, each.efficiency, each.ideal) for each in (two, eight, four)]
    assert figures == [pytest.approx(each) for each in ((1, 100, 1), (2, 50, 4), (4, 100, 4))]
    assert (two.is_baseline, two.band, eight.band) == (True, "perfect", "fair")
    assert math.isnan(eight.core_efficiency)


@pytest.mark.parametrize("seconds", [0.1 * k for k in range(1, 50)])
def test_smallest_scale_is_perfect_despite_rounding(seconds):
    (only,) = by_scale(run("32r5e", [seconds] * 5, env_steps=997)).values()
    assert (only.speedup, only.efficiency, only.band) == (1.0, 100.0, "perfect")


def test_batches_rounded_up_are_comparable_but_other_steps_are_not():
    runs = [run("1r1e", [1.0] * 5), run("2r1e", [0.7] * 5, env_steps=1200), run("4r1e", [0.5] * 5, env_steps=1200)]
    rounded = by_scale(*(replace(each, batch=1000.0) for each in runs[:2]), runs[2])
    assert rounded["2r×1e"].speedup == pytest.approx(1.2 / 0.7)
    (note,) = rounded["2r×1e"].notes
    assert note == "1,200 env steps per iteration, 1,000 for the baseline: RLlib rounds the batch up"
    assert math.isnan(rounded["4r×1e"].speedup)


def test_baseline_from_elsewhere():
    given = Run(name="an older experiment", scale=Scale(1, 1), steady=window([2.0] * 5))
    each = by_scale(run("2r1e", [1.25] * 5), baseline=given)["2r×1e"]
    assert (each.speedup, each.efficiency, each.is_baseline) == (pytest.approx(1.6), pytest.approx(80), False)
    number = replace(given, steady=Steady(500.0, math.nan, 0, math.nan, math.nan, converged=False, settled=False))
    each = by_scale(run("2r1e", [1.25] * 5), baseline=number)["2r×1e"]
    assert (each.speedup, each.speedup_error) == pytest.approx((1.6, math.nan), nan_ok=True)
    assert not each.losses
    assert configurations(Study("test", (), number)) == ()


def test_probed_baseline_counts_only_if_none_was_measured():
    probed, measured = replace(run("2r1e", [1.0] * 5), baseline_sps=400.0, baseline_error=5.0), run("1r1e", [2.0] * 5)
    number = replace(measured, steady=replace(measured.steady, iterations=0))
    alone, beside = (by_scale(probed, baseline=given)["2r×1e"] for given in (number, measured))
    assert (alone.speedup, beside.speedup) == (pytest.approx(alone.sps / 400), pytest.approx(2.0))


def test_a_larger_reference_scales_perfectly_up_to_itself():
    study = Study("test", (run("4r1e", [1.0] * 5), run("8r1e", [0.625] * 5)))
    four, eight = configurations(study, Scale(4, 1))
    assert (four.speedup, four.efficiency) == (pytest.approx(4), pytest.approx(100))
    assert (eight.speedup, eight.efficiency) == (pytest.approx(6.4), pytest.approx(80))


def test_different_steps_per_iteration_are_not_compared():
    each = by_scale(run("1r1e", [1.0] * 5), run("2r1e", [1.0] * 5, env_steps=2000))["2r×1e"]
    assert math.isnan(each.speedup)
    assert each.notes == ("2,000 env steps per iteration, 1,000 for the baseline: not comparable",)
    timed = by_scale(run("1r1e", [1.0] * 5), run("2r1e", [1.0] * 5, env_steps=2000), timed_iterations=True)["2r×1e"]
    assert timed.speedup == pytest.approx(2)


def test_the_losses_sum_to_the_loss():
    alone = {"sample": 0.8, "learn": 0.15, "sync": 0.03, "other": 0.02, "busy": 0.75, "longest": 0.75}
    both = {"sample": 0.5, "learn": 0.15, "sync": 0.03, "other": 0.02, "busy": 0.4, "longest": 0.45}
    each = by_scale(run("1r1e", [1.0] * 5, parts=alone), run("2r1e", [0.7] * 5, parts=both))["2r×1e"]
    assert sum(each.losses.values()) == pytest.approx(each.loss, abs=1e-9)
    assert each.losses["learn"] == pytest.approx(100 * (0.15 - 0.075) / 0.7)
    assert each.diagnosis.startswith("learn: 11 of 29 lost points (1.12× as fast without it); ")
    assert each.gains["learn"] == pytest.approx(0.7 / (0.7 - 0.075))
    assert not by_scale(run("1r1e", [1.0], parts=alone), run("2r1e", [0.7], parts=both), exclusive_phases=False)["2r×1e"].losses


@pytest.mark.parametrize("who", ["1r1e", "2r1e"])
def test_speedup_is_disturbed_if_its_baseline_is(who):
    def disturbed(**facts):
        runs = [run(scale, [1.0] * 5, **(facts if scale == who else {})) for scale in ("1r1e", "2r1e")]
        return by_scale(*runs)["2r×1e"].disturbed

    assert disturbed(others=0.5)
    assert disturbed(exclusive=0.0)
    assert not disturbed(others=0.1, exclusive=1.0)


def test_noise_without_repeats():
    one = by_scale(run("1r1e", [1.0, 1.02, 0.98, 1.01]))["1r×1e"]
    assert not one.noise.from_repeats
    within = math.log1p(one.runs[0].steady.error / 100) / stdtrit(3, 0.975)
    assert one.variance == pytest.approx(USUAL_STD**2 + within**2)
    assert math.log1p(one.sps_error / 100) == pytest.approx(
        stdtrit(USUAL_DOF, 0.975) * math.sqrt(2 * (one.variance + USUAL_LEVEL**2))
    )


def test_repeated_runs_are_pooled():
    each = by_scale(run("1r1e", [1.0] * 5), run("2r1e", [0.5] * 5), run("2r1e", [0.7] * 5))["2r×1e"]
    assert each.sps == pytest.approx(10_000 / 6.0)
    # Two runs whose ln SPS differ by 0.336, combined with the prior.
    assert each.noise.from_repeats
    assert each.noise.dof == USUAL_DOF + 1
    squares = math.log(0.7 / 0.5) ** 2 / 2 / USUAL_STD**2
    assert each.variance == pytest.approx(USUAL_STD**2 * (USUAL_DOF + squares) / (USUAL_DOF + 1) / 2)
