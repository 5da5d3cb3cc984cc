import math

import numpy as np
import pytest

from rl_scaling_callback.core.estimates import trimmed_mean, without_outliers
from rl_scaling_callback.core.steady import SEGMENT, Drift, SteadyRule, SteadyWindow


def fill(window, seconds):
    for each in seconds:
        window.add(1000.0, each)
    return window.read()


def test_more_iterations_than_the_most_are_refused_with_what_to_do():
    with pytest.raises(ValueError, match=r"min_iterations is 10; .* up to max_iterations, which is 8: increase that too"):
        SteadyRule(min_iterations=10)


def test_sums_not_means_after_warm_up():
    steady = fill(SteadyWindow(SteadyRule()), [9, 9, 1, 1, 1, 1, 6])
    assert steady.iterations == 5
    assert steady.sps == 5000 / 10
    assert (steady.env_steps, steady.seconds, steady.converged) == (5000, 10, False)
    equal = fill(SteadyWindow(SteadyRule()), [0.1] * 7)
    assert (equal.error, equal.converged, equal.settled) == (0, True, True)


def test_the_most_iterations_settle_without_convergence():
    rule = SteadyRule(warmup_iterations=0, max_iterations=6)
    assert not fill(SteadyWindow(rule), [1, 3, 1, 3, 1]).settled
    steady = fill(SteadyWindow(rule), [1, 3, 1, 3, 1, 3])
    assert steady.settled
    assert not steady.converged


@pytest.mark.parametrize(
    ("since_restore", "seconds", "learn"), [([1, 2, 3], 9.0, 4.5), ([1, 2, 1], 6.0, 2.0)], ids=["", "unless restored between"]
)
def test_time_without_steps_is_added_to_the_next_iteration(since_restore, seconds, learn):
    window = SteadyWindow(SteadyRule(warmup_iterations=0))
    for number, *iteration in zip(since_restore, (100, 0, 100), (2.0, 3.0, 4.0), (1.0, 2.5, 1.0), strict=True):
        env_steps, spent, learned = iteration
        window.add(env_steps, spent, {"learn": learned}, since_restore=number)
    assert (window.read().iterations, window.read().seconds, window.read().parts) == (2, seconds, {"learn": learn})


@pytest.mark.parametrize(
    ("env_steps", "seconds"), [(math.nan, 1), (100, math.nan), (100, 0), (-1, 1), (math.inf, 1), (100, math.inf)]
)
def test_unknown_or_implausible_iterations_are_ignored(env_steps, seconds):
    window = SteadyWindow(SteadyRule(warmup_iterations=0))
    assert not window.add(env_steps, seconds)
    assert window.read().iterations == 0


@pytest.mark.parametrize(
    ("learns_after", "since_restore", "counts"),
    [(150, [math.nan] * 5, [False, False, False, True, True]), (0, [1, 2, 3, 1, 2, 3], [False, True, True, False, True, True])],
    ids=["it starts when learning does", "a restored trial warms up again"],
)
def test_warm_up(learns_after, since_restore, counts):
    window = SteadyWindow(SteadyRule(warmup_iterations=1), learns_after=learns_after)
    assert [window.add(100, 1.0, since_restore=number) for number in since_restore] == counts
    assert window.read().iterations == sum(counts)


def test_streaming_sums_match_the_batch_formula():
    rng = np.random.default_rng(1)
    seconds = np.exp(rng.normal(math.log(2.7), 0.05, 20_000))
    window = SteadyWindow(SteadyRule(warmup_iterations=0))
    steady = fill(window, seconds)
    x = np.log(seconds / 1000)
    centred = x - x.mean()
    sampled = (centred[:-1] * centred[1:]).sum() / (centred**2).sum()
    rho = min(0.95, max(0.0, sampled + (1 + 3 * sampled) / len(x)))
    half_width = 1.96 * x.std(ddof=1) / math.sqrt(len(x) * (1 - rho) / (1 + rho))
    assert steady.error == pytest.approx(100 * math.expm1(half_width), rel=1e-3)
    assert steady.sps == pytest.approx(1000 * len(x) / seconds.sum(), rel=1e-12)


