import math
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_scaling_callback.analysis import laws
from rl_scaling_callback.analysis.laws import axes, fit_law
from rl_scaling_callback.core.formulas import amdahl_limit
from rl_scaling_callback.core.scale import Scale
from tests.builders import configuration, of_the_user

HALFCHEETAH = of_the_user()
GRID = [Scale(r, e) for r in (1, 2, 3, 4) for e in (1, 2, 4, 8, 16)]

SURFACES = {
    "Amdahl on two levels": lambda r, e: 1.5 + (2.1 + 8.9 / e) / r,
    "stragglers": lambda r, e: 1.18 + (2.5 + (8.2 + 1.2 * math.sqrt(2 * math.log(r))) / e) / r,
    "contention": lambda r, e: 2 + (2 + 6 / e) / r + 0.7 * (r - 1) / e,
    "saturated": lambda r, e: 1.5 + (2.1 + 8.9 / e) * max(1 / r, 0.5),  # of two cores
}


def sps(surface, scale):
    return 1 / SURFACES[surface](scale.num_env_runners, scale.num_envs_per_env_runner)


def measure(surface, scales, **known):
    return [configuration(scale, sps(surface, scale), **known) for scale in scales]


def test_fit_up_to_four_predicts_eight_and_sixteen():
    law = fit_law([one for one in HALFCHEETAH if one.scale.parallelism <= 4])
    far = [one for one in HALFCHEETAH if one.scale.parallelism > 4]
    assert np.mean([abs(one.sps / law.predict(one.scale).sps - 1) for one in far]) == pytest.approx(0.033, abs=5e-4)


def test_leave_one_out_error_of_the_ten_measurements():
    assert fit_law(HALFCHEETAH).mean_error == pytest.approx(2.9, abs=0.05)
    assert fit_law(HALFCHEETAH[1:]).predict(Scale(1, 1)).sps == pytest.approx(HALFCHEETAH[0].sps, rel=0.12)


@pytest.mark.parametrize("name", ["Amdahl on two levels", "stragglers", "contention"])
def test_noiseless_law_is_recovered(name):
    law = fit_law(measure(name, GRID))
    assert law.mean_error == pytest.approx(0, abs=0.01)
    assert law.predict(Scale(5, 6)).sps == pytest.approx(sps(name, Scale(5, 6)))


def test_more_env_runners_than_cores_gain_nothing_unless_some_were_measured():
    few, four = [Scale(r, e) for r in (1, 2) for e in (1, 2, 4)], Scale(4, 2)
    unbounded, bounded = (fit_law(measure("saturated", few, cores=cores)).predict(four).sps for cores in (math.nan, 2))
    assert bounded == pytest.approx(sps("saturated", four))
    assert unbounded > 1.2 * bounded
    # Runners that wait scale beyond the cores.
    waiting = fit_law(measure("contention", GRID, cores=2))
    assert waiting.predict(Scale(8, 1)).sps == pytest.approx(sps("contention", Scale(8, 1)))


def test_a_law_needs_four_configurations_with_different_numbers_of_env_runners():
    assert fit_law(HALFCHEETAH[:4]).predict(Scale(16, 1)).sps > HALFCHEETAH[3].sps
    assert fit_law(HALFCHEETAH[:3]) is None
    assert fit_law([one for one in HALFCHEETAH if one.scale.num_env_runners == 1]) is None


def test_two_numbers_of_env_runners_tell_no_contention():
    law = fit_law([one for one in HALFCHEETAH if one.scale.num_env_runners <= 2])
    assert law.coefficients["f"] == 0
    assert law.predict(Scale(8, 1)).sps == pytest.approx(HALFCHEETAH[3].sps, rel=0.15)


def test_interval_of_a_fit_with_more_terms_than_configurations_is_that_of_leaving_one_out():
    law = fit_law(HALFCHEETAH[:4])
    missed = [abs(one.sps / law.predict(one.scale).sps - 1) for one in HALFCHEETAH[:4]]
    assert law.width > 2.5 * law.mean_error / 100 > 5 * max(missed)


def test_errors_are_at_least_those_of_the_data_and_of_the_baseline():
    measured = measure("contention", GRID, error=40.0, baseline_sps=sps("contention", Scale(1, 1)))
    predicted = fit_law(measured).predict(Scale(3, 8))
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
    numbers = [number for each in axes(measured).values() for number in (amdahl_limit(each), each)]
    with patch.object(laws, "MAX_LAW_ERROR", math.inf):
        law = fit_law(measured)
    if law is not None:
        numbers += [*law.errors, *law.coefficients.values()]
        for found in map(law.predict, (Scale(0, 1), Scale(3, 3), Scale(10**6, 10**6))):
            numbers += [found.sps, found.sps_error, found.speedup, found.speedup_error]
    assert not any(math.isinf(number) for number in numbers)
