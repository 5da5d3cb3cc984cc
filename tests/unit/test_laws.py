import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_scaling_callback.analysis.laws import LAWS, axis_limit, fit_laws
from rl_scaling_callback.core.scale import Scale
from tests.builders import configuration, of_the_user

HALFCHEETAH = of_the_user()
GRID = [Scale(r, e) for r in (1, 2, 3, 4) for e in (1, 2, 4, 8, 16)]
AMDAHL, STRAGGLERS, CONTENTION = (law.name for law in LAWS)

SURFACES = {
    AMDAHL: lambda r, e: 1.5 + (2.1 + 8.9 / e) / r,
    STRAGGLERS: lambda r, e: 1.18 + (2.5 + (8.2 + 1.2 * math.sqrt(2 * math.log(r))) / e) / r,
    CONTENTION: lambda r, e: 2 + (2 + 6 / e) / r + 0.7 * (r - 1) / e,
    "saturated": lambda r, e: 1.5 + (2.1 + 8.9 / e) * max(1 / r, 0.5),  # of two cores; none of the laws
}


def sps(surface, scale):
    return 1 / SURFACES[surface](scale.num_env_runners, scale.num_envs_per_env_runner)


def measure(surface, scales, **known):
    return [configuration(scale, sps(surface, scale), **known) for scale in scales]


def by_name(laws):
    return {fit.law.name: fit for fit in laws.fits}


def test_fit_up_to_four_predicts_eight_and_sixteen():
    laws = fit_laws([one for one in HALFCHEETAH if one.scale.parallelism <= 4])
    far = [one for one in HALFCHEETAH if one.scale.parallelism > 4]
    missed = {name: np.mean([abs(one.sps / fit.predict(one.scale).sps - 1) for one in far]) for name, fit in by_name(laws).items()}
    assert missed == pytest.approx({AMDAHL: 0.096, STRAGGLERS: 0.033, CONTENTION: 0.096}, abs=5e-4)
    assert laws.chosen.law.name == STRAGGLERS


def test_leave_one_out_errors_of_the_ten_measurements():
    laws = fit_laws(HALFCHEETAH)
    errors = {name: fit.mean_error for name, fit in by_name(laws).items()}
    assert errors == pytest.approx({STRAGGLERS: 2.9, AMDAHL: 5.5, CONTENTION: 5.5}, abs=0.05)
    assert laws.chosen.law.name == STRAGGLERS
    without = fit_laws(HALFCHEETAH[1:])
    assert without.axes == {}
    assert without.chosen.predict(Scale(1, 1)).sps == pytest.approx(HALFCHEETAH[0].sps, rel=0.12)


@pytest.mark.parametrize("name", [AMDAHL, STRAGGLERS, CONTENTION])
def test_noiseless_law_is_recovered(name):
    chosen = fit_laws(measure(name, GRID)).chosen
    assert (chosen.law.name, chosen.mean_error) == (name, pytest.approx(0, abs=0.01))
    assert chosen.predict(Scale(5, 6)).sps == pytest.approx(sps(name, Scale(5, 6)))


def test_more_env_runners_than_cores_gain_nothing_unless_some_were_measured():
    few, four = [Scale(r, e) for r in (1, 2) for e in (1, 2, 4)], Scale(4, 2)
    laws = [fit_laws(measure("saturated", few, cores=cores)) for cores in (math.nan, 2)]
    unbounded, bounded = (each.chosen.predict(four).sps for each in laws)
    assert bounded == pytest.approx(sps("saturated", four))
    assert unbounded > 1.2 * bounded
    # Runners that wait scale beyond the cores.
    waiting = fit_laws(measure(AMDAHL, GRID, cores=2)).chosen
    assert waiting.predict(Scale(8, 1)).sps == pytest.approx(sps(AMDAHL, Scale(8, 1)))


def test_a_law_needs_enough_configurations_with_different_numbers_of_env_runners():
    one_runner = [one for one in HALFCHEETAH if one.scale.num_env_runners == 1]
    assert fit_laws(one_runner).fits == fit_laws(HALFCHEETAH[:3]).fits == ()
    assert set(by_name(fit_laws(HALFCHEETAH[:3] + HALFCHEETAH[4:6]))) == {AMDAHL}
    assert fit_laws(HALFCHEETAH[:4]).chosen.predict(Scale(16, 1)).sps > HALFCHEETAH[3].sps


def test_errors_are_at_least_those_of_the_data_and_of_the_baseline():
    measured = measure(AMDAHL, GRID, error=40.0, baseline_sps=sps(AMDAHL, Scale(1, 1)))
    predicted = fit_laws(measured).chosen.predict(Scale(3, 8))
    width = math.log1p(predicted.sps_error / 100)
    assert width == pytest.approx(math.log(1.4) / math.sqrt(2))
    assert math.log1p(predicted.speedup_error / 100) == pytest.approx(math.hypot(width, math.log(1.4)))


@pytest.mark.filterwarnings("error")
@settings(max_examples=25)
@given(
    st.lists(
        st.builds(
            lambda scale, sps, error: configuration(scale, sps, sps, error),
            st.builds(Scale, st.integers(0, 9), st.integers(1, 1000)),
            st.floats(1e-9, 1e24) | st.just(math.nan),
            st.floats(),
        ),
        max_size=9,
        unique_by=lambda one: one.scale,
    )
)
def test_nothing_is_ever_infinite(measured):
    laws = fit_laws(measured)
    numbers = [number for each in laws.axes.values() for number in (axis_limit(each), *each.values())]
    for fit in laws.fits:
        numbers += [*fit.errors, *fit.coefficients.values()]
        for found in map(fit.predict, (Scale(0, 1), Scale(3, 3), Scale(10**6, 10**6))):
            numbers += [found.sps, found.sps_error, found.speedup, found.speedup_error]
    assert not any(math.isinf(number) for number in numbers)
