"""Measures reading speed: `python tests/benchmarks/reading.py [--trials 100] [--iterations 100]`.

Writes an experiment with results as long as RLlib's, and builds a page from it. Prints the time and the peak memory. 1,000 trials
× 1,000 iterations take 17 GB of disk space.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

READ = """
import sys, time
from pathlib import Path
from rl_scaling_callback import make_report, read_experiment
from rl_scaling_callback.report import render_page
started = time.perf_counter()
experiment = read_experiment(sys.argv[1])
assert "<html" in render_page(make_report(experiment))
assert sum(len(study.runs) for study in experiment.studies) == len([*Path(sys.argv[1]).iterdir()])
print(f"{time.perf_counter() - started:.2f} s")
"""
SCALES = [(runners, envs) for runners in (1, 2, 4, 8) for envs in (1, 2, 4)]


def result(draw: random.Random, trial: str, iteration: int, scale: tuple[int, int]) -> dict[str, Any]:
    """Return a result without its config, as long as PPO's on Ray 2.60."""
    from rl_scaling_callback.core import schema

    seconds = 10 / (scale[0] * scale[1]) ** 0.7 * draw.uniform(0.95, 1.05)
    known = {key.name: draw.random() for key in schema.KEYS if key.unit != "text" and not key.name.startswith("tuned/")}
    measured = {"sps": 2048 / seconds, "time/sample": seconds * 0.9, "time/learn": seconds * 0.1, "time/evaluate": 0.0}
    return {
        "env_runners": {"num_env_steps_sampled": 2048, "episode_return_mean": draw.random()},
        "learners": {f"a_metric_of_the_learner_{i}": {"default_policy": draw.random()} for i in range(60)},
        "num_env_steps_sampled_lifetime": 2048.0 * iteration,
        "fault_tolerance": {"num_healthy_workers": scale[0], "num_remote_worker_restarts": 0},
        "training_iteration": iteration,
        "trial_id": trial,
        "timestamp": 1795380172 + iteration,
        "time_this_iter_s": seconds,
        "hostname": "node",
        "iterations_since_restore": iteration,
        "perf": {"cpu_util_percent": 80.0, "ram_util_percent": 7.0},
        "scaling": schema.nest(known | measured | {"exclusive": 1.0}),
    }


def write(folder: Path, trials: int, iterations: int) -> None:
    """Write the experiment."""
    from ray.air._internal.json import SafeFallbackEncoder
    from ray.rllib.algorithms.ppo import PPOConfig

    draw = random.Random(1)
    for index in range(trials):
        scale = SCALES[index % len(SCALES)]
        config = PPOConfig().environment("HalfCheetah-v5").env_runners(num_env_runners=scale[0], num_envs_per_env_runner=scale[1])
        text = json.dumps(config.to_dict(), cls=SafeFallbackEncoder)
        trial = f"4bb93_{index:05}"
        path = folder / f"PPO_HalfCheetah-v5_{trial}_{index}"
        path.mkdir(parents=True)
        with (path / "result.json").open("w") as file:
            for iteration in range(1, iterations + 1):
                file.write(f'{{"config": {text}, {json.dumps(result(draw, trial, iteration, scale))[1:]}\n')


def main() -> None:
    """Write an experiment, read it in a process of its own, to measure its peak memory, and print the time and that peak."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--trials", type=int, default=100)
    arguments.add_argument("--iterations", type=int, default=100)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), options.trials, options.iterations)
        subprocess.run([sys.executable, "-c", READ, folder], check=True)
        size = sum(path.stat().st_size for path in Path(folder).glob("*/result.json"))
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        print(f"{size / 1e6:,.0f} MB; peak of the process {peak:,.0f} MB")


if __name__ == "__main__":
    main()
