import math

import numpy as np
import pytest

from rl_scaling_callback.analysis.choice import GOALS, Goal
from rl_scaling_callback.analysis.race import Grid, Race
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.scale import Scale

SINGLE = Scale(1, 1)
GRID = tuple(Scale(r, e) for r in (1, 2, 4) for e in (1, 2, 4, 8))
LAW = np.array([(0.3 + 0.7 / scale.num_envs_per_env_runner) / scale.num_env_runners for scale in GRID])
"""Sampling seconds per env step."""


def rounds(times, count, noise=0.0, seed=0):
    return times * np.exp(np.random.default_rng(seed).normal(0, noise, (count, len(times))))


def fastest(scales, seconds, **rest):
    return Race(GOALS["fastest"]).outcome(scales, seconds, **rest)


def speedups(outcome):
    return np.array([each.speedup for each in outcome.candidates])


def errors(outcome):
    return np.array([each.speedup_error for each in outcome.candidates])


def more(race, outcome, grid):
    return race.worth_adding(outcome.candidates, grid, {each.scale for each in outcome.candidates} - outcome.out)


def test_three_rounds_suffice_without_noise():
    outcome = fastest(GRID, rounds(LAW, 3), rest=0.1)
    assert speedups(outcome) == pytest.approx(1.1 / (LAW + 0.1))
    assert [each.sps for each in outcome.candidates] == pytest.approx(1 / (LAW + 0.1))
    assert errors(outcome) == pytest.approx(np.zeros(len(GRID)), abs=1e-4)
    assert outcome.equals == (Scale(4, 8),)


@pytest.mark.parametrize(("count", "eliminates", "over"), [(1, False, False), (2, True, False), (3, True, True)])
def test_two_rounds_eliminate_and_three_end_a_race(count, eliminates, over):
    outcome = fastest(GRID, rounds(LAW, count))
    assert (outcome.choice, outcome.over) == (Scale(4, 8), over)
    assert outcome.out == ({*GRID} - {SINGLE, Scale(4, 8)} if eliminates else set())


def test_an_outlier_in_two_rounds_eliminates_nothing():
    """The fastest configuration is measured as 1.8 times too slow once, among many with little noise."""
    scales = [Scale(r, e) for r in range(1, 9) for e in range(1, 9)]
    measured = rounds(np.array([1 / scale.parallelism**0.5 for scale in scales]), 2, 0.002)
    measured[1, -1] *= 1.8
    outcome = fastest(scales, measured)
    assert speedups(outcome)[-1] < speedups(outcome)[-2]
    assert Scale(8, 8) not in outcome.out
    assert Scale(1, 2) in outcome.out


@pytest.mark.parametrize(
    "change", [lambda measured: measured * np.linspace(0.7, 2, 6)[:, None], lambda measured: np.insert(measured, 2, NAN, axis=0)]
)
def test_machine_that_slows_down_between_rounds_and_rounds_without_any_probe_change_nothing(change):
    measured = rounds(LAW, 6, 0.05)
    one, other = (Race(GOALS["save"]).outcome(GRID, each) for each in (measured, change(measured)))
    assert speedups(other) == pytest.approx(speedups(one))
    assert errors(other) == pytest.approx(errors(one))
    assert other.out == one.out


def test_outliers_have_little_weight():
    measured = rounds(LAW, 5, 0.03)
    disturbed = measured.copy()
    disturbed[2, 0] *= 3
    disturbed[4, 7] *= 2
    one, other = (fastest(GRID, each) for each in (measured, disturbed))
    assert speedups(other) == pytest.approx(speedups(one), rel=0.04)
    assert np.all(errors(other) < 1.6 * errors(one).max())


def test_intervals_cover_a_repeat():
    held = []
    for seed in range(60):
        one, other = (fastest(GRID, rounds(LAW, 5, 0.05, (seed, each))) for each in range(2))
        held += (np.abs(np.log(speedups(one) / speedups(other))) <= np.log1p(errors(one) / 100))[1:].tolist()
    assert 0.92 < np.mean(held) < 0.98
    assert errors(one)[1] < 30


