import math

import numpy as np
import pytest

from rl_scaling_callback.core.estimates import student_t, trimmed_mean, without_outliers


def test_few_values_give_the_t_interval():
    mean, error, half_width = trimmed_mean([1.0, 2.0, 3.0])
    assert (mean, error, half_width) == pytest.approx((2.0, 1 / math.sqrt(3), 4.30265 / math.sqrt(3)), rel=1e-5)
    assert trimmed_mean([4.0]) == pytest.approx((4.0, math.nan, math.nan), nan_ok=True)
    assert all(map(math.isnan, trimmed_mean([])))


@pytest.mark.parametrize("n", [5, 12])
def test_interval_has_nominal_coverage(n):
    rng = np.random.default_rng(1)
    estimates = [trimmed_mean(list(rng.normal(0.0, 1.0, n))) for _ in range(2000)]
    held = sum(abs(each.mean) <= each.half_width for each in estimates) / len(estimates)
    assert 0.93 < held < 0.975


def test_half_widths_are_those_of_95_percent_on_both_sides():
    assert [student_t(dof) for dof in (1, 10, 10**6)] == pytest.approx([12.7062, 2.22814, 1.95997], rel=1e-5)
    assert math.isnan(student_t(0))


def test_values_without_outliers_have_the_error_of_the_trimmed_mean():
    values = [1.0, 2.0, 4.0, 3.0, 100.0, 2.5, 1.5]
    kept = without_outliers(values)
    assert max(kept) < 6
    assert trimmed_mean(values).mean == pytest.approx(2.6)
    assert np.std(kept, ddof=1) / len(values) ** 0.5 == pytest.approx(trimmed_mean(values).error)
