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
from rl_scaling_callback.sweeping.search import Search, Trial
from tests.builders import ROWS

HALFCHEETAH = {
    Scale(int(row["num_env_runners"]), int(row["num_envs_per_env_runner"])): float(row["time_this_iter_s"]) for row in ROWS
}
SINGLE = Scale(1, 1)
POWERS = (1, 2, 4, 8)


def steady(seconds, error=math.nan, learn=math.nan):
    """5 iterations of 1,000 env steps; `learn` seconds of each are the learner's."""
    return Steady(1000 / seconds, error, 5, 5000.0, 5 * seconds, False, True, {"learn": 5 * learn})


def trial_of(seconds, scale, error=math.nan, learn=math.nan):
    """A trial with 10 s of start-up."""
    return Trial(scale, 10 + 5 * seconds, steady(seconds, error, learn))


def failed(scale, seconds=60.0):
    return Trial(scale, seconds, None)


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
        # 4r×2e was not measured.
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
def test_any_search(goal, shares, slowing, noise, budget, repetitions, cores, seed):
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


def test_the_most_cpus_go_by_what_an_env_runner_holds():
    goal = Goal("cheap", max_cpus=5)
    assert {scale.num_env_runners for scale in Search(POWERS, (1,), goal).scales} == {1, 2, 4}
    assert {scale.num_env_runners for scale in Search(POWERS, (1,), goal, cpus=(1.0, 0.5)).scales} == {1, 2, 4, 8}
    assert {scale.num_env_runners for scale in Search(POWERS, (1,), goal, cpus=(1.0, 2.0)).scales} == {1, 2}


def test_of_equally_good_ones_the_search_takes_what_holds_fewer_cpus():
    search = Search((1, 2, 4), (4,), GOALS["fastest"], cores=2.0)

    def choice(seconds):
        return search.choose([trial_of(each, scale) for scale, each in seconds.items()])

    seconds = {SINGLE: 4.0, Scale(1, 4): 1.8, Scale(2, 4): 1.0, Scale(4, 4): 0.99}
    assert choice(seconds) == Scale(2, 4)
    assert choice({**seconds, Scale(4, 4): 0.97}) == Scale(4, 4)


def test_what_was_measured_is_believed():
    """A grid as smooth as can be, and 2r×2e faster by a quarter than any law allows: measured, it is the choice."""
    search, seconds = Search((1, 2, 4), (1, 2, 4), GOALS["fastest"], budget=9.0), surface(0.3, 0.2, 0.5)
    trials = [trial_of(seconds(scale), scale, error=2.0) for scale in search.scales]
    odd = trial_of(0.8 * seconds(Scale(4, 4)), Scale(2, 2), error=2.0)
    assert search.choose(trials) == Scale(4, 4)
    assert search.choose([odd if trial.scale == odd.scale else trial for trial in trials]) == Scale(2, 2)


def test_close_rivals_are_repeated_and_clear_ones_are_not():
    def proposed(error, seconds):
        known = {SINGLE: 4.0, Scale(2, 1): 2.2, Scale(4, 1): seconds}
        search = Search((1, 2, 4), (1,), GOALS["fastest"], budget=9.0)
        return search.propose([trial_of(each, scale, error) for scale, each in known.items()])

    assert proposed(12.0, 2.15) in (Scale(2, 1), Scale(4, 1))
    assert proposed(8.0, 1.2) is None
    assert proposed(0.5, 2.0) is None


def test_repeated_trials_tell_the_noise():
    """Trials with iterations that agree, of which two of one configuration differ by half."""
    search = Search((1, 2, 4), (1,), GOALS["fastest"], budget=9.0)
    once = [trial_of(each, Scale(r, 1), error=0.5) for r, each in ((1, 4.0), (2, 2.2), (4, 2.0))]
    assert search.propose(once) is None
    assert search.propose([*once, trial_of(6.0, SINGLE, error=0.5)]) in (Scale(2, 1), Scale(4, 1))


def test_what_runs_is_waited_for_and_not_proposed_again():
    search = Search((1, 2, 4), POWERS, GOALS["balanced"], budget=0.9)
    assert search.propose([], [SINGLE]) is None
    trials = [trial_of(1.0, SINGLE)]
    running = []
    while (scale := search.propose(trials, running)) is not None:
        running.append(scale)
    assert running[0] == search.propose(trials)
    assert len(set(running)) == len(running) > 2
    assert SINGLE not in running


