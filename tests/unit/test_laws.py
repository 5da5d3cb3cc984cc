import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_scaling_callback.analysis.laws import LAWS, Measured, axis_limit, fit_laws
from rl_scaling_callback.core.scale import Scale
from tests.builders import ROWS

HALFCHEETAH = [
    Measured(
        Scale(int(row["num_env_runners"]), int(row["num_envs_per_env_runner"])),
        float(row["env_steps"]) / float(row["time_this_iter_s"]),
    )
    for row in ROWS
]
TEN = [one.scale for one in HALFCHEETAH]
GRID = [Scale(r, e) for r in (1, 2, 3, 4) for e in (1, 2, 4, 8, 16)]
AMDAHL, STRAGGLERS, CONTENTION = (law.name for law in LAWS)

SURFACES = {
    AMDAHL: lambda r, e: 1.5 + (2.1 + 8.9 / e) / r,
    STRAGGLERS: lambda r, e: 1.18 + (2.5 + (8.2 + 1.2 * math.sqrt(2 * math.log(r))) / e) / r,
    CONTENTION: lambda r, e: 2 + (2 + 6 / e) / r + 0.7 * (r - 1) / e,
    "saturated": lambda r, e: 1.5 + (2.1 + 8.9 / e) * max(1 / r, 0.5),  # of two cores; none of the laws
}


def sps(surface, scale):
    return 1 / surface(scale.num_env_runners, scale.num_envs_per_env_runner)


def measure(surface, scales, error=math.nan):
    return [Measured(scale, sps(surface, scale), error) for scale in scales]


def by_name(laws):
    return {fit.law.name: fit for fit in laws.fits}


def test_fit_up_to_four_predicts_eight_and_sixteen():
    laws = fit_laws([one for one in HALFCHEETAH if one.scale.parallelism <= 4])
    far = [one for one in HALFCHEETAH if one.scale.parallelism > 4]
    missed = {name: np.mean([abs(one.sps / fit.predict(one.scale).sps - 1) for one in far]) for name, fit in by_name(laws).items()}
    assert missed == {
        name: pytest.approx(each, abs=5e-4) for name, each in ((AMDAHL, 0.096), (STRAGGLERS, 0.033), (CONTENTION, 0.096))
    }
    assert laws.chosen.law.name == STRAGGLERS


@pytest.mark.parametrize("name", [AMDAHL, STRAGGLERS, CONTENTION])
def test_noiseless_law_is_recovered(name):
    laws = fit_laws(measure(SURFACES[name], GRID))
    assert laws.chosen.law.name == name
    assert laws.chosen.mean_error < 0.01
    assert laws.chosen.predict(Scale(5, 6)).sps == pytest.approx(sps(SURFACES[name], Scale(5, 6)))


def test_more_env_runners_than_cores_gain_nothing_unless_some_were_measured():
    few = measure(SURFACES["saturated"], [Scale(r, e) for r in (1, 2) for e in (1, 2, 4)])
    unbounded, bounded = (fit_laws(few, cores=cores).chosen for cores in (math.nan, 2))
    assert bounded.predict(Scale(4, 2)).sps == pytest.approx(sps(SURFACES["saturated"], Scale(4, 2)))
    assert unbounded.predict(Scale(4, 2)).sps > 1.2 * bounded.predict(Scale(4, 2)).sps
    # Runners that wait scale beyond the cores.
    waiting = fit_laws(measure(SURFACES[AMDAHL], GRID), cores=2).chosen
    assert waiting.predict(Scale(8, 1)).sps == pytest.approx(sps(SURFACES[AMDAHL], Scale(8, 1)))


def test_extrapolation_is_flagged():
    chosen = fit_laws(HALFCHEETAH).chosen
    scales = (Scale(16, 2), Scale(17, 1), Scale(1, 17), Scale(8, 5))
    assert [chosen.predict(scale).extrapolated for scale in scales] == [False, True, True, True]


def test_limits():
    limit = fit_laws(measure(SURFACES[AMDAHL], TEN)).limit[1]
    assert limit == pytest.approx(SURFACES[AMDAHL](1, 1) / 1.5, rel=0.01)
    perfect = fit_laws([Measured(Scale(n, 1), n) for n in (1, 2, 4)])
    assert all(math.isnan(limit) for limit in perfect.limit)


