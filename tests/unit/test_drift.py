import math

import numpy as np
import pytest

from rl_scaling_callback.core.steady import SEGMENT, Drift


def change_after(costs):
    drift = Drift()
    for cost in costs:
        drift.add(cost)
    return drift.change


def test_nan_with_too_few_iterations():
    assert all(math.isnan(change_after([invalid] * 100)) for invalid in (0.0, -1.0, math.nan, math.inf))
    assert math.isnan(change_after([1.0] * (2 * SEGMENT - 1)))
    assert change_after([1.0] * 2 * SEGMENT) == 0.0


@pytest.mark.parametrize(("change", "expected"), [(2.0, 100.0), (0.5, -50.0), (1.09, 0.0), (0.92, 0.0)])
def test_only_changes_above_ten_percent_count(change, expected):
    assert change_after([1.0] * 5 * SEGMENT + [change] * SEGMENT) == pytest.approx(expected)


@pytest.mark.parametrize("growth", [0.04, -0.03, 0.1])
def test_steady_trends_are_not_noise(growth):
    rng = np.random.default_rng(0)
    changed = change_after([math.exp(growth * k + rng.normal(0, 0.02)) for k in range(4 * SEGMENT)])
    assert math.log1p(changed / 100) == pytest.approx(growth * 3 * SEGMENT, rel=0.1)


def test_noise_is_rarely_flagged_as_drift():
    """With 10 % noise and a lag-1 autocorrelation of 0.3, after each of 200 iterations: at most 2 of 100 trials."""
    rng = np.random.default_rng(0)
    flagged = 0
    for _ in range(100):
        drift, x, found = Drift(), 0.0, False
        for _ in range(200):
            x = 0.3 * x + math.sqrt(1 - 0.3**2) * rng.normal(0, 0.1)
            drift.add(math.exp(x))
            found = found or abs(drift.change) > 0
        flagged += found
    assert flagged <= 2
