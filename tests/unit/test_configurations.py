import math
import random
from dataclasses import replace

import pytest
from scipy.special import stdtrit

from rl_scaling_callback.analysis.configurations import configurations
from rl_scaling_callback.analysis.noise import USUAL_DOF, USUAL_LEVEL, USUAL_STD
from rl_scaling_callback.analysis.runs import Run, Study
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import Steady
from tests.builders import run, users_ten, window


def by_scale(*runs, **facts):
    return {str(each.scale): each for each in configurations(Study("test", runs, **facts))}


def test_ten_rows():
    found = {scale: (f"{each.speedup:.2f}", f"{each.efficiency:.1f}", each.band) for scale, each in by_scale(*users_ten()).items()}
    assert found == {
        "1r×1e": ("1.00", "100.0", "perfect"),
        "2r×1e": ("1.64", "82.1", "excellent"),
        "1r×2e": ("1.52", "76.0", "good"),
        "4r×1e": ("2.71", "67.7", "good"),
        "2r×2e": ("2.41", "60.2", "good"),
        "1r×4e": ("2.01", "50.1", "fair"),
        "8r×1e": ("4.11", "51.4", "fair"),
        "2r×4e": ("3.03", "37.9", "inefficient"),
        "1r×8e": ("2.58", "32.3", "inefficient"),
        "8r×2e": ("5.40", "33.8", "inefficient"),
    }
    assert next(iter(found)) == "1r×1e"


def test_one_iteration_has_no_error():
    for each in by_scale(*users_ten()).values():
        assert math.isnan(each.sps_error)
        assert each.speedup_error == 0 if each.is_baseline else math.isnan(each.speedup_error)


def test_without_a_baseline_figures_are_relative_to_the_smallest_scale():
    found = by_scale(run("8r1e", [0.5] * 5), run("2r1e", [1.0] * 5), run("4r2e", [0.25] * 5))
    two, four, eight = found["2r×1e"], found["4r×2e"], found["8r×1e"]
    assert [(each.speedup, each.efficiency, each.ideal) for each in (two, eight, four)] == [
        pytest.approx((1, 100, 1)),
        pytest.approx((2, 50, 4)),
        pytest.approx((4, 100, 4)),
    ]
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


def test_baseline_from_a_file():
    given = Run(name="an older experiment", scale=Scale(1, 1), steady=window([2.0] * 5))
    each = by_scale(run("2r1e", [1.25] * 5), baseline=given)["2r×1e"]
    assert (each.speedup, each.efficiency, each.is_baseline) == (pytest.approx(1.6), pytest.approx(80), False)


def test_probed_baseline_counts_only_if_none_was_measured():
    probed, measured = replace(run("2r1e", [1.0] * 5), baseline_sps=400.0, baseline_error=5.0), run("1r1e", [2.0] * 5)
    number = replace(measured, steady=replace(measured.steady, iterations=0))
    alone, beside = (by_scale(probed, baseline=given)["2r×1e"] for given in (number, measured))
    assert (alone.speedup, beside.speedup) == (pytest.approx(alone.sps / 400), pytest.approx(2.0))


def test_baseline_given_as_a_number():
    number = Steady(500.0, math.nan, 0, math.nan, math.nan, converged=False, settled=False)
    each = by_scale(run("2r1e", [1.25] * 5), baseline=Run(name="the trial's own option", scale=Scale(1, 1), steady=number))["2r×1e"]
    assert each.speedup == pytest.approx(1.6)
    assert math.isnan(each.speedup_error)
    assert not each.losses


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


def test_notes():
    failed = "ended with an error after 5 iterations"
    each = by_scale(run("1r1e", [1.0] * 5), run("2r1e", [1.0] * 5, exclusive=0.0, notes=(failed,)))["2r×1e"]
    assert each.notes == (failed, "another trial ran on its node at the same time")
    assert by_scale(run("4r1e", [1.0], cpus=5.0))["4r×1e"].sps_per_cpu == 200
    assert by_scale(run("3r1e", [1.0]))["3r×1e"].sps_per_cpu == 250


@pytest.mark.parametrize("who", ["1r1e", "2r1e"])
def test_speedup_is_disturbed_if_its_baseline_is(who):
    def disturbed(**facts):
        return by_scale(*(run(scale, [1.0] * 5, **(facts if scale == who else {})) for scale in ("1r1e", "2r1e")))[
            "2r×1e"
        ].disturbed

    assert disturbed(others=0.5)
    assert disturbed(exclusive=0.0)
    assert not disturbed(others=0.1, exclusive=1.0)


TRUTH = {"1r1e": 1.0, "2r1e": 0.6, "4r1e": 0.4, "2r2e": 0.45, "4r2e": 0.3, "1r2e": 0.7}


def measured_once(rng, repetitions, between, within=0.05):
    def noisy(seconds):
        this_run = seconds * rng.lognormvariate(0, between)
        return [this_run * rng.lognormvariate(0, within) for _ in range(6)]

    return by_scale(*(run(scale, noisy(seconds)) for scale, seconds in TRUTH.items() for _ in range(repetitions)))["4r×1e"]


def confirmed(rng, repetitions, between):
    """Return whether SPS and speedup lie within the intervals of another measurement."""
    one, other = (measured_once(rng, repetitions, between) for _ in range(2))
    return [
        abs(math.log(getattr(one, what) / getattr(other, what))) <= math.log1p(getattr(one, f"{what}_error") / 100)
        for what in ("sps", "speedup")
    ]


@pytest.mark.parametrize(("repetitions", "between"), [(3, 0.1), (2, 0.12), (1, 0.1)])
def test_coverage_of_intervals_for_a_repeat(repetitions, between):
    rng = random.Random(1)
    held = [each for _ in range(300) for each in confirmed(rng, repetitions, between)]
    assert 0.92 <= sum(held) / len(held) <= 0.995


def test_noise_is_estimated_from_repeats():
    errors = [measured_once(random.Random(3), repetitions, 0.01, 0.01).speedup_error for repetitions in (1, 2, 4, 16)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 50 > 5 > errors[-1]


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


def test_windows_of_unknown_error():
    empty = Steady(math.nan, math.nan, 0, 0.0, 0.0, converged=False, settled=False)
    found = configurations(Study("test", (), Run(name="nowhere", scale=Scale(1, 1), steady=empty)))
    assert found == ()