def test_error_of_the_rest_propagates():
    sure, unsure = (errors(fastest(GRID, rounds(LAW, 3), rest=0.2, rest_error=error)) for error in (0.0, 0.1))
    # d ln S / d ln rest is the rest's share of the reference's time minus its share of the configuration's.
    shares = 0.2 / (LAW + 0.2)
    assert sure[-1] < 1e-3
    widths = np.log1p(unsure / 100)
    assert widths == pytest.approx(widths[-1] * (shares - shares[0]) / (shares[-1] - shares[0]))
    assert widths[-1] > 1.96 * math.sqrt(2) * 0.1 * (shares[-1] - shares[0]) * 0.999


def test_best_is_rarely_eliminated_however_often_it_is_checked():
    """All are equal, so the first one after the reference is among the best; it is compared 18 times with the others."""
    scales = [Scale(r, 1) for r in range(1, 9)]
    dropped = 0
    for seed in range(60):
        measured = rounds(np.ones(8), 20, 0.05, seed)
        dropped += any(scales[1] in fastest(scales, measured[:count]).out for count in range(3, 21))
    assert dropped <= 3


def test_configurations_without_common_rounds_are_compared_through_others():
    """The machine is half as fast in the last rounds, in which one configuration is missing and another is new."""
    scales, times = (SINGLE, Scale(2, 1), Scale(4, 1), Scale(4, 2)), np.array([1.0, 0.6, 0.4, 0.3])
    measured = rounds(times, 8, 0.01) * np.repeat([1.0, 2.0], 4)[:, None]
    measured[4:, 1] = measured[:4, 3] = NAN
    outcome = fastest(scales, measured)
    assert speedups(outcome) == pytest.approx(1 / times, rel=0.02)
    assert outcome.choice == Scale(4, 2)
    assert Scale(2, 1) in outcome.out
    assert errors(outcome)[1] > errors(outcome)[2]


@pytest.mark.parametrize("times_measured", [0, 1])
def test_configuration_measured_once_is_not_eliminated_and_one_that_cannot_be_is_no_rival(times_measured):
    measured = rounds(np.array([1.0, 0.6, 0.9]), 5, 0.001)
    measured[: 5 - times_measured, 2] = NAN
    outcome = fastest((SINGLE, Scale(2, 1), Scale(1, 2)), measured)
    assert (outcome.choice, outcome.out, outcome.over) == (Scale(2, 1), frozenset(), times_measured == 0)
    assert len(outcome.candidates) == 2 + times_measured


@pytest.mark.parametrize(
    ("efficiency", "noise", "out", "over"),
    [
        (90, 0.02, {Scale(1, 2)}, True),
        (80.0, 0.02, set(), True),  # with an exact threshold, it would have to go on for ever
        (80.1, 0.02, set(), True),
        (80.1, 0.06, set(), False),
        (60, 0.02, {Scale(2, 2)}, True),
    ],
)
def test_threshold_of_a_goal(efficiency, noise, out, over):
    """2r×2e is the fastest and efficient enough; 1r×2e clearly meets the goal."""
    scales, times = (SINGLE, Scale(1, 2), Scale(2, 2)), np.array([1.0, 1 / 1.8, 25 / efficiency])
    outcome = Race(GOALS["save"]).outcome(scales, rounds(times, 8, noise))
    assert (outcome.out, outcome.over) == (out, over)


@pytest.mark.parametrize(
    ("goal", "cpus", "choice"),
    [
        (Goal("much", min_speedup=9, max_cpus=3), 1.0, Scale(2, 8)),  # unattainable
        (Goal("none", max_cpus=1), 1.0, Scale(1, 8)),
        (Goal("few", max_cpus=2), 0.5, Scale(2, 8)),
    ],
)
def test_limit_of_cpus(goal, cpus, choice):
    race = Race(goal, cpus=lambda scale: cpus * (1 + scale.num_env_runners))
    outcome = race.outcome(GRID, rounds(LAW, 5, 0.01))
    assert (outcome.choice, outcome.over) == (choice, True)


