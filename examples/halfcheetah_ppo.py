"""How many env runners and envs does PPO on HalfCheetah-v5 need on this machine? Measured, in under 5 minutes.

Run it: `python examples/halfcheetah_ppo.py`. It needs `pip install "rl-scaling-callback[examples]"`.
"""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.rllib.algorithms.ppo import PPOConfig

from rl_scaling_callback import ScalingCallback, ScalingReporter
from rl_scaling_callback.rllib.hardware import usable_cores

LEAST_EFFICIENCY = 60.0


class Progress(tune.Callback):
    """Prints a line for each result, so that nobody wonders whether anything happens."""

    def __init__(self, num_trials: int) -> None:
        self._trials: dict[str, int] = {}
        self._num_trials = num_trials

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        """Print the iteration's throughput, and its speedup as soon as there is a baseline."""
        place = self._trials.setdefault(trial.trial_id, len(self._trials) + 1)
        scaling, config = result["scaling"], result["config"]
        name = f"{config['num_env_runners']}r×{config['num_envs_per_env_runner']}e"
        line = f"[{place}/{self._num_trials}] {name} iteration {result['training_iteration']:2}: {scaling['sps']:6,.0f} steps/s"
        if not math.isnan(scaling["speedup"]):
            line += f", speedup {scaling['speedup']:.2f}×, efficiency {scaling['efficiency']:.0f} %"
        print(line, flush=True)


def main() -> None:
    """Measure the grid and print what each configuration brings."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--iterations", type=int, default=10, help="iterations of each trial at most (default: 10)")
    arguments.add_argument("--storage-path", type=Path, default=Path("~/ray_results").expanduser(), help="where results go")
    options = arguments.parse_args()

    cores = usable_cores()
    # 1r×1e, the baseline, is the first of the grid. As many configurations as fit into 5 minutes.
    runners = [r for r in (1, 2, 4, 8) if r <= cores]
    envs = [1, 2, 4] if len(runners) <= 2 else [1, 2]
    num_trials = len(runners) * len(envs)
    print(f"{cores} cores: {num_trials} configurations, {runners} env runners × {envs} envs per runner, one at a time.", flush=True)

    # Tune waits forever for a trial that asks for more CPUs than Ray has. A trial asks for 1 + its runners; the one of the
    # Algorithm's process comes on top of the cores, because that process is idle while its runners sample.
    ray.init(
        num_cpus=max(runners) + 1,
        include_dashboard=False,
        logging_level="ERROR",
        log_to_driver=False,
        runtime_env={"env_vars": QUIET},
    )

    config = (
        PPOConfig()
        .environment("HalfCheetah-v5")
        .env_runners(num_env_runners=tune.grid_search(runners))
        .training(train_batch_size_per_learner=2048, minibatch_size=512, num_epochs=4)
        .callbacks(ScalingCallback)
        .debugging(log_level="ERROR")
    )
    config.num_envs_per_env_runner = tune.grid_search(envs)  # env_runners() takes whole numbers only

    results = tune.Tuner(
        "PPO",
        param_space=config,
        # Trials that run side by side would measure one another.
        tune_config=tune.TuneConfig(max_concurrent_trials=1),
        run_config=tune.RunConfig(
            name="halfcheetah_ppo_scaling",
            storage_path=str(options.storage_path.absolute()),
            # Precise enough, or at most so many iterations.
            stop={"scaling/steady/converged": 1, "training_iteration": options.iterations},
            callbacks=[Progress(num_trials), ScalingReporter("balanced")],
            verbose=0,
        ),
    ).fit()

    trials = results.get_dataframe()
    efficient = trials[trials["scaling/steady/efficiency"] >= LEAST_EFFICIENCY]
    runners, envs = efficient["config/num_env_runners"], efficient["config/num_envs_per_env_runner"]
    names = [f"{r}r×{e}e" for r, e in zip(runners, envs, strict=True)]
    print(f"\nEfficiency ≥ {LEAST_EFFICIENCY:.0f} %: {', '.join(names)}")
    print(f"Page:   {results.experiment_path}/scaling_report.html")
    print(f"Curves: tensorboard --logdir {results.experiment_path}")


QUIET = {"PYTHONWARNINGS": "ignore", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}

if __name__ == "__main__":
    os.environ.update(QUIET)
    main()
