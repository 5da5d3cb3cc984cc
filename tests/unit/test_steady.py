import math

import numpy as np
import pytest

from rl_scaling_callback.core.steady import DISTURBED, SteadyRule, SteadyWindow


def fill(window, seconds, env_steps=1000.0):
    for each in seconds:
        window.add(env_steps, each)
    return window.read()


def test_default_cap_rises_with_min_iterations():
    rules = ({"min_iterations": 10}, {"min_iterations": 3}, {"max_iterations": 6})
    assert [SteadyRule(**each).iteration_limit for each in rules] == [10, 8, 6]
    with pytest.raises(ValueError, match="max_iterations is 9; allowed are whole numbers from 10 up"):
        SteadyRule(min_iterations=10, max_iterations=9)


def test_sums_not_means_after_warm_up():
    steady = fill(SteadyWindow(SteadyRule()), [9, 9, 1, 1, 1, 1, 6])
    assert steady.iterations == 5
    assert steady.sps == 5000 / 10
    assert (steady.env_steps, steady.seconds, steady.converged) == (5000, 10, False)
    equal = fill(SteadyWindow(SteadyRule()), [0.1] * 7)
    assert (equal.error, equal.converged, equal.settled) == (0, True, True)


def test_caps_settle_without_convergence():
    noisy = [1, 3] * 10
    by_iterations = SteadyRule(warmup_iterations=0, max_iterations=6)
    assert not fill(SteadyWindow(by_iterations), noisy[:5]).settled
    steady = fill(SteadyWindow(by_iterations), noisy[:6])
    assert steady.settled
    assert not steady.converged
    assert fill(SteadyWindow(SteadyRule(warmup_iterations=0, max_iterations=99, max_seconds=9)), noisy[:5]).settled


def test_time_without_steps_is_added_to_the_next_iteration():
    window = SteadyWindow(SteadyRule(warmup_iterations=0))
    window.add(100, 2.0, {"learn": 1.0})
    window.add(0, 3.0, {"learn": 2.5, "sync": 0.5})
    assert (window.read().seconds, window.read().parts) == (2.0, {"learn": 1.0})
    window.add(100, 2.0, {"learn": 1.0})
    assert (window.read().iterations, window.read().seconds, window.read().parts) == (2, 7.0, {"learn": 4.5, "sync": 0.5})


def test_time_without_steps_before_a_restore_is_dropped():
    window = SteadyWindow(SteadyRule(warmup_iterations=1))
    for number, (env_steps, seconds) in [(1, (100, 1.0)), (2, (0, 50.0)), (1, (100, 1.0)), (2, (100, 2.0))]:
        window.add(env_steps, seconds, {"learn": seconds / 2}, since_restore=number)
    assert (window.read().seconds, window.read().parts) == (2.0, {"learn": 1.0})


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
    ("name", "values"),
    [
        ("warmup_iterations", [-1, 1.5]),
        ("min_iterations", [1, True]),
        ("precision", [0, math.nan]),
        ("max_iterations", [4]),
        ("max_seconds", [math.inf, "60"]),
    ],
)
def test_invalid_rules_are_rejected(name, values):
    for value in values:
        with pytest.raises(ValueError, match=f"{name} is {value!r}; allowed are"):
            SteadyRule(**{name: value})


@pytest.mark.parametrize(
    ("seconds", "iterations", "settled", "disturbed"),
    [
        ("......", 4, False, 0),  # as without disturbance, after two iterations of warm-up
        (".......", 5, True, 0),
        ("xx.......", 5, True, 0),
        ("..xxx....", 4, False, 0),  # waits
        ("..xxx.....", 5, True, 0),
        ("..xxxxx...", 8, True, 5 * 2 / (5 * 2 + 3)),  # the cap: too few others
        ("xxxxxxxxxx", 8, True, 1),
    ],
)
def test_undisturbed_iterations_are_waited_for_up_to_the_cap(seconds, iterations, settled, disturbed):
    every, undisturbed = SteadyWindow(SteadyRule()), SteadyWindow(SteadyRule())
    for each in seconds:
        parts = {DISTURBED: 2.0 if each == "x" else 0.0}
        if each == ".":
            undisturbed.add(1000, 1.0, parts)
        every.add(1000, 2.0 if each == "x" else 1.0, parts)
    steady = undisturbed.read_undisturbed(every.read())
    assert (steady.iterations, steady.settled, steady.disturbed) == (iterations, settled, pytest.approx(disturbed))


def test_noisy_undisturbed_iterations_are_taken_at_the_cap():
    every, undisturbed = SteadyWindow(SteadyRule()), SteadyWindow(SteadyRule())
    for number in range(10):
        each = (1000, 1.0 + number % 2)
        every.add(*each)
        if number > 2:
            undisturbed.add(*each)
    steady = undisturbed.read_undisturbed(every.read())
    assert (steady.iterations, steady.settled, steady.converged) == (5, True, False)
