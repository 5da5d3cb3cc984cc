"""Threads of the learner's torch: how many are free, which algorithms allow to set them, and what learners answer."""

import math
import sys
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest

from rl_scaling_callback.analysis.probe_rounds import TrainedIteration
from rl_scaling_callback.analysis.thread_choice import ThreadChoice, compare_threads, thread_counts
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.rllib.threads import learner_threads, max_learner_threads, set_learner_threads

PPO = {
    "enable_env_runner_and_connector_v2": True,
    "num_cpus_for_main_process": 1,
    "num_env_runners": 2,
    "num_cpus_per_env_runner": 1,
    "num_learners": 0,
    "num_cpus_per_learner": "auto",
    "num_gpus_per_learner": 0,
}
IMPALA = {**PPO, "broadcast_interval": 1}
OLD_STACK = {**PPO, "enable_env_runner_and_connector_v2": False}


class Torch:
    """Torch in a learner's process."""

    def __init__(self, most=64):
        self.threads, self.most = 1, most

    def get_num_threads(self):
        return self.threads

    def set_num_threads(self, threads):
        self.threads = min(threads, self.most)


NO_TORCH = None


def algorithm_of(learners, monkeypatch, config=PPO, wraps=True):
    """Return an Algorithm whose learners, False if they don't answer, have a torch of their own each."""

    def foreach_learner(function, timeout_seconds):
        for torch in learners:
            monkeypatch.setitem(sys.modules, "torch", torch)
            yield SimpleNamespace(ok=torch is not False, get=lambda: function(None)) if wraps else function(None)

    return SimpleNamespace(config=SimpleNamespace(**config), learner_group=SimpleNamespace(foreach_learner=foreach_learner))


@pytest.mark.parametrize("wraps", [True, False])
def test_threads_are_set_in_all_learners(monkeypatch, wraps):
    learners = [Torch(), Torch()]
    algorithm = algorithm_of(learners, monkeypatch, wraps=wraps)
    set_learner_threads(algorithm, 4)
    assert [learner.threads for learner in learners] == [4, 4]
    assert learner_threads(algorithm) == 4


@pytest.mark.parametrize(
    ("learners", "config"), [([False], PPO), ([NO_TORCH], PPO), ([], PPO), ([Torch()], OLD_STACK), ([Torch()], IMPALA)]
)
def test_count_that_is_unknown(monkeypatch, learners, config):
    assert math.isnan(learner_threads(algorithm_of(learners, monkeypatch, config)))


@pytest.mark.parametrize("learners", [[], [False], [NO_TORCH], [Torch(most=1)]])
def test_learners_that_do_not_take_the_count_are_reported(monkeypatch, learners):
    with pytest.raises(ValueError, match="learner_threads is 2, but"):
        set_learner_threads(algorithm_of(learners, monkeypatch), 2)


@pytest.mark.parametrize(
    ("config", "threads", "message"),
    [
        (PPO, 0, "learner_threads is 0; allowed are whole numbers from 1 up"),
        (OLD_STACK, 2, "learner_threads is 2; allowed is only None, because the config uses the old API stack"),
        (IMPALA, 2, "learner_threads is 2; allowed is only None, because this algorithm .* updates in a thread of its own"),
    ],
)
def test_what_can_not_be_set_is_refused_before_anything_changes(monkeypatch, config, threads, message):
    learner = Torch()
    with pytest.raises(ValueError, match=message):
        set_learner_threads(algorithm_of([learner], monkeypatch, config), threads)
    assert learner.threads == 1


@pytest.mark.parametrize(
    ("changes", "cores", "threads"),
    [
        ({}, 8, 3),  # the main process and two env runners
        ({}, 2, 2),
        ({"num_env_runners": 0}, 8, 1),
        ({"num_cpus_for_main_process": 3}, 8, 5),
        ({"num_cpus_per_learner": 2}, 8, 4),  # a local learner is in the main process
        ({"num_cpus_per_env_runner": 0.5}, 8, 2),
        ({"num_learners": 1}, 8, 4),  # the main process waits as well
        ({"num_learners": 2}, 8, 2),
        ({"num_learners": 2, "num_gpus_per_learner": 1}, 8, 1),
        ({"num_cpus_for_main_process": 0, "num_env_runners": 0, "num_cpus_per_learner": 0}, 8, 1),
        (IMPALA, 8, 1),
    ],
)
def test_cores_free_during_an_update(changes, cores, threads):
    assert max_learner_threads({**PPO, **changes}, cores) == threads