def test_many_at_a_time_find_what_one_at_a_time_finds():
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


def test_an_interrupted_search_goes_on_as_if_it_was_not():
    def run(scale):
        return trial_of(surface(1.2, 2.5, 8.2)(scale), scale)

    trials = replay(Search(POWERS, POWERS, GOALS["balanced"], budget=0.6), run)
    assert len(trials) > 3
    for known in range(len(trials)):
        assert Search(POWERS, POWERS, GOALS["balanced"], budget=0.6).propose(trials[:known]) == trials[known].scale


def test_what_failed_is_not_proposed_again():
    search = Search(POWERS, POWERS, GOALS["fastest"], budget=1.0)

    def run(scale):
        return failed(scale) if scale.parallelism >= 16 else trial_of(surface(0.5, 2, 8)(scale), scale)

    trials = replay(search, run)
    times = Counter(trial.scale for trial in trials if trial.failed)
    assert set(times.values()) == {1}
    assert search.choose(trials).parallelism == 8


def test_nothing_is_left_to_search_without_the_reference():
    search = Search(POWERS, POWERS, GOALS["fastest"])
    assert search.propose([]) == SINGLE
    assert search.propose([failed(SINGLE)]) is None
    assert search.choose([failed(SINGLE)]) is None


@pytest.mark.parametrize(("efficiency", "decided"), [(98, True), (81, False), (79, False), (55, True)])
def test_a_figure_near_a_threshold_is_repeated(efficiency, decided):
    search, double = Search((1, 2), (1,), GOALS["save"], budget=9.0), Scale(2, 1)
    proposed = search.propose([trial_of(1.0, SINGLE, 8.0), trial_of(50 / efficiency, double, 8.0)])
    assert (proposed is None) == decided


def test_a_machine_that_was_slower_in_one_trial_is_seen_through():
    """The learner's update took 1.5 times as long along with all else in 2r×1e: that is no worse configuration."""
    search = Search((1, 2, 4), (1,), GOALS["fastest"])
    others = [trial_of(4.0, SINGLE, learn=0.1), trial_of(2.0, Scale(4, 1), learn=0.1)]
    assert search.choose([*others, trial_of(1.8 * 1.5, Scale(2, 1))]) == Scale(4, 1)
    assert search.choose([*others, trial_of(1.8 * 1.5, Scale(2, 1), learn=0.15)]) == Scale(2, 1)
    # Of APPO and IMPALA it is time that env runners waited for the learner.
    overlapping = replace(search, overlaps=True)
    assert overlapping.choose([*others, trial_of(1.8 * 1.5, Scale(2, 1), learn=0.15)]) == Scale(4, 1)


def test_what_an_earlier_experiment_measured_is_free():
    search, seconds = Search(POWERS, POWERS, GOALS["balanced"], budget=0.1), surface(1.2, 2.5, 8.2)
    dear = [Trial(SINGLE, 200.0, steady(seconds(SINGLE))), trial_of(seconds(Scale(4, 1)), Scale(4, 1))]
    free = [replace(trial, seconds=0.0) for trial in dear]
    assert search.propose(dear) is None
    assert search.propose(free) is not None
    assert search.propose(free[1:]) == SINGLE


@pytest.mark.parametrize(
    ("options", "message"),
    [({"runners": ()}, "number of runner counts is 0"), ({"budget": 0}, "budget is 0"), ({"repetitions": 0}, "repetitions is 0")],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        Search(**{"runners": POWERS, "envs": POWERS, "goal": GOALS["save"], **options})


def test_iterations_that_last_a_given_time_are_compared_by_throughput():
    """As those of APPO, of which the faster configuration samples more."""
    one, two = (Steady(sps, 5.0, 5, 5 * sps, 5.0, False, True, {}) for sps in (1000.0, 1900.0))
    trials = [Trial(SINGLE, 20.0, one), Trial(Scale(2, 1), 20.0, two)]
    assert Search((1, 2), (1,), GOALS["fastest"], timed=True).choose(trials) == Scale(2, 1)
