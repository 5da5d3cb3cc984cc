"""The choice of the learner's threads, from blocks of scripted training iterations."""

import math

import numpy as np
import pytest

from rl_scaling_callback.analysis.probe_rounds import TrainedIteration
from rl_scaling_callback.analysis.thread_choice import ThreadChoice, thread_counts
from rl_scaling_callback.core.scale import Scale


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
