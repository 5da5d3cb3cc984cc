import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_scaling_callback.analysis.goals import GOALS, Goal
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import Steady
from rl_scaling_callback.sweeping.search import Search, TrialOutcome
from tests.builders import ROWS

HALFCHEETAH = {
    Scale(int(row["num_env_runners"]), int(row["num_envs_per_env_runner"])): float(row["time_this_iter_s"]) for row in ROWS
}
SINGLE = Scale(1, 1)
POWERS = (1, 2, 4, 8)


def steady(seconds, error=math.nan, learn=math.nan):
    """Return a steady state of 5 iterations with 1,000 env steps each, of which the learner takes `learn` seconds each."""
    return Steady(1000 / seconds, error, 5, 5000.0, 5 * seconds, False, True, {"learn": 5 * learn})


def trial_of(seconds, scale, error=math.nan, learn=math.nan):
    """Return a trial with 10 s of start-up."""
    return TrialOutcome(scale, 10 + 5 * seconds, steady(seconds, error, learn))


def failed(scale, seconds=60.0):
    return TrialOutcome(scale, seconds, None)


def replay(search, run):
    trials = []
    while (scale := search.propose(trials)) is not None:
        trials.append(run(scale))
        assert len(trials) <= 100
    return trials


def surface(a, b, c, slowing=0.0):
    return lambda scale: a + (b + c / scale.num_envs_per_env_runner) / scale.num_env_runners + slowing * (scale.num_env_runners - 1)


@pytest.mark.parametrize(("goal", "choice"), [("save", "2r1e"), ("balanced", "4r1e"), ("fastest", "8r2e")])
def test_users_measurements(goal, choice):
    search = Search(POWERS, (1, 2), GOALS[goal], budget=1.0)

    def run(scale):
        # 4r×2e is missing from the measurements.
        return trial_of(HALFCHEETAH[scale], scale) if scale in HALFCHEETAH else failed(scale, 10.0)

    assert search.choose(replay(search, run)) == Scale.parse(choice)


@settings(max_examples=25, deadline=None)
@given(
    goal=st.sampled_from([*GOALS.values(), Goal("cheap", min_speedup=1.5, max_cpus=4)]),
    shares=st.tuples(*[st.floats(0.02, 10)] * 3),
    slowing=st.floats(0, 1),
    noise=st.floats(0, 0.2),
    budget=st.floats(0.05, 1.5),
    repetitions=st.integers(1, 3),
    cores=st.sampled_from([math.nan, 2.0, 16.0]),
    seed=st.integers(0, 1000),
)
def test_invariants_of_any_search(goal, shares, slowing, noise, budget, repetitions, cores, seed):
    search = Search((2, 4, 8), POWERS, goal, cores=cores, budget=budget, repetitions=repetitions)
    seconds, rng = surface(*shares, slowing), np.random.default_rng(seed)
    trials = replay(search, lambda scale: trial_of(seconds(scale) * math.exp(rng.normal(0, noise)), scale))
    times = Counter(trial.scale for trial in trials)
    assert trials[0].scale == SINGLE
    assert set(times) <= set(search.scales)
    assert max(times.values()) <= repetitions
    assert all(1 + scale.num_env_runners <= (goal.max_cpus or math.inf) for scale in times)
    assert search.choose(trials) in times
    exhaustive = sum(trial_of(seconds(scale), scale).seconds for scale in search.scales)
    dearest = max(trial.seconds for trial in trials)
    assert sum(trial.seconds for trial in trials) <= budget * exhaustive * math.exp(2 * noise) + dearest


def test_cpu_limit_counts_the_cpus_per_env_runner():
    goal = Goal("cheap", max_cpus=5)
    assert {scale.num_env_runners for scale in Search(POWERS, (1,), goal).scales} == {1, 2, 4}
    assert {scale.num_env_runners for scale in Search(POWERS, (1,), goal, cpus=(1.0, 0.5)).scales} == {1, 2, 4, 8}
    assert {scale.num_env_runners for scale in Search(POWERS, (1,), goal, cpus=(1.0, 2.0)).scales} == {1, 2}


def test_among_equals_the_configuration_with_fewer_cpus_wins():
    search = Search((1, 2, 4), (4,), GOALS["fastest"], cores=2.0)

    def choice(seconds):
        return search.choose([trial_of(each, scale) for scale, each in seconds.items()])

    seconds = {SINGLE: 4.0, Scale(1, 4): 1.8, Scale(2, 4): 1.0, Scale(4, 4): 0.99}
    assert choice(seconds) == Scale(2, 4)
    assert choice({**seconds, Scale(4, 4): 0.97}) == Scale(4, 4)


def test_measurements_override_the_law():
    """On an otherwise smooth grid 2r×2e is much faster than the law predicts. Since it was measured, it is the choice."""
    search, seconds = Search((1, 2, 4), (1, 2, 4), GOALS["fastest"], budget=9.0), surface(0.3, 0.2, 0.5)
    trials = [trial_of(seconds(scale), scale, error=2.0) for scale in search.scales]
    odd = trial_of(0.8 * seconds(Scale(4, 4)), Scale(2, 2), error=2.0)
    assert search.choose(trials) == Scale(4, 4)
    assert search.choose([odd if trial.scale == odd.scale else trial for trial in trials]) == Scale(2, 2)


