"""Clusters of several nodes: three hosts with separate names and hardware, connected only by a network, and one host alone."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import ray
from ray import tune
from ray.cluster_utils import Cluster
from tuning import cartpole, costly, run

from rl_scaling_callback import read_experiment
from rl_scaling_callback.core.steady import SteadyRule

HERE = Path(__file__).parent
NAME = "three_hosts"
TRIALS = {
    "reference": ("head", "head", 1),
    "on_twin": ("twin", "twin", 2),
    "runners_on_twin": ("head", "twin", 2),
    "on_small": ("small", "small", 2),
    "runners_on_small": ("head", "small", 2),
}
"""The host of each trial, that of its env runners, and how many those are; one after another."""

NAMESPACES = ["unshare", "--map-root-user", "--net", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
PROBE = "mount -t tmpfs tmpfs /mnt && ip link add bridge type bridge && ip link add one type veth peer name two"

pytestmark = pytest.mark.release


def why_not():
    """Return why such hosts can't be created here; "" if they can."""
    missing = [tool for tool in ("unshare", "nsenter", "ip", "taskset") if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} not installed (util-linux, iproute2)"
    if len(os.sched_getaffinity(0)) < 2:
        return "different hardware is simulated by taking cores away"
    made = subprocess.run([*NAMESPACES, "sh", "-c", PROBE], capture_output=True, text=True)
    return f"this machine does not allow network namespaces: {made.stderr.strip()}" if made.returncode else ""


@pytest.fixture(scope="module")
def experiment(worker_path, tmp_path_factory):
    reason = why_not()
    if reason:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("shared")
    environment = os.environ | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),  # for the command `ray`
        "ONE_CORE": str(min(os.sched_getaffinity(0))),
    }
    command = ["sh", HERE / "three_hosts.sh", sys.executable, __file__, folder]
    with (folder / "log").open("w") as log:
        done = subprocess.run([*NAMESPACES, *command], stdout=log, stderr=log, env=environment, timeout=900)
    assert done.returncode == 0, (folder / "log").read_text()
    return folder / NAME


@pytest.fixture(scope="module")
def trials(experiment):
    """The results of each trial."""
    return {
        file.parent.name: [json.loads(line) for line in file.read_text().splitlines()] for file in experiment.glob("*/result.json")
    }


def scaling(trial, key):
    return [result["scaling"][key] for result in trial]


def test_trials_ran_on_three_hosts(trials):
    assert {name: trial[-1]["hostname"] for name, trial in trials.items()} == {name: host for name, (host, *_) in TRIALS.items()}
    assert trials["on_twin"][-1]["node_ip"] == "10.77.0.2"


@pytest.mark.parametrize("name", ["on_twin", "runners_on_twin"])
def test_baseline_of_one_host_is_used_on_an_equal_one(trials, name):
    assert set(scaling(trials["reference"], "is_baseline")) == {1}
    assert set(scaling(trials[name], "comparable")) == {1}
    assert set(scaling(trials[name], "baseline_sps")) == {trials["reference"][-1]["scaling"]["baseline_sps"]}


@pytest.mark.parametrize("name", ["on_small", "runners_on_small"])
def test_other_hardware_is_not_compared(trials, name):
    assert set(scaling(trials[name], "comparable")) == {0}
    assert all(math.isnan(speedup) for speedup in scaling(trials[name], "speedup"))


def test_each_trial_was_alone_and_all_its_env_runners_reported(trials):
    for trial in trials.values():
        assert set(scaling(trial, "exclusive")) == {1}
        assert scaling(trial, "runners")[-1]["reported"] == trial[-1]["config"]["num_env_runners"]


def test_report_does_not_compare_other_hardware(experiment):
    rule = SteadyRule(warmup_iterations=1, min_iterations=3, max_iterations=3)
    studies = read_experiment(experiment, pool=["trial"], rule=rule).studies  # their names are those of this test
    (compared,) = [names for study in studies if "reference" in (names := {run.name for run in study.runs})]
    assert compared == {"reference", "on_twin", "runners_on_twin"}


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


# ---------------------------------------------------------------- what runs on the host `head`


def of_trial(spec):
    return list(TRIALS.values())[spec.config.seed]


def main(folder):
    """Run an experiment on the cluster of `three_hosts.sh`."""
    ray.init(address="10.77.0.1:6379", _node_ip_address="10.77.0.1", log_to_driver=False, logging_level="ERROR")
    config = costly(step_s=0.01)
    # The seed numbers the trials; it is not part of a workload.
    config.seed = tune.grid_search(list(range(len(TRIALS))))
    config.num_env_runners = tune.sample_from(lambda spec: of_trial(spec)[2])
    config.custom_resources_for_main_process = tune.sample_from(lambda spec: {of_trial(spec)[0]: 0.01})
    config.custom_resources_per_env_runner = tune.sample_from(lambda spec: {of_trial(spec)[1]: 0.01})
    results = run(folder, config, name=NAME, stop=5, trial_dirname_creator=lambda trial: list(TRIALS)[trial.config["seed"]])
    assert not results.errors


if __name__ == "__main__":
    main(sys.argv[1])