# ---------------------------------------------------------------- the choice of their number, from blocks of scripted iterations


def blocks_of(updates, *paces, rest=1.0, noise=0.0):
    """Return a block for each pace of the machine, with updates that take these seconds by number of threads."""
    rng = np.random.default_rng(0)

    def iteration(learn, pace):
        learn *= pace * math.exp(rng.normal(0, noise))
        return TrainedIteration(Scale(2, 4), 100.0, learn + pace * rest, {"learn": learn})

    return [{count: iteration(learn, pace) for count, learn in updates.items()} for pace in paces]


@pytest.mark.parametrize(
    ("most", "default", "learn_share", "counts"),
    [
        (3, 1, 0.5, [1, 2, 3]),
        (6, 2, 0.5, [1, 2, 4, 6]),
        (2, 8, 0.5, [1, 2, 8]),
        (4, math.nan, 0.5, []),  # unknown
        (4, 1, 0.02, []),  # updates are short
        (1, 1, 0.5, []),  # no free cores
    ],
)
def test_counts_are_powers_of_two_up_to_the_free_cores_if_they_matter(most, default, learn_share, counts):
    assert thread_counts(most, default, learn_share) == counts


def test_gain_is_that_within_blocks_on_a_machine_whose_speed_changes():
    choice = ThreadChoice(blocks_of({1: 1.0, 2: 0.5}, 1.0, 1.7, 0.8), default=1)
    assert (choice.threads, choice.compared, choice.is_gain) == (2, 2, True)
    assert choice.half_width == pytest.approx(0.0, abs=1e-9)
    assert math.exp(choice.update.mean) == pytest.approx(2.0)
    assert math.exp(choice.iteration.mean) == pytest.approx(2.0 / 1.5)


def test_fewest_within_two_per_cent_of_the_best_are_chosen():
    updates = {1: 1.0, 2: 0.6, 4: 0.50, 8: 0.495}
    assert ThreadChoice(blocks_of(updates, 1.0, 1.0, 1.0), default=1).threads == 4
    assert ThreadChoice(blocks_of(updates | {8: 0.48}, 1.0, 1.0, 1.0), default=1).threads == 8


def test_after_the_first_block_only_the_fastest_of_many_numbers_are_compared():
    updates = {1: 1.0, 2: 0.6, 4: 0.41, 8: 0.41, 16: 0.4, 32: 0.9}
    [block] = blocks_of(updates, 1.0)
    steps, asked = compare_threads([*updates], 1, has_time=lambda: False), []
    with suppress(StopIteration):
        while True:
            asked.append(steps.send(block[asked[-1]] if asked else None))
    assert ({*asked[:6]}, {*asked[6:]}) == ({*updates}, {1, 4, 8, 16})


def test_fewer_threads_than_the_default_may_be_faster():
    assert ThreadChoice(blocks_of({1: 0.5, 4: 1.0}, 1.0, 1.0, 1.0), default=4).threads == 1


def test_default_stays_unless_another_number_is_clearly_faster():
    equal = ThreadChoice(blocks_of({1: 1.0, 2: 0.99}, 1.0, 1.0, 1.0), default=1)
    assert (equal.threads, equal.compared, equal.is_gain) == (1, 2, False)
    noisy = ThreadChoice(blocks_of({1: 1.0, 2: 0.9}, 1.0, 1.0, 1.0, noise=0.2), default=1)
    assert (noisy.threads, noisy.is_gain) == (1, False)
    assert noisy.half_width > 0.1
    assert str(noisy).endswith("which is no clear gain")


def test_one_block_proves_nothing():
    assert not ThreadChoice(blocks_of({1: 1.0, 2: 0.5}, 1.0), default=1).is_gain
