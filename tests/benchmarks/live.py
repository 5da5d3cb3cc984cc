"""Measures `sweep` against a trial of every configuration, side by side on this machine: what each takes, and recommends.

`python tests/benchmarks/live.py` takes a quarter of an hour on 2 cores. In each round it sweeps for each goal, and then runs the
grid in a random order, each trial until its throughput is known. Choices are judged by the trials of all rounds, which are noisy
themselves: see the intervals. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.rllib.algorithms.ppo import PPOConfig
from ray.tune.search import BasicVariantGenerator
from record_grid import ENVS, QUIET

from rl_scaling_callback import Goal, ScalingCallback, SteadyStopper, make_report, read_experiment, sweep
from rl_scaling_callback.analysis.goals import GOALS
from rl_scaling_callback.analysis.runs import Experiment
from rl_scaling_callback.rllib.hardware import cpu_model, usable_cores
from rl_scaling_callback.sweeping import ENGINES


def exhaustive(config: PPOConfig, grid: Sequence[dict[str, int]], place: str) -> Experiment:
    """Measure every configuration of a grid once, in an order of its own."""
    everything = config.copy(copy_frozen=False).callbacks(ScalingCallback)
    everything.num_env_runners = tune.choice(sorted({each["num_env_runners"] for each in grid}))
    everything.num_envs_per_env_runner = tune.choice(sorted({each["num_envs_per_env_runner"] for each in grid}))
    order = random.sample(list(grid), len(grid))
    results = tune.Tuner(
        "PPO",
        param_space=everything,
        tune_config=tune.TuneConfig(
            num_samples=len(order), search_alg=BasicVariantGenerator(points_to_evaluate=order, max_concurrent=1)
        ),
        run_config=tune.RunConfig(storage_path=place, stop=SteadyStopper(), verbose=0),
    ).fit()
    return read_experiment(results)


def main() -> None:
    """Run both, and print what they took and recommend."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("env", choices=sorted(ENVS), nargs="?", default="halfcheetah")
    arguments.add_argument("--runners", type=lambda text: [int(r) for r in text.split(",")], default=[1, 2, 4])
    arguments.add_argument("--envs", type=lambda text: [int(e) for e in text.split(",")], default=[1, 2, 4, 8])
    arguments.add_argument("--goals", type=lambda text: [Goal.of(goal) for goal in text.split(",")], default=list(GOALS.values()))
    arguments.add_argument("--rounds", type=int, default=2)
    arguments.add_argument("--sweeps", type=int, default=2, help="of each goal in a round")
    arguments.add_argument("--steps", type=int, default=2048, help="env steps an iteration")
    arguments.add_argument("--engine", choices=ENGINES, default="auto")
    options = arguments.parse_args()

    os.environ.update(QUIET)
    ray.init(num_cpus=max(options.runners) + 1, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    config = (
        PPOConfig()
        .environment(ENVS[options.env])
        .training(train_batch_size_per_learner=options.steps, minibatch_size=options.steps // 4, num_epochs=4)
        .debugging(log_level="ERROR")
    )
    grid = [{"num_env_runners": r, "num_envs_per_env_runner": e} for r in options.runners for e in options.envs]
    print(f"{options.env}, {options.steps} steps an iteration; {cpu_model()}, {usable_cores()} cores; {time.strftime('%Y-%m-%d')}")
    sweeps: list[tuple[Goal, float, Any]] = []
    grids: list[Experiment] = []
    seconds: list[float] = []
    for number in range(options.rounds):
        place = tempfile.mkdtemp()
        for attempt, goal in product(range(options.sweeps), options.goals):
            started = time.monotonic()
            made = sweep(
                config,
                runners=options.runners,
                envs=options.envs,
                goal=goal,
                engine=options.engine,
                storage_path=Path(place) / f"{goal.name}{attempt}",
                say=lambda text: None,
                show=lambda report: None,
            )
            sweeps.append((goal, time.monotonic() - started, made.studies[0]))
        started = time.monotonic()
        grids.append(exhaustive(config, grid, place))
        seconds.append(time.monotonic() - started)
        print(f"round {number + 1}: every configuration once in {seconds[-1]:.0f} s", flush=True)
    study = replace(grids[0].studies[0], runs=tuple(run for each in grids for run in each.studies[0].runs))
    for goal in options.goals:
        judged = make_report(Experiment("grid", (study,)), goal, correction="always").studies[0]
        known = {each.scale: each for each in judged.configurations}
        assert judged.recommendation.choice is not None
        best = judged.recommendation.choice
        for number, (swept, took, made) in enumerate(each for each in sweeps if each[0] is goal):
            choice = known[made.recommendation.choice.scale]
            own = next(each for each in made.configurations if each.scale == choice.scale)
            whole = seconds[number // options.sweeps]
            print(
                f"{swept.name}: sweep in {took:.0f} s, {100 * took / whole:.0f} % of {whole:.0f} s -> {choice.scale}, "
                f"{own.speedup:.2f}× ± {own.speedup_error:.0f} %; by trials {choice.speedup:.2f}× ± {choice.speedup_error:.0f} %, "
                f"efficiency {choice.efficiency:.0f} %; trials -> {best.scale} ({best.speedup:.2f}× ± {best.speedup_error:.0f} %, "
                f"{best.efficiency:.0f} %); speed lost {100 * (1 - choice.sps / best.sps):.1f} %"
            )


if __name__ == "__main__":
    main()
