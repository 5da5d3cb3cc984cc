"""Threads of the learner's torch in real Algorithms, with the learner in their own process or in others."""

import pytest

pytest.importorskip("ray.rllib")

from ray.rllib.algorithms.ppo import PPOConfig

from rl_scaling_callback.rllib.threads import learner_threads, set_learner_threads

pytestmark = pytest.mark.usefixtures("cluster")


def torch_threads(learner):
    import torch

    return torch.get_num_threads()


@pytest.mark.parametrize("learners", [0, 2])
def test_threads_are_set_where_updates_run(learners):
    config = PPOConfig().environment("CartPole-v1").env_runners(num_env_runners=1).learners(num_learners=learners)
    algorithm = config.training(train_batch_size_per_learner=200, minibatch_size=100, num_epochs=1).build_algo()
    try:
        before = learner_threads(algorithm)
        set_learner_threads(algorithm, int(before) + 1)
        algorithm.train()
        seen = [each.get() for each in algorithm.learner_group.foreach_learner(torch_threads)]
        set_learner_threads(algorithm, int(before))
        assert seen == [before + 1] * max(1, learners)
        assert learner_threads(algorithm) == before
    finally:
        algorithm.stop()
