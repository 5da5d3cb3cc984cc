"""`exclusive`: whether another trial ran on the same host, on whatever node of Ray."""

import pytest

pytest.importorskip("ray")

import ray
from ray import tune
from ray.cluster_utils import Cluster
from tuning import cartpole, run

pytestmark = pytest.mark.release


@pytest.fixture
def two_nodes(no_cluster):
    """A cluster of two nodes on this host, each with room for one trial. They know as little of each other as two clusters do."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        cluster.wait_for_nodes()
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()


def seen(trial_id, result):
    return result["scaling"]["exclusive"] == 0 or result["training_iteration"] == 200


def test_trials_of_two_nodes_on_one_host_see_each_other(two_nodes, tmp_path):
    config = cartpole(runners=0).training(lr=tune.grid_search([1e-4, 1e-3]))
    results = run(tmp_path, config, stop=seen, max_concurrent_trials=2)
    assert len({trial.metrics["node_ip"] for trial in results}) == 1
    assert [trial.metrics["scaling"]["exclusive"] for trial in results] == [0, 0]
