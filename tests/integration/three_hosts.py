"""Runs an experiment on the cluster of `three_hosts.sh`: `python three_hosts.py FOLDER`."""

import sys

import ray
from ray import tune
from tuning import costly, run

NAME = "three_hosts"
TRIALS = {
    "reference": ("head", "head", 1),
    "on_twin": ("twin", "twin", 2),
    "runners_on_twin": ("head", "twin", 2),
    "on_small": ("small", "small", 2),
    "runners_on_small": ("head", "small", 2),
}
"""The host of each trial, that of its env runners, and how many those are; one after another."""


def of_trial(spec):
    return list(TRIALS.values())[spec.config.seed]


def main(folder):
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
