"""Compares what PPO learns with and without autotune: `python tests/benchmarks/returns.py --env CartPole-v1 --seeds 10`.

Each seed trains twice, in random order: as configured (2r×1e), and with `ScalingCallback(autotune=True)`; or, with `--envs 16`,
with so many envs in each env runner. After every 50,000 env steps the policy is evaluated, because right after a change of the
number of envs, training reports the returns of short episodes. Prints a Markdown table of paired differences with their 95 %
intervals.
"""

from __future__ import annotations

import argparse
import functools
import random
import time
from typing import Any

import ray
from ray.rllib.algorithms.ppo import PPOConfig
from trials import machine

from rl_scaling_callback import ScalingCallback
from rl_scaling_callback.core.estimates import trimmed_mean

EVERY = 50_000
EPISODES = 20
SETTINGS: dict[str, dict[str, Any]] = {
    "CartPole-v1": {"minibatch_size": 256, "num_epochs": 6, "lr": 3e-4, "gamma": 0.99},
    "Pendulum-v1": {
        "minibatch_size": 128,
        "num_epochs": 10,
        "lr": 1e-3,
        "gamma": 0.9,
        "lambda_": 0.95,
        "vf_clip_param": 1e6,
        "vf_loss_coeff": 0.5,
        "grad_clip": 0.5,
    },
}
"""Settings with which PPO learns each env within the steps; with RLlib's defaults, it hardly learns Pendulum."""


def learn(env: str, seed: int, total: int, *, autotune: bool, envs: int) -> list[tuple[float, float]]:
    """Train, and return the mean return and the training time [s] at every `EVERY` env steps."""
    config: Any = PPOConfig().environment(env).env_runners(num_env_runners=2, num_envs_per_env_runner=envs)
    config.training(train_batch_size_per_learner=2048, **SETTINGS[env])
    config.evaluation(evaluation_interval=10**6, evaluation_duration=EPISODES, evaluation_num_env_runners=0)
    config.callbacks(functools.partial(ScalingCallback, autotune=autotune)).debugging(seed=seed, log_level="ERROR")
    algorithm = config.build_algo()
    points: list[tuple[float, float]] = []
    env_steps = took = 0.0
    while env_steps < total:
        started = time.perf_counter()
        result = algorithm.train()
        took += time.perf_counter() - started
        env_steps += result["scaling"]["env_steps"]
        if env_steps >= EVERY * (len(points) + 1):
            points.append((algorithm.evaluate()["env_runners"]["episode_return_mean"], took))
    algorithm.stop()
    return points


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="CartPole-v1", choices=list(SETTINGS))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--steps", type=int, default=150_000)
    parser.add_argument("--envs", type=int, help="envs per env runner to compare one with, instead of autotune")
    options = parser.parse_args()
    other = {"autotune": options.envs is None, "envs": options.envs or 1}
    sides: dict[bool, dict[str, Any]] = {False: {"autotune": False, "envs": 1}, True: other}
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    pairs = []
    for seed in range(options.first, options.first + options.seeds):
        pair = {side: learn(options.env, seed, options.steps, **sides[side]) for side in random.sample((False, True), 2)}
        print(seed, {side: [f"{mean:.0f} at {took:.0f} s" for mean, took in points] for side, points in pair.items()}, flush=True)
        pairs.append((pair[False], pair[True]))
    print(f"\n{options.env}, {options.seeds} seeds; {machine()}\n")
    changed = f"with {options.envs} envs" if options.envs else "with autotune"
    print(f"| env steps | mean return, as configured | {changed} | difference | training s | {changed} |")
    print("|---|---|---|---|---|---|")
    for index in range(options.steps // EVERY):
        plain, tuned = ([pair[side][index] for pair in pairs] for side in (0, 1))
        difference = trimmed_mean([b[0] - a[0] for a, b in zip(plain, tuned, strict=True)])
        means = [sum(point[part] for point in side) / len(pairs) for part in (0, 1) for side in (plain, tuned)]
        cells = [f"{EVERY * (index + 1):,}", *(f"{mean:.0f}" for mean in means[:2])]
        cells += [f"{difference.mean:+.0f} ± {difference.half_width:.0f}", *(f"{mean:.0f}" for mean in means[2:])]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
