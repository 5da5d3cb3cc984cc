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


def draws(draw: random.Random, names: str) -> dict[str, float]:
    """Return a random number for each name."""
    return {name: draw.random() for name in names.split()}


def connectors(draw: random.Random, count: int) -> dict[str, Any]:
    """Return the timers of a connector pipeline."""
    timers = draws(draw, " ".join(f"connector_number_{i}" for i in range(count)))
    return {"connector_pipeline_timer": draw.random(), "timers": {"connectors": timers}}


def result(draw: random.Random, trial: str, iteration: int, scale: tuple[int, int]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the parts of a result before and after its config, shaped like PPO's on Ray 2.60."""
    from rl_scaling_callback.core import schema

    seconds = 10 / (scale[0] * scale[1]) ** 0.7 * draw.uniform(0.95, 1.05)
    steps = {"default_policy": 2048.0 * iteration}
    counts = "num_module_steps_trained num_env_steps_trained num_module_steps_trained_lifetime num_env_steps_trained_lifetime"
    throughputs = " ".join(f"{name}_throughput" for name in counts.split())
    before = {
        "timers": draws(draw, "training_iteration training_step env_runner_sampling_timer synch_weights"),
        "env_runners": {
            "module_to_env_connector": connectors(draw, 6),
            "env_to_module_connector": connectors(draw, 5),
            **draws(draw, "sample env_step_timer env_reset_timer rlmodule_inference_timer episode_duration_sec_mean"),
            **draws(draw, "episode_return_mean episode_return_min episode_return_max episode_len_mean"),
            "num_env_steps_sampled": 2048,
            "num_env_steps_sampled_lifetime": 2048.0 * iteration,
            "num_module_steps_sampled_lifetime": steps,
            "num_agent_steps_sampled_lifetime": steps,
        },
        "learners": {
            "__all_modules__": {"learner_connector": connectors(draw, 8), **draws(draw, f"{counts} {throughputs}")},
            "default_policy": draws(draw, f"entropy vf_loss policy_loss mean_kl_loss total_loss vf_explained_var {throughputs}"),
        },
        "num_env_steps_sampled_lifetime": 2048.0 * iteration,
        "fault_tolerance": {"num_healthy_workers": scale[0], "num_remote_worker_restarts": 0},
        "done": False,
        "training_iteration": iteration,
        "trial_id": trial,
        "timestamp": 1795380172 + iteration,
        "time_this_iter_s": seconds,
        "hostname": "node",
    }
    measured = {"sps": 2048 / seconds, "time/sample": seconds * 0.9, "time/learn": seconds * 0.1, "time/evaluate": 0.0}
    known = draws(draw, " ".join(key.name for key in schema.KEYS if key.unit != "text"))
    after = {
        "time_since_restore": seconds * iteration,
        "iterations_since_restore": iteration,
        "perf": {"cpu_util_percent": 80.0, "ram_util_percent": 7.0},
        "scaling": schema.nest(known | measured | {"exclusive": 1.0}),
    }
    return before, after


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
        (path / "params.json").write_text(text)
        with (path / "result.json").open("w") as file:
            for iteration in range(1, iterations + 1):
                before, after = (json.dumps(part)[1:-1] for part in result(draw, trial, iteration, scale))
                file.write(f'{{{before}, "config": {text}, {after}}}\n')
    (folder / "experiment_state-2026-01-01_00-00-00.json").write_text("{}")


def read_ours(folder: Path) -> float:
    """Return the seconds to read the experiment and make the report, including the page."""
    from rl_scaling_callback.experiments import read_experiment
    from rl_scaling_callback.report import make_report, render_page

    started = time.perf_counter()
    experiment = read_experiment(folder)
    read = time.perf_counter()
    page = render_page(make_report(experiment))
    seconds = time.perf_counter() - started
    assert sum(len(study.runs) for study in experiment.studies) == sum(path.is_dir() for path in folder.iterdir())
    assert "<html" in page
    print(f"of which the report {seconds - (read - started):.2f} s", file=sys.stderr)
    return seconds


def read_tunes(folder: Path) -> float:
    """Return the seconds that Tune's `ExperimentAnalysis` takes, not counting the time to read the experiment's state."""
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
    """Run one step, or compare all."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--trials", type=int, default=100)
    arguments.add_argument("--iterations", type=int, default=100)
    arguments.add_argument("--folder", type=Path, help="folder of the experiment, reused if it exists [default: a temporary one]")
    arguments.add_argument("--step", choices=["write", "ours", "tunes"], help="run only this step")
    options = arguments.parse_args()
    if options.step == "write":
        write(options.folder, options.trials, options.iterations)
    elif options.step:
        seconds = (read_ours if options.step == "ours" else read_tunes)(options.folder)
        print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    else:
        compare(options)


def compare(options: argparse.Namespace) -> None:
    """Run each step in a separate process, to measure its peak memory."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary) / "experiment"
        if not folder.exists():
            step("write", folder, f"--trials={options.trials}", f"--iterations={options.iterations}")
        sizes = [path.stat().st_size for path in folder.glob("*/result.json")]
        print(f"{len(sizes)} trials, {sum(sizes) / 1e6:,.0f} MB, the largest {max(sizes) / 1e6:.1f} MB")
        times = {}
        for reader, name in {"ours": "reading and reporting", "tunes": "Tune's ExperimentAnalysis"}.items():
            times[reader], peak = map(float, step(reader, folder).split())
            print(f"{name:26} {times[reader]:8.2f} s, peak of the process {peak:8,.0f} MB", flush=True)
        print(f"ours / Tune's: {times['ours'] / times['tunes']:.3f}")


def step(name: str, folder: Path, *more: str) -> str:
    """Run a step in a separate process; return its output."""
    command = [sys.executable, __file__, "--step", name, "--folder", str(folder), *more]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


if __name__ == "__main__":
    main()
