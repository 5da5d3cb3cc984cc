"""Speed correction, laws and intervals on grids of real environments (tests/data/grids), recorded on noisy shared machines."""

from statistics import fmean

import pytest

from rl_scaling_callback.analysis import noise
from rl_scaling_callback.analysis.configurations import configurations
from rl_scaling_callback.analysis.laws import Measured, fit_laws
from rl_scaling_callback.analysis.runs import Experiment
from rl_scaling_callback.analysis.speed_correction import correct_speed
from rl_scaling_callback.report.report import make_report

from ..benchmarks import coverage
from ..grids import NAMES
from ..grids import grid as as_measured


def grid(name):
    return correct_speed(as_measured(name))


def measured(study):
    found = configurations(study)
    return [Measured(each.scale, 1 / each.sps, each.own_error) for each in found], found[0].runs[0].cores


@pytest.mark.parametrize("name", NAMES)
def test_machine_speed_explains_most_variation_between_runs(name):
    pace = grid(name).correction
    print(f"{name}: {100 * pace.measured:.1f} % as measured, {100 * pace.corrected:.1f} % corrected; slope {pace.slope:.2f}")
    assert pace.corrected < 0.7 * pace.measured
    assert 0.7 < pace.slope < 1.1


@pytest.mark.parametrize("name", NAMES)
def test_chosen_law_predicts_left_out_configurations(name):
    laws, uncorrected = fit_laws(*measured(grid(name))), fit_laws(*measured(as_measured(name)))
    print(
        f"{name}: law {laws.chosen.name}, {laws.chosen.mean_error:.1f} % (at most {laws.chosen.max_error:.1f} %); Amdahl in N ",
        end="",
    )
    print(f"{named(laws, 'Amdahl').mean_error:.1f} %; as measured {uncorrected.chosen.name}, {uncorrected.chosen.mean_error:.1f} %")
    assert laws.chosen.mean_error <= 5


def named(laws, name):
    return next(fit for fit in laws.fits if fit.name == name)


def test_two_level_laws_beat_amdahl_in_n():
    for name in NAMES:
        laws = fit_laws(*measured(grid(name)))
        assert laws.chosen.mean_error < 0.7 * named(laws, "Amdahl").mean_error


def test_coverage_of_law_intervals_for_left_out_configurations():
    """Each configuration is predicted by a law fitted without it."""
    held = []
    for name in NAMES:
        all_of_them, cores = measured(grid(name))
        for left_out in all_of_them:
            law = fit_laws([each for each in all_of_them if each is not left_out], cores).chosen
            prediction = law.predict(left_out.scale)
            held.append(prediction.low <= left_out.seconds <= prediction.high)
    print(f"{len(held)} configurations, {100 * fmean(held):.0f} % held")
    assert 0.9 <= fmean(held) <= 1


@pytest.mark.parametrize(
    ("name", "size"), [("cartpole", 1), ("halfcheetah", 1), ("slow_step", 1), ("cartpole", 2), ("slow_step", 2)]
)
def test_coverage_of_intervals_for_a_repeated_grid(name, size):
    held = []
    for one, other in coverage.sets(name, size):
        for both in coverage.compared(as_measured(name, one), as_measured(name, other), "never"):
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
    assert coverage.usual_left(NAMES) == pytest.approx(noise.USUAL_LEFT, rel=0.05)
    assert coverage.usual_freedom(NAMES) == pytest.approx(noise.USUAL_DOF, rel=0.05)


@pytest.mark.parametrize("name", NAMES)
def test_whole_report(name):
    (study,) = make_report(Experiment("recorded", (grid(name),))).studies
    assert study.recommendation.choice is not None
    for each in study.configurations:
        assert sum(each.losses.values()) == pytest.approx(each.loss, abs=1e-9)
