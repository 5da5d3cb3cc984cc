"""Trials on several nodes of one Ray cluster: baselines are shared only between equal hardware."""

import json
import math
import os
from pathlib import Path

import pytest

pytest.importorskip("ray")

import ray
from ray import tune
from ray.cluster_utils import Cluster
from tuning import costly, lines, run

CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
TRIALS = [(1, "first"), (2, "second"), (2, "small"), (1, "small"), (2, "small")]
"""Number of env runners and node of each trial, in order."""

pytestmark = [
    pytest.mark.release,
    pytest.mark.skipif(len(CORES) < 2, reason="different hardware is simulated by taking cores away"),
]


@pytest.fixture(scope="module")
def nodes(no_cluster):
    """Three nodes; `small` has only one core. Each has a resource with its name."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 3, "resources": {"first": 1}, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=3, resources={"second": 1})
        # A node's processes inherit the CPU affinity of the process that starts them.
        os.sched_setaffinity(0, CORES[:1])
        try:
            cluster.add_node(num_cpus=3, resources={"small": 1})
        finally:
            os.sched_setaffinity(0, CORES)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        cluster.wait_for_nodes()
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(scope="module")
def experiment(nodes, tmp_path_factory):
    config = costly(step_s=0.005).resources(placement_strategy="STRICT_PACK")
    # The seed numbers the trials; it is not part of a workload.
    config.seed = tune.grid_search(list(range(len(TRIALS))))
    config.num_env_runners = tune.sample_from(lambda spec: TRIALS[spec.config.seed][0])
    config.custom_resources_for_main_process = tune.sample_from(lambda spec: {TRIALS[spec.config.seed][1]: 0.01})
    results = run(tmp_path_factory.mktemp("storage"), config, stop={"training_iteration": 5})
    assert not results.errors
    return results


@pytest.fixture(scope="module")
def scaling(experiment):
    """The injected dicts of each trial."""
    return [[result["scaling"] for result in lines(trial)] for trial in experiment]


def test_baseline_of_one_node_is_used_on_another(scaling):
    reference, parallel = scaling[:2]
    assert {result["is_baseline"] for result in reference} == {1}
    assert {result["is_baseline"] for result in parallel} == {0}
    assert {result["comparable"] for result in parallel} == {1}
    assert {result["baseline_sps"] for result in parallel} == {reference[-1]["baseline_sps"]}


def test_other_hardware_is_not_compared(scaling):
    alone, own_reference, served = scaling[2:]
    assert {result["comparable"] for result in alone} == {0}
    assert all(math.isnan(result["speedup"]) for result in alone)
    assert {result["is_baseline"] for result in own_reference} == {1}
    assert {result["comparable"] for result in served} == {1}
    assert {result["baseline_sps"] for result in served} == {own_reference[-1]["baseline_sps"]}


def test_baselines_record_their_hardware(experiment):
    files = (Path(experiment.experiment_path) / "scaling_baselines").glob("*.json")
    assert sorted(json.loads(file.read_text())["workload"]["cores"] for file in files) == [1, len(CORES)]


def test_nothing_else_ran_on_the_nodes(scaling):
    assert {result["exclusive"] for trial in scaling for result in trial} == {1}
