"""`exclusive`: whether another trial ran on the same host."""

import pytest

from rl_scaling_callback import ScalingCallback

pytest.importorskip("ray")

import ray
from ray import tune
from ray.cluster_utils import Cluster
from tuning import cartpole, lines, run


def side_by_side(tmp_path, stop):
    """Run two trials of 2 CPUs at the same time; return the results of each."""
    config = cartpole().training(lr=tune.grid_search([1e-4, 1e-3]))
    results = run(tmp_path, config, stop=stop, callbacks=ScalingCallback, concurrent=2)
    assert not results.errors
    return [lines(trial) for trial in results]


def seen(trial_id, result):
    return result["scaling"]["exclusive"] == 0 or result["training_iteration"] == 200


def test_two_trials_side_by_side(cluster, tmp_path):
    for trial in side_by_side(tmp_path, seen):
        assert trial[-1]["scaling"]["exclusive"] == 0


@pytest.fixture
def two_nodes(no_cluster):
    """A cluster of two nodes on this host, each with room for one trial. They know as little of each other as two clusters do."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=2)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        cluster.wait_for_nodes()
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.mark.slow
def test_trials_of_two_nodes_on_one_host_see_each_other(two_nodes, tmp_path):
    first, second = side_by_side(tmp_path, seen)
    assert first[0]["node_ip"] == second[0]["node_ip"]
    for trial in (first, second):
        assert trial[-1]["scaling"]["exclusive"] == 0
