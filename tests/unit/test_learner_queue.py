import queue

import pytest

from rl_scaling_callback.rllib.learner_queue import LearnerQueue


class Circular:
    """A buffer of the last `num_batches` batches, each usable `uses` times; `get` takes the newest."""

    def __init__(self, num_batches, uses):
        self.num_batches, self.uses = num_batches, uses
        self.batches = []

    def put(self, item):
        self.batches = [*self.batches, [item, self.uses]][-self.num_batches :]

    def get(self):
        batch = next(batch for batch in reversed(self.batches) if batch[1])
        batch[1] -= 1
        return batch[0]

    def qsize(self):
        return sum(uses for _, uses in self.batches)


class Config:
    """Batches of 40 env steps for two learners together: three samples of 2 x 8."""

    num_envs_per_env_runner, num_learners, num_aggregator_actors_per_learner = 2, 2, 0
    train_batch_size_per_learner, total_train_batch_size = 20, 40

    def get_rollout_fragment_length(self):
        return 8


class Learner:
    config = Config()

    def __init__(self, watched):
        self._learner_thread_in_queue = watched


@pytest.fixture
def now():
    return [10.0]


def watch(watched, now):
    return LearnerQueue(Learner(watched), lambda: now[0])


def test_mean_length_over_time(now):
    watched = queue.Queue(maxsize=3)
    told = watch(watched, now)
    now[0] += 1.0
    watched.put(("a batch", {}))
    now[0] += 2.0
    watched.put(("a batch", {}))
    now[0] += 3.0
    watched.get()
    now[0] += 4.0
    assert told.take() == {"queued": 1 * 2.0 + 2 * 3.0 + 1 * 4.0, "watched": 10.0, "overwritten": 0.0}
    now[0] += 1.0
    assert told.take() == {"queued": 1.0, "watched": 1.0, "overwritten": 0.0}


def test_batches_overwritten_before_use_are_counted(now):
    watched = Circular(2, uses=2)
    told = watch(watched, now)
    batches = [(f"batch {number}", {}) for number in range(5)]
    for batch in batches:
        watched.put(batch)
        if batch is batches[1]:
            assert watched.get() is batch  # one of two uses is enough
    # The buffer has the last two batches. The learner's wait for the first was not watched; batch 2 was never taken.
    assert told.take()["overwritten"] == 3 * 2 * 8 / 2


def test_unknown_kind_of_queue_is_rejected():
    with pytest.raises(AttributeError):
        LearnerQueue(Learner([]))
