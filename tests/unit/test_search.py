import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl_scaling_callback.analysis.goals import GOALS, Goal
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import SteadyRule, SteadyWindow
from rl_scaling_callback.sweeping.search import Search, Trial
from rl_scaling_callback.sweeping.surrogate import believe
from tests.builders import ROWS

HALFCHEETAH = {
    Scale(int(row["num_env_runners"]), int(row["num_envs_per_env_runner"])): float(row["time_this_iter_s"]) for row in ROWS
}
SINGLE = Scale(1, 1)
POWERS = (1, 2, 4, 8)


def trial_of(seconds, scale, learn=math.nan):
    """A trial of 5 iterations of 1,000 env steps after 10 s of start-up; `learn` seconds of each are the learner's."""
    return Trial(scale, 10 + 5 * seconds, 1000 / seconds, fixed=learn / seconds)


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
    search = Search(POWERS, (1, 2), GOALS[goal], budget=0.7)

    def run(scale):
        # 4r×2e was not measured.
        return trial_of(HALFCHEETAH[scale], scale) if scale in HALFCHEETAH else Trial(scale, 10.0, math.nan)

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
        return search.choose([replace(trial_of(each, scale), learner_seconds=1e-4) for scale, each in seconds.items()] * 6)

    seconds = {SINGLE: 4.0, Scale(1, 4): 1.8, Scale(2, 4): 1.0, Scale(4, 4): 0.995}
    assert choice(seconds) == Scale(2, 4)
    assert choice({**seconds, Scale(4, 4): 0.9}) == Scale(4, 4)


def test_what_runs_is_waited_for_and_not_proposed_again():
    search = Search((1, 2, 4), POWERS, GOALS["balanced"], budget=0.9)
    assert search.propose([], [SINGLE]) is None
    trials = [trial_of(1.0, SINGLE, learn=0.2)]
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
        failed = scale.parallelism >= 16
        return Trial(scale, 60.0, math.nan) if failed else trial_of(surface(0.5, 2, 8)(scale), scale)

    trials = replay(search, run)
    times = Counter(trial.scale for trial in trials if trial.failed)
    assert set(times.values()) == {1}
    assert search.choose(trials).parallelism == 8


def test_nothing_is_left_to_search_without_the_reference():
    search = Search(POWERS, POWERS, GOALS["fastest"])
    failed = [Trial(SINGLE, 60.0, math.nan)]
    assert search.propose([]) == SINGLE
    assert search.propose(failed) is None
    assert search.choose(failed) is None


def test_the_account_of_a_learner_bound_trial_ends_the_search():
    search, seconds = Search(POWERS, POWERS, GOALS["fastest"], budget=1.0), surface(9.7, 0.1, 0.2)
    scales = (SINGLE, Scale(4, 4))
    blind, told = ([trial_of(seconds(scale), scale, learn) for scale in scales] for learn in (math.nan, 9.7))
    assert search.propose(blind) is not None
    assert search.propose(told) is None


@pytest.mark.parametrize(("efficiency", "decided"), [(98, True), (81, False), (79, False), (55, True)])
def test_a_figure_near_a_threshold_is_repeated(efficiency, decided):
    search, double = Search((1, 2), (1,), GOALS["save"], budget=9.0), Scale(2, 1)
    proposed = search.propose([trial_of(1.0, SINGLE), trial_of(50 / efficiency, double)])
    assert (proposed is None) == decided


def test_a_machine_that_was_slower_in_one_trial_is_seen_through():
    """The learner's update took 1.5 times as long along with all else in 4r×1e: that is no worse configuration."""
    search, seconds = Search((1, 4), (1,), GOALS["fastest"]), {SINGLE: 4.0, Scale(4, 1): 1.2}
    steady = [Trial(scale, 30.0, 1000 / each, learner_seconds=1e-4) for scale, each in seconds.items()]
    slow = [*steady[:1], Trial(Scale(4, 1), 30.0, 1000 / 1.2 / 1.5, learner_seconds=1.5e-4)]
    blind = [replace(trial, learner_seconds=math.nan) for trial in slow]
    speedups = [search.expected(trials)[Scale(4, 1)] for trials in (steady, slow, blind)]
    assert speedups[1] == pytest.approx(speedups[0], rel=0.05)
    assert speedups[2] < 0.8 * speedups[0]


def test_what_a_steady_window_tells():
    window = SteadyWindow(SteadyRule(warmup_iterations=0))
    for _ in range(3):
        window.add(1000, 4.0, {"sample": 2.4, "learn": 1.0, "sync": 0.2, "other": 0.4})
    trial = Trial.of(SINGLE, 30.0, window.read(), others=0.1)
    assert (trial.sps, trial.error, trial.others) == (250.0, 0.0, 0.1)
    assert (trial.fixed, trial.learner_seconds) == (pytest.approx(0.4), pytest.approx(1e-3))


def test_what_an_earlier_experiment_measured_is_free():
    search, seconds = Search(POWERS, POWERS, GOALS["balanced"], budget=0.2), surface(1.2, 2.5, 8.2)
    dear = [Trial(SINGLE, 200.0, 1000 / seconds(SINGLE)), trial_of(seconds(Scale(4, 1)), Scale(4, 1))]
    free = [Trial(trial.scale, 0.0, trial.sps) for trial in dear]
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


SCALES = tuple(Scale(r, e) for r in POWERS for e in POWERS)
SPS = np.eye(len(SCALES) + 2)[:-2] + np.eye(len(SCALES) + 2)[-1]
"""What measurements of ln SPS observe, a row for each configuration."""


def test_belief_follows_precise_measurements():
    seconds = surface(0.5, 2, 8)
    values = -np.log([seconds(scale) for scale in SCALES])
    belief = believe(SCALES, math.nan, SPS, values, np.full(len(SCALES), 1e-6))
    assert belief.mean[:-2] == pytest.approx(values - values[0], abs=0.01)
    assert belief.mean[-1] == pytest.approx(values[0], abs=0.01)


def test_the_reference_alone_leaves_speedups_open():
    belief = believe(SCALES, math.nan, SPS[:1], np.array([7.0]), np.array([0.01]))
    assert belief.mean[0] == pytest.approx(0, abs=1e-9)
    assert belief.covariance[0, 0] == pytest.approx(0, abs=1e-9)
    assert belief.mean[-1] == pytest.approx(7, abs=1e-4)
    assert belief.covariance[-1, -1] == pytest.approx(0.01, rel=1e-4)
    assert math.sqrt(belief.covariance[-3, -3]) > 0.4


def test_runners_beyond_the_cores_are_expected_to_bring_little():
    def gain(cores):
        belief = believe(SCALES, cores, SPS[:1], np.array([7.0]), np.array([0.01]))
        return belief.mean[SCALES.index(Scale(8, 1))] - belief.mean[SCALES.index(Scale(4, 1))]

    assert gain(2.0) < 0.1 < gain(64.0)


def test_the_limit_bounds_what_is_expected():
    # 1r×1e at 100 steps/s, a third of the time outside of sampling; whatever is done, hardly more than 300.
    limit = np.eye(len(SCALES) + 2)[-2]
    observed, values = np.stack((SPS[0], limit)), np.log([100, 3])
    belief = believe(SCALES, math.nan, observed, values, np.array([1e-4, 1e-4]))
    assert np.exp(belief.mean[:-2]).max() < 3
    alone = believe(SCALES, math.nan, SPS[:1], values[:1], np.array([1e-4]))
    assert belief.covariance[-3, -3] < alone.covariance[-3, -3]
