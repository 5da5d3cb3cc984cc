"""Records an exhaustive grid of configurations with repetitions, for the evaluation of laws and search policies.

`python tests/benchmarks/record_grid.py halfcheetah --output grid.csv` takes half an hour on 2 cores. Each repetition measures every
configuration once, in a new random order, so that drifting machine speed favours none of them. Run nothing else at the same time.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import random
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import gymnasium
import ray
from ray import tune
from ray.rllib.algorithms.ppo import PPOConfig
from ray.tune.search import BasicVariantGenerator

from rl_scaling_callback import ScalingCallback
from rl_scaling_callback.rllib.hardware import cpu_model, usable_cores

QUIET = {"PYTHONWARNINGS": "ignore", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0"}
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


class SlowStep(gymnasium.Env):
    """An env whose step waits 2 ms, as for an external simulator, without using a core."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (8,))
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, config: Any = None) -> None:
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed)
        self._steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Wait, and end the episode after 200 steps."""
        time.sleep(0.002)
        self._steps += 1
        return self.observation_space.sample(), 1.0, False, self._steps == 200, {}


ENVS: dict[str, Any] = {"halfcheetah": "HalfCheetah-v5", "cartpole": "CartPole-v1", "slow_step": SlowStep}


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
    arguments.add_argument("--runners", type=lambda text: [int(r) for r in text.split(",")], default=[1, 2, 3, 4])
    arguments.add_argument("--envs", type=lambda text: [int(e) for e in text.split(",")], default=[1, 2, 4, 8, 16])
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
    config.num_env_runners = tune.choice(options.runners)
    config.num_envs_per_env_runner = tune.choice(options.envs)
    grid = [{"num_env_runners": r, "num_envs_per_env_runner": e} for r in options.runners for e in options.envs]
    with options.output.open("w", newline="") as file:
        machine = f"{cpu_model()}, {usable_cores()} cores, {platform.system()}; Ray {ray.__version__}"
        file.write(
            f"# {options.env}, PPO, {options.steps} env steps an iteration; {machine}; {datetime.now(timezone.utc):%Y-%m-%d}\n"
        )
        csv.writer(file).writerow(FIELDS)
    for repetition in range(options.repetitions):
        order = random.Random(repetition).sample(grid, len(grid))
        tune.Tuner(
            "PPO",
            param_space=config,
            tune_config=tune.TuneConfig(
                num_samples=len(order),
                search_alg=BasicVariantGenerator(points_to_evaluate=order, max_concurrent=1),
            ),
            run_config=tune.RunConfig(
                storage_path=tempfile.mkdtemp(),
                stop={"training_iteration": options.iterations},
                callbacks=[Recorder(options.output, repetition)],
                verbose=0,
            ),
        ).fit()


if __name__ == "__main__":
    main()