def test_no_limit_is_below_what_was_measured():
    # More envs slow down a runner, more runners don't: the limit of the env axis does not limit the speedup.
    seconds = {"1r1e": 10.0, "1r2e": 12.0, "1r4e": 13.0, "2r1e": 5.5, "2r2e": 6.6, "2r4e": 7.0}
    laws = fit_laws([Measured(Scale.parse(scale), 1 / each) for scale, each in seconds.items()])
    assert min(map(axis_limit, laws.axes.values())) < 1
    assert laws.limit[0] >= 10 / 5.5


def test_too_few_for_a_law():
    five = [one for one in HALFCHEETAH if one.scale.parallelism <= 4 and one.scale.num_envs_per_env_runner <= 2]
    assert set(by_name(fit_laws(five))) == {AMDAHL}
    laws = fit_laws(HALFCHEETAH[:3])
    assert (laws.fits, laws.chosen) == ((), None)
    fractions = laws.axes["env runners"]
    assert fractions[4] == pytest.approx((4.39 / 11.89 - 1 / 4) / (1 - 1 / 4))
    assert laws.limit == (axis_limit(fractions), axis_limit(fractions))
    assert fit_laws([]).chosen is None


def test_env_runners_and_envs_are_interchangeable_on_a_line():
    line = fit_laws(HALFCHEETAH[:4]).chosen
    assert line.on_a_line
    assert line.predict(Scale(2, 4)).sps == line.predict(Scale(8, 1)).sps


def test_no_predictions_if_no_law_fits():
    rng = np.random.default_rng(5)
    wild = fit_laws([Measured(scale, 1 / rng.uniform(1, 10), 5.0) for scale in GRID])
    assert wild.fits[0].mean_error > 20
    assert wild.chosen is None


def test_errors_are_at_least_those_of_the_data_and_of_the_baseline():
    measured = measure(SURFACES[AMDAHL], GRID, error=40.0)
    predicted = fit_laws(measured, baseline=measured[0]).chosen.predict(Scale(3, 8))
    assert math.log1p(predicted.error / 100) == pytest.approx(math.log(1.4) / math.sqrt(2))
    width = math.hypot(math.log1p(predicted.error / 100), math.log(1.4))
    assert math.log1p(predicted.speedup_error / 100) == pytest.approx(width)


def test_without_one_by_one():
    laws = fit_laws(HALFCHEETAH[1:])
    assert laws.axes == {}
    assert laws.chosen.predict(Scale(1, 1)).sps == pytest.approx(HALFCHEETAH[0].sps, rel=0.12)
    assert laws.limit[1] > laws.limit[0] > 1


def test_unknown_throughputs_are_left_out_and_repeats_rejected():
    spoilt = [Measured(Scale(16, n), each) for n, each in enumerate((math.nan, 0.0, -1.0, math.inf), 1)]
    laws = fit_laws([*HALFCHEETAH, *spoilt])
    assert len(laws.fitted_to) == 10
    assert laws.chosen.coefficients == fit_laws(HALFCHEETAH).chosen.coefficients
    with pytest.raises(ValueError, match="2r×1e more than once"):
        fit_laws([*HALFCHEETAH, Measured(Scale(2, 1), 7.0)])


@pytest.mark.filterwarnings("error")
@settings(max_examples=25)
@given(
    st.lists(
        st.builds(Measured, st.builds(Scale, st.integers(0, 9), st.integers(1, 1000)), st.floats(), st.floats()),
        max_size=9,
        unique_by=lambda one: one.scale,
    ),
    st.floats(),
)
def test_nothing_is_ever_infinite(measured, cores):
    laws = fit_laws(measured, cores, measured[0] if measured else None)
    numbers = [*laws.limit]
    for fractions in laws.axes.values():
        numbers += [axis_limit(fractions), *fractions.values()]
    for fit in laws.fits:
        numbers += [fit.mean_error, max(fit.errors), *fit.coefficients.values()]
        for scale in (Scale(0, 1), Scale(3, 3), Scale(10**6, 10**6)):
            predicted = fit.predict(scale)
            numbers += [predicted.sps, predicted.error, predicted.speedup, predicted.speedup_error]
    assert not any(math.isinf(number) for number in numbers)
