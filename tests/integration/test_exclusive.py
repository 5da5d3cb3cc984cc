"""`exclusive`: whether another trial ran on the same node, on real multi-node clusters of Ray."""

import json
from pathlib import Path

import pytest

from rl_scaling_callback import ScalingCallback

pytest.importorskip("ray")

import ray
from ray import tune
from ray.cluster_utils import Cluster
from ray.rllib.algorithms.ppo import PPOConfig

pytestmark = pytest.mark.usefixtures("worker_path")


def side_by_side(tmp_path, *, nodes, cpus, stop):
    """Run two trials of 2 CPUs at the same time; return the results of each."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": cpus, "include_dashboard": False})
    try:
        for _ in range(nodes - 1):
            cluster.add_node(num_cpus=cpus)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        cluster.wait_for_nodes()
        config = (
            PPOConfig()
            .environment("CartPole-v1")
            .env_runners(num_env_runners=1)
            .training(train_batch_size_per_learner=400, minibatch_size=400, num_epochs=1, lr=tune.grid_search([1e-4, 1e-3]))
            .callbacks(ScalingCallback)
        )
        results = tune.Tuner(
            "PPO",
            param_space=config,
            run_config=tune.RunConfig(storage_path=str(tmp_path), stop=stop, verbose=0),
        ).fit()
        assert not results.errors
        lines = [(Path(trial.path) / "result.json").read_text().splitlines() for trial in results]
        return [[json.loads(line) for line in trial] for trial in lines]
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_two_trials_side_by_side_on_one_node(tmp_path):
    def seen(trial_id, result):
        return result["scaling"]["exclusive"] == 0 or result["training_iteration"] == 200

    for trial in side_by_side(tmp_path, nodes=1, cpus=4, stop=seen):
        assert trial[-1]["scaling"]["exclusive"] == 0


@pytest.mark.slow
def test_one_trial_on_each_of_two_nodes(tmp_path):
    first, second = side_by_side(tmp_path, nodes=2, cpus=2, stop={"time_total_s": 20})
    assert first[0]["timestamp"] < second[-1]["timestamp"]
    assert second[0]["timestamp"] < first[-1]["timestamp"], "they did not run at the same time"
    for trial in (first, second):
        assert {result["scaling"]["exclusive"] for result in trial} == {1.0}
