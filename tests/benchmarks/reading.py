"""Measures reading speed: `python tests/benchmarks/reading.py [--trials 100] [--iterations 100] [--folder DIR]`.

Writes an experiment with results as long as RLlib's, builds a page from it, and reads it with Tune's `ExperimentAnalysis`, which
creates a dataframe per trial, each in a separate process. Prints times, their ratio and peak memory. 1,000 trials × 1,000
iterations take 17 GB of disk space.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

SCALES = [(runners, envs) for runners in (1, 2, 4, 8) for envs in (1, 2, 4)]


def result(draw: random.Random, trial: str, iteration: int, scale: tuple[int, int]) -> dict[str, Any]:
    """Return a result without its config, as long as PPO's on Ray 2.60."""
    from rl_scaling_callback.core import schema

    seconds = 10 / (scale[0] * scale[1]) ** 0.7 * draw.uniform(0.95, 1.05)
    known = {key.name: draw.random() for key in schema.KEYS if key.unit != "text"}
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


def read_ours(folder: Path) -> float:
    """Return the seconds to read the experiment and make the page."""
    from rl_scaling_callback.experiments import read_experiment
    from rl_scaling_callback.report import make_report, render_page

    started = time.perf_counter()
    experiment = read_experiment(folder)
    page = render_page(make_report(experiment))
    seconds = time.perf_counter() - started
    assert sum(len(study.runs) for study in experiment.studies) == sum(path.is_dir() for path in folder.iterdir())
    assert "<html" in page
    return seconds


def read_tunes(folder: Path) -> float:
    """Return the seconds that Tune's `ExperimentAnalysis` takes, without the experiment's state."""
    from pyarrow.fs import LocalFileSystem
    from ray.tune import ExperimentAnalysis

    def trial(path: Path) -> SimpleNamespace:
        storage = SimpleNamespace(trial_fs_path=str(path), storage_filesystem=LocalFileSystem())
        return SimpleNamespace(trial_id=path.name, last_result={"training_iteration": 1}, config={}, storage=storage)

    trials: Any = [trial(path) for path in sorted(folder.iterdir()) if path.is_dir()]
    started = time.perf_counter()
    analysis = ExperimentAnalysis(str(folder), trials=trials)
    seconds = time.perf_counter() - started
    assert all(len(frame) for frame in analysis.trial_dataframes.values())
    return seconds


def main() -> None:
    """Compare both readers, or run one step in this process."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--trials", type=int, default=100)
    arguments.add_argument("--iterations", type=int, default=100)
    arguments.add_argument("--folder", type=Path, help="folder of the experiment, reused if it exists [default: a temporary one]")
    arguments.add_argument("--step", choices=["ours", "tunes"], help="run only this step")
    options = arguments.parse_args()
    if options.step:
        seconds = (read_ours if options.step == "ours" else read_tunes)(options.folder)
        print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary) / "experiment"
        if not folder.exists():
            write(folder, options.trials, options.iterations)
        sizes = [path.stat().st_size for path in folder.glob("*/result.json")]
        print(f"{len(sizes)} trials, {sum(sizes) / 1e6:,.0f} MB, the largest {max(sizes) / 1e6:.1f} MB")
        times = []
        for step, name in {"ours": "reading and reporting", "tunes": "Tune's ExperimentAnalysis"}.items():
            command = [sys.executable, __file__, "--step", step, "--folder", str(folder)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            seconds, peak = map(float, done.stdout.split())
            times.append(seconds)
            print(f"{name:26} {seconds:8.2f} s, peak of the process {peak:8,.0f} MB", flush=True)
        print(f"ours / Tune's: {times[0] / times[1]:.3f}")


if __name__ == "__main__":
    main()