def test_interval_has_nominal_coverage():
    """With 5 % independent noise, stopping once converged: nominal 95 %, tolerance 92 to 98 % of 1,500 runs."""
    rng = np.random.default_rng(0)
    covered, used = 0, []
    for _ in range(1500):
        window = SteadyWindow(SteadyRule(warmup_iterations=0, max_iterations=100))
        logs: list[float] = []
        while not window.read().converged:
            logs.append(rng.normal(0, 0.05))
            window.add(1.0, math.exp(logs[-1]))
        covered += abs(np.mean(logs)) <= math.log1p(window.read().error / 100)
        used.append(len(logs))
    assert 0.92 <= covered / 1500 <= 0.98
    assert np.mean(used) < 10


@pytest.mark.parametrize(
    "rule",
    [{"warmup_iterations": -1}, {"warmup_iterations": True}, {"min_iterations": 1}, {"precision": 0}, {"max_iterations": None}],
)
def test_invalid_rules_are_rejected(rule):
    ((name, value),) = rule.items()
    with pytest.raises(ValueError, match=f"{name} is {value!r}; allowed are"):
        SteadyRule(**rule)


@pytest.mark.parametrize(
    ("iterations", "counted", "settled", "disturbed"),
    [
        ("......", 4, False, 0),  # as without disturbance, after two iterations of warm-up
        (".......", 5, True, 0),
        ("xx.......", 5, True, 0),
        ("..xxx....", 4, False, 0),  # waits
        ("..xxx.....", 5, True, 0),
        ("..xxxxx...", 8, True, 5 * 2 / (5 * 2 + 3)),  # the cap: too few others
        ("xxxxxxxxxx", 8, True, 1),
        ("xxx.,.,.,.", 5, True, 0),  # the cap: enough others, if noisy
    ],
)
def test_undisturbed_iterations_are_waited_for_up_to_the_cap(iterations, counted, settled, disturbed):
    window = SteadyWindow(SteadyRule())
    for each in iterations:
        window.add(1000, 1.0 if each == "." else 2.0, disturbed=each == "x")
    steady = window.undisturbed(window.read())
    assert (steady.iterations, steady.settled, steady.disturbed) == (counted, settled, pytest.approx(disturbed))


# ---------------------------------------------------------------- drift


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


@pytest.mark.parametrize("change", [0.4, -0.5])
def test_a_change_that_levels_off_within_the_first_segment_counts(change):
    rng = np.random.default_rng(0)
    costs = [(1 + change * min(1.0, k / 8)) * math.exp(rng.normal(0, 0.03)) for k in range(10 * SEGMENT)]
    assert change_after(costs) * change > 0


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


# ---------------------------------------------------------------- estimates


def test_few_values_give_the_t_interval():
    mean, error, half_width = trimmed_mean([1.0, 2.0, 3.0])
    assert (mean, error, half_width) == pytest.approx((2.0, 1 / math.sqrt(3), 4.30265 / math.sqrt(3)), rel=1e-5)
    assert trimmed_mean([4.0]) == pytest.approx((4.0, math.nan, math.nan), nan_ok=True)
    assert all(map(math.isnan, trimmed_mean([])))


@pytest.mark.parametrize("n", [5, 12])
def test_interval_of_a_trimmed_mean_has_nominal_coverage(n):
    rng = np.random.default_rng(1)
    estimates = [trimmed_mean(list(rng.normal(0.0, 1.0, n))) for _ in range(2000)]
    held = sum(abs(each.mean) <= each.half_width for each in estimates) / len(estimates)
    assert 0.93 < held < 0.975


def test_values_without_outliers_have_the_error_of_the_trimmed_mean():
    values = [1.0, 2.0, 4.0, 3.0, 100.0, 2.5, 1.5]
    kept = without_outliers(values)
    assert max(kept) < 6
    assert trimmed_mean(values).mean == pytest.approx(2.6)
    assert np.std(kept, ddof=1) / len(values) ** 0.5 == pytest.approx(trimmed_mean(values).error)
