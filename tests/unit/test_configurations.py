import math
from dataclasses import replace

import pytest

from rl_scaling_callback.analysis.configurations import configurations
from rl_scaling_callback.analysis.runs import USUAL_DOF, USUAL_STD, Run, Study
from rl_scaling_callback.core.scale import Scale
from tests.builders import run, window


def by_scale(*runs, reference="1r1e", **facts):
    return {str(each.scale): each for each in configurations(Study("test", runs, **facts), Scale.parse(reference))}


def test_without_a_baseline_figures_are_relative_to_the_smallest_scale():
    found = by_scale(run("8r1e", [0.5] * 5, cores=8.0), run("2r1e", [1.0] * 5), run("4r2e", [0.25] * 5))
    figures = [(each.speedup, each.efficiency, each.ideal, each.band, each.is_baseline) for each in found.values()]
    assert [*found] == ["2r×1e", "8r×1e", "4r×2e"]
    assert figures == [(1, 100, 1, "perfect", True), (2, 50, 4, "fair", False), (4, 100, 4, "perfect", False)]
    assert found["2r×1e"].speedup_error == 0 < found["8r×1e"].speedup_error


def test_smallest_scale_is_perfect_despite_rounding():
    for seconds in (0.1 * k for k in range(1, 50)):
        (only,) = by_scale(run("32r5e", [seconds] * 5, env_steps=997)).values()
        assert (only.speedup, only.efficiency, only.band) == (1.0, 100.0, "perfect")


def test_only_batches_rounded_up_may_differ_in_steps():
    runs = [run("1r1e", [1.0] * 5), run("2r1e", [0.7] * 5, env_steps=1200), run("4r1e", [0.5] * 5, env_steps=1200)]
    found = by_scale(*(replace(each, batch=1000.0) for each in runs[:2]), runs[2])
    assert [found[scale].speedup for scale in ("2r×1e", "4r×1e")] == pytest.approx([1.2 / 0.7, math.nan], nan_ok=True)
    steps = "1,200 env steps per iteration, 1,000 for the baseline"
    assert found["2r×1e"].notes == (f"{steps}: RLlib rounds the batch up",)
    assert found["4r×1e"].notes == (f"{steps}: not comparable",)
    assert by_scale(*runs, steps_vary=True)["4r×1e"].speedup == pytest.approx(2.4)


def test_baseline_from_elsewhere():
    given = Run(name="an older experiment", scale=Scale(1, 1), steady=window([2.0] * 5))
    each = by_scale(run("2r1e", [1.25] * 5), baseline=given)["2r×1e"]
    assert (each.speedup, each.efficiency, each.is_baseline) == (pytest.approx(1.6), pytest.approx(80), False)
    assert not by_scale(baseline=given)


def test_probed_baseline_counts_only_if_none_was_measured():
    probed, measured = replace(run("2r1e", [1.0] * 5), baseline_sps=400.0, baseline_error=5.0), run("1r1e", [2.0] * 5)
    number = replace(measured, steady=replace(measured.steady, iterations=0))
    alone, beside = (by_scale(probed, baseline=given)["2r×1e"] for given in (number, measured))
    assert (alone.speedup, beside.speedup) == (pytest.approx(alone.sps / 400), pytest.approx(2.0))


def test_a_larger_reference_scales_perfectly_up_to_itself():
    found = by_scale(run("4r1e", [1.0] * 5), run("8r1e", [0.625] * 5), reference="4r1e").values()
    assert [figure for each in found for figure in (each.speedup, each.efficiency)] == pytest.approx([4, 100, 6.4, 80])


@pytest.mark.parametrize(
    ("others", "kept"),
    [
        ((0.1, 1.2, 0.1), (0, 2)),  # of 1r×1e, 2r×1e and 2r×1e
        ((1.2, 1.2, 1.1), (0, 1, 2)),  # the only measurement there is, and equally disturbed ones
        ((math.nan, math.nan, 3.0), (0, 1, 2)),  # unknown
    ],
)
def test_less_disturbed_runs_replace_disturbed_ones(others, kept):
    runs = [run(scale, [1.0] * 5, others=each) for scale, each in zip(("1r1e", "2r1e", "2r1e"), others, strict=True)]
    found = by_scale(*runs)
    assert [each for c in found.values() for each in c.runs] == [runs[at] for at in kept]
    note = "1 more run left out because of interference from other programs"
    assert (note in found["2r×1e"].notes) == (len(kept) == 2)


def test_repeated_runs_are_pooled():
    each = by_scale(run("1r1e", [1.0] * 5), run("2r1e", [0.5] * 5), run("2r1e", [0.7] * 5))["2r×1e"]
    assert each.sps == pytest.approx(10_000 / 6.0)
    # Two runs whose ln SPS differ by 0.336, combined with the prior.
    assert (each.noise.from_repeats, each.noise.dof) == (True, USUAL_DOF + 1)
    squares = math.log(0.7 / 0.5) ** 2 / 2 / USUAL_STD**2
    assert each.variance == pytest.approx(USUAL_STD**2 * (USUAL_DOF + squares) / (USUAL_DOF + 1) / 2)