def test_autocorrelated_noise_counts_as_fewer_rounds():
    steps = np.random.default_rng(0).normal(0, 0.05, (30, len(GRID)))
    lasting = steps.copy()
    for i in range(1, 30):
        lasting[i] = 0.8 * lasting[i - 1] + 0.6 * steps[i]
    one, other = (errors(fastest(GRID, LAW * np.exp(each)))[1:] for each in (steps, lasting))
    assert np.median(other) > 1.7 * np.median(one)


def test_larger_reference_counts_as_scaling_perfectly_up_to_itself():
    outcome = fastest((Scale(2, 1), Scale(4, 1)), rounds(np.array([0.5, 0.3]), 3))
    assert speedups(outcome) == pytest.approx([2, 2 * 0.5 / 0.3])


def test_grid_grows_while_that_pays_off():
    """Doubling envs gains 2×, 1.5×, 1.2×, …; env runners gain nothing beyond two."""
    scales = [SINGLE]
    race, grid = Race(GOALS["fastest"]), Grid((1, 2, 4, 8), tuple(2**k for k in range(11)))

    def seconds(scale):
        return (0.1 + 0.9 / scale.num_envs_per_env_runner) / min(2, scale.num_env_runners)

    for _ in range(20):
        outcome = race.outcome(scales, rounds(np.array([seconds(scale) for scale in scales]), 3))
        added = more(race, outcome, grid)
        scales += added
    assert not added
    assert outcome.choice == Scale(2, 256)
    assert max(scale.num_envs_per_env_runner for scale in scales) == 512
    assert max(scale.num_env_runners for scale in scales) == 4
    assert len(scales) < 30


@pytest.mark.parametrize(("goal", "largest"), [("save", 2), ("balanced", 4)])
def test_grid_does_not_grow_beyond_what_can_meet_the_goal(goal, largest):
    scales = [SINGLE, Scale(1, 2)]
    race = Race(GOALS[goal])
    for _ in range(6):
        outcome = race.outcome(scales, rounds(np.array([scale.parallelism**-0.7 for scale in scales]), 3))
        scales += more(race, outcome, Grid((1,), (1, 2, 4, 8, 16, 32, 64)))
    assert max(scale.parallelism for scale in scales) == largest


@pytest.mark.parametrize("speedup", [2.4, 2.46, 2.49, 2.51])
def test_grid_grows_if_the_choice_meets_a_minimum_only_within_its_error(speedup):
    race = Race(Goal("2.5 times", min_speedup=2.5))
    scales = [SINGLE, Scale(2, 1), Scale(2, 2)]
    noise = 1 + 0.05 * np.random.default_rng(0).uniform(-1, 1, (6, 1)) * [0, 0, 1]
    outcome = race.outcome(scales, noise * [1, 1 / 1.5, 1 / speedup])
    assert outcome.choice == Scale(2, 2)
    assert Scale(2, 4) in more(race, outcome, Grid((1, 2), (1, 2, 4, 8)))


def test_runners_grow_up_to_their_limit():
    race = Race(GOALS["fastest"])
    outcome = race.outcome([SINGLE, Scale(2, 1), Scale(4, 1)], rounds(np.array([1, 0.5, 0.25]), 3))
    assert more(race, outcome, Grid((1, 2, 4, 6), (1,))) == [Scale(6, 1)]
    assert more(race, outcome, Grid((1, 2, 4), (1,))) == more(race, outcome, Grid((1, 2, 4, 6), (1,), lambda scale: False)) == []


@pytest.mark.parametrize("goal", ["save", "fastest"])
def test_nothing_is_eliminated_while_the_noise_is_unknown(goal):
    """Three configurations, each measured twice, in rounds that leave no degree of freedom."""
    seconds = np.array([[1.0, NAN, 0.3], [1.1, 0.5, NAN], [NAN, 0.6, NAN], [NAN, NAN, 0.31]])
    outcome = Race(GOALS[goal]).outcome([SINGLE, Scale(2, 1), Scale(4, 1)], seconds)
    assert (outcome.out, outcome.over) == (frozenset(), False)
