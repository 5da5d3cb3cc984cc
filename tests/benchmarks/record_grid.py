"""Records an exhaustive grid of configurations with repetitions, for the evaluation of laws and search policies.

`python tests/benchmarks/record_grid.py halfcheetah --output grid.csv` takes half an hour on 2 cores. Each repetition measures every
configuration once, in a new random order, so that drifting machine speed favours none of them. Run nothing else at the same time.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import time
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.rllib.algorithms.ppo import PPOConfig
from trials import ENVS, QUIET, machine, numbers, run_trials

from rl_scaling_callback import ScalingCallback
from rl_scaling_callback.core.scale import Scale

FIELDS = (
    "repetition",
    "order",
    "num_env_runners",
    "num_envs_per_env_runner",
    "start_up_s",
    "iteration",
    "env_steps",
    "time_this_iter_s",
    "sample_s",
    "learn_s",
    "sync_s",
    "busy_s",
    "longest_s",
    "cpu_percent",
)


class Recorder(tune.Callback):
    """Writes a row for each iteration, with the start-up time of its trial."""

    def __init__(self, output: Path, repetition: int) -> None:
        self._output = output
        self._repetition = repetition
        self._order = 0
        self._start_up: dict[str, float] = {}
        self._free_since = time.time()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record the time: the next trial's start-up begins now."""
        self._order += 1
        self._free_since = time.time()

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        """Write the iteration."""
        start_up = self._start_up.setdefault(trial.trial_id, time.time() - self._free_since - result["time_this_iter_s"])
        scaling, config = result["scaling"], result["config"]
        phases, runners = scaling["time"], scaling["runners"]
        values = (
            self._repetition,
            self._order,
            config["num_env_runners"],
            config["num_envs_per_env_runner"],
            f"{start_up:.2f}",
            result["training_iteration"],
            int(scaling["env_steps"]),
            *(f"{seconds:.5f}" for seconds in (result["time_this_iter_s"], phases["sample"], phases["learn"], phases["sync"])),
            *(f"{seconds:.5f}" for seconds in (runners["busy"], runners["longest"])),
            result.get("perf", {}).get("cpu_util_percent", ""),
        )
        with self._output.open("a", newline="") as file:
            csv.writer(file).writerow(values)


def main() -> None:
    """Measure the grid."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("env", choices=sorted(ENVS))
    arguments.add_argument("--output", type=Path, required=True)
    arguments.add_argument("--runners", type=numbers, default=[1, 2, 3, 4])
    arguments.add_argument("--envs", type=numbers, default=[1, 2, 4, 8, 16])
    arguments.add_argument("--repetitions", type=int, default=3)
    arguments.add_argument("--iterations", type=int, default=7)
    arguments.add_argument("--steps", type=int, default=1024, help="env steps per iteration")
    options = arguments.parse_args()

    os.environ.update(QUIET)
    ray.init(
        num_cpus=max(options.runners) + 1,
        include_dashboard=False,
        logging_level="ERROR",
        log_to_driver=False,
        runtime_env={"env_vars": QUIET},
    )
    config = (
        PPOConfig()
        .environment(ENVS[options.env])
        .training(train_batch_size_per_learner=options.steps, minibatch_size=options.steps // 4, num_epochs=4)
        .callbacks(ScalingCallback)
        .debugging(log_level="ERROR")
    )
    grid = [Scale(runners, envs) for runners in options.runners for envs in options.envs]
    with options.output.open("w", newline="") as file:
        file.write(f"# {options.env}, PPO, {options.steps} env steps an iteration; {machine()}\n")
        csv.writer(file).writerow(FIELDS)
    for repetition in range(options.repetitions):
        order = random.Random(repetition).sample(grid, len(grid))
        run_trials(config, order, options.iterations, Recorder(options.output, repetition))


if __name__ == "__main__":
    main()
