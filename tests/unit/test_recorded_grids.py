"""Laws and intervals on grids of real environments (tests/data/grids), recorded on noisy shared machines."""

import math
from statistics import fmean

import pytest

from rl_scaling_callback.analysis import noise
from rl_scaling_callback.analysis.configurations import configurations
from rl_scaling_callback.analysis.laws import LAWS, Measured, fit_laws
from rl_scaling_callback.analysis.runs import Experiment
from rl_scaling_callback.report import make_report

from ..benchmarks import coverage
from ..grids import NAMES, grid


def measured(name):
    found = configurations(grid(name))
    return [Measured(each.scale, each.sps, each.own_error) for each in found], found[0].runs[0].cores


@pytest.mark.parametrize("name", NAMES)
def test_chosen_law_predicts_left_out_configurations(name):
    """Noise alone causes errors of 5 to 8 %."""
    laws = fit_laws(*measured(name))
    amdahl = next(fit for fit in laws.fits if fit.law is LAWS[0])
    print(f"{name}: {laws.chosen.law.name}, {laws.chosen.mean_error:.1f} % (at most {max(laws.chosen.errors):.1f} %); ", end="")
    print(f"Amdahl {amdahl.mean_error:.1f} %")
    assert laws.chosen.mean_error <= 9
    assert laws.chosen.mean_error < 0.8 * amdahl.mean_error


def test_coverage_of_law_intervals_for_left_out_configurations():
    """Each configuration is predicted by a law fitted without it."""
    held = []
    for name in NAMES:
        all_of_them, cores = measured(name)
        for left_out in all_of_them:
            law = fit_laws([each for each in all_of_them if each is not left_out], cores).chosen
            prediction = law.predict(left_out.scale)
            held.append(abs(math.log(prediction.sps / left_out.sps)) <= math.log1p(prediction.error / 100))
    print(f"{len(held)} configurations, {100 * fmean(held):.0f} % held")
    assert 0.9 <= fmean(held) <= 1


@pytest.mark.parametrize(
    ("name", "size"), [("cartpole", 1), ("halfcheetah", 1), ("slow_step", 1), ("cartpole", 2), ("slow_step", 2)]
)
def test_coverage_of_intervals_for_a_repeated_grid(name, size):
    held = []
    for one, other in coverage.sets(name, size):
        for both in coverage.compared(grid(name, one), grid(name, other)):
            held += [confirmed for confirmed, _ in both]
    print(f"{name}, {size} of each: {100 * fmean(held):.1f} % of {len(held)} held")
    # Wide without repeats: the noise of the machine is unknown.
    assert 0.9 <= fmean(held) <= 0.995


@pytest.mark.parametrize("name", NAMES)
def test_coverage_of_the_interval_of_an_unrepeated_run(name):
    held = fmean(confirmed for confirmed, _ in coverage.one_run_among_repeats(name))
    print(f"{name}: {100 * held:.1f} % held")
    assert 0.9 <= held <= 0.99


def test_defaults_match_the_grids():
    assert coverage.usual_deviation(NAMES) == pytest.approx(noise.USUAL_STD, rel=0.05)
    assert coverage.usual_level(NAMES) == pytest.approx(noise.USUAL_LEVEL, rel=0.05)
    assert coverage.usual_freedom(NAMES) == pytest.approx(noise.USUAL_DOF, rel=0.05)


@pytest.mark.parametrize("name", NAMES)
def test_whole_report(name):
    (study,) = make_report(Experiment("recorded", (grid(name),))).studies
    assert study.recommendation.choice is not None
    for each in study.configurations:
        assert sum(each.losses.values()) == pytest.approx(each.loss, abs=1e-9)