def test_only_close_rivals_are_repeated():
    def proposed(error, seconds):
        known = {SINGLE: 4.0, Scale(2, 1): 2.2, Scale(4, 1): seconds}
        search = Search((1, 2, 4), (1,), GOALS["fastest"], budget=9.0)
        return search.propose([trial_of(each, scale, error) for scale, each in known.items()])

    assert proposed(12.0, 2.15) in (Scale(2, 1), Scale(4, 1))
    assert proposed(8.0, 1.2) is None
    assert proposed(0.5, 2.0) is None


def test_repeats_determine_the_noise():
    """The iterations of each trial agree, but two trials of one configuration differ by half."""
    search = Search((1, 2, 4), (1,), GOALS["fastest"], budget=9.0)
    once = [trial_of(each, Scale(r, 1), error=0.5) for r, each in ((1, 4.0), (2, 2.2), (4, 2.0))]
    assert search.propose(once) is None
    assert search.propose([*once, trial_of(6.0, SINGLE, error=0.5)]) in (Scale(2, 1), Scale(4, 1))


def test_running_configurations_are_not_proposed_again():
    search = Search((1, 2, 4), POWERS, GOALS["balanced"], budget=0.9)
    assert search.propose([], [SINGLE]) is None
    trials = [trial_of(1.0, SINGLE)]
    running = []
    while (scale := search.propose(trials, running)) is not None:
        running.append(scale)
    assert running[0] == search.propose(trials)
    assert len(set(running)) == len(running) > 2
    assert SINGLE not in running


def test_concurrent_trials_find_the_same_choice_as_sequential_ones():
    search = Search((1, 2, 4), POWERS, GOALS["fastest"], budget=0.9)
    seconds = surface(0.1, 0.3, 0.6)
    trials = [trial_of(seconds(SINGLE), SINGLE)]
    running = []
    while True:
        while len(running) < 3 and (scale := search.propose(trials, running)) is not None:
            running.append(scale)
        if not running:
            break
        trials.append(trial_of(seconds(running[0]), running.pop(0)))
    assert search.choose(trials) == search.choose(replay(search, lambda scale: trial_of(seconds(scale), scale))) == Scale(4, 8)


def test_interrupted_search_continues_unchanged():
    def run(scale):
        return trial_of(surface(1.2, 2.5, 8.2)(scale), scale)

    trials = replay(Search(POWERS, POWERS, GOALS["balanced"], budget=0.6), run)
    assert len(trials) > 3
    for known in range(len(trials)):
        assert Search(POWERS, POWERS, GOALS["balanced"], budget=0.6).propose(trials[:known]) == trials[known].scale


def test_failed_configurations_are_not_proposed_again():
    search = Search(POWERS, POWERS, GOALS["fastest"], budget=1.0)

    def run(scale):
        return failed(scale) if scale.parallelism >= 16 else trial_of(surface(0.5, 2, 8)(scale), scale)

    trials = replay(search, run)
    times = Counter(trial.scale for trial in trials if trial.failed)
    assert set(times.values()) == {1}
    assert search.choose(trials).parallelism == 8


def test_search_ends_if_the_reference_fails():
    search = Search(POWERS, POWERS, GOALS["fastest"])
    assert search.propose([]) == SINGLE
    assert search.propose([failed(SINGLE)]) is None
    assert search.choose([failed(SINGLE)]) is None


@pytest.mark.parametrize(("efficiency", "decided"), [(98, True), (81, False), (79, False), (55, True)])
def test_measurements_near_a_threshold_are_repeated(efficiency, decided):
    search, double = Search((1, 2), (1,), GOALS["save"], budget=9.0), Scale(2, 1)
    proposed = search.propose([trial_of(1.0, SINGLE, 8.0), trial_of(50 / efficiency, double, 8.0)])
    assert (proposed is None) == decided


def test_trials_of_earlier_experiments_are_free():
    search, seconds = Search(POWERS, POWERS, GOALS["balanced"], budget=0.1), surface(1.2, 2.5, 8.2)
    dear = [TrialOutcome(SINGLE, 200.0, steady(seconds(SINGLE))), trial_of(seconds(Scale(4, 1)), Scale(4, 1))]
    free = [replace(trial, seconds=0.0) for trial in dear]
    assert search.propose(dear) is None
    assert search.propose(free) is not None
    assert search.propose(free[1:]) == SINGLE


@pytest.mark.parametrize(
    ("options", "message"),
    [({"runners": ()}, "number of runner counts is 0"), ({"budget": 0}, "budget is 0"), ({"repetitions": 0}, "repetitions is 0")],
)
def test_invalid_options_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        Search(**{"runners": POWERS, "envs": POWERS, "goal": GOALS["save"], **options})


def test_iterations_that_last_a_given_time_are_compared_by_throughput():
    """As those of APPO, of which the faster configuration samples more."""
    one, two = (Steady(sps, 5.0, 5, 5 * sps, 5.0, False, True, {}) for sps in (1000.0, 1900.0))
    trials = [TrialOutcome(SINGLE, 20.0, one), TrialOutcome(Scale(2, 1), 20.0, two)]
    assert Search((1, 2), (1,), GOALS["fastest"], timed=True).choose(trials) == Scale(2, 1)
