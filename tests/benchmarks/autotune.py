"""Compares what autotune chooses with an exhaustive grid: `python tests/benchmarks/autotune.py --env HalfCheetah-v5`.

Each bad start is tuned by `ScalingCallback(autotune=True)`. Then the same Algorithm trains at every scale that its env runners and
batch allow, with every number of learner threads, in random order and several rounds, to find the fastest setting. The chosen one
and the start are then compared with it in turn. Prints a Markdown table. Run nothing else at the same time.
"""

import argparse
import functools
import math
import random
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from statistics import fmean
from typing import Any, NamedTuple

import gymnasium
import ray
import torch
from ray import tune
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from trials import SlowStep, machine

from rl_scaling_callback import ScalingCallback
from rl_scaling_callback.core.estimates import trimmed_mean
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.rllib.configs import keeps_batch
from rl_scaling_callback.rllib.rescale import Rescaler
from rl_scaling_callback.rllib.threads import set_learner_threads

ENVS = (1, 2, 4, 8, 16, 32, 64)
WORTH_A_ROUND = 0.85


class Images(SlowStep):
    """An env with image observations, which doesn't wait."""

    observation_space = gymnasium.spaces.Box(0.0, 1.0, (64, 64, 3))
    wait_s = 0.0


class Start(NamedTuple):
    """A configuration to tune: its scale, and whether its model is large."""

    scale: Scale
    is_large: bool


STARTS = [
    Start(Scale(1, 1), is_large=False),
    Start(Scale(2, 1), is_large=False),
    Start(Scale(2, 32), is_large=False),
    Start(Scale(4, 1), is_large=False),
    Start(Scale(2, 8), is_large=True),
    Start(Scale(4, 1), is_large=True),
]


def config_of(env: str, start: Start, batch: int, callback: Any) -> PPOConfig:
    """Return the config of a start."""
    config = PPOConfig().environment(env).callbacks(callback).debugging(log_level="ERROR")
    config.training(train_batch_size_per_learner=batch, minibatch_size=min(batch, 1024), num_epochs=4, lr=1e-5)
    config.env_runners(num_env_runners=start.scale.num_env_runners)
    config.num_envs_per_env_runner = start.scale.num_envs_per_env_runner
    if env == "images":
        config.rl_module(model_config=DefaultModelConfig(conv_filters=[[16, 8, 4], [32, 4, 2]], fcnet_hiddens=[64]))
    elif start.is_large:
        config.rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[1024, 1024]))
    return config


Setting = tuple[Scale, int]


def trained(algorithm: Any, rescaler: Rescaler, settings: Iterable[Setting]) -> Iterator[tuple[Setting, float]]:
    """Train with each setting, and yield it with its throughput [steps/s]."""
    now = None
    for scale, threads in settings:
        if scale != now:
            rescaler.apply(now := scale)
            algorithm.train()  # resets all envs
        set_learner_threads(algorithm, threads)
        yield (scale, threads), algorithm.train()["scaling"]["sps"]


def fastest(algorithm: Any, start: Start, rescaler: Rescaler, rounds: int) -> Setting:
    """Train at each scale with each number of threads, and return the fastest setting."""
    fits, r = keeps_batch(algorithm.config, start.scale), start.scale.num_env_runners
    scales = {Scale(runners, e) for runners in {1, 2, r} if runners <= r for e in ENVS}
    scales, measured = {start.scale, *filter(fits, scales)}, defaultdict[Setting, list[float]](list)
    for _ in range(rounds):
        order = random.sample(sorted(scales), len(scales))
        for setting, sps in trained(
            algorithm, rescaler, [(scale, threads) for scale in order for threads in random.sample((1, 2), 2)]
        ):
            measured[setting].append(sps)
        means = {setting: fmean(each) for setting, each in measured.items()}
        scales = {scale for scale, threads in means if means[scale, threads] > WORTH_A_ROUND * max(means.values())}
    return max((setting for setting in means if len(measured[setting]) == rounds), key=lambda setting: means[setting])


def compare(algorithm: Any, rescaler: Rescaler, one: Setting, other: Setting, pairs: int) -> tuple[float, float, float]:
    """Return the ratio of two settings' throughputs, the half-width of its 95 % interval, both [%], and the second [steps/s].

    They train in turn, in random order, so that changes of the machine's speed cancel.
    """
    logs = defaultdict[Setting, list[float]](list)
    for _ in range(pairs):
        for setting, sps in trained(algorithm, rescaler, random.sample(sorted({one, other}), len({one, other}))):
            logs[setting].append(math.log(sps))
    gain = trimmed_mean([a - b for a, b in zip(logs[one], logs[other], strict=True)])
    return 100 * math.exp(gain.mean), 100 * math.expm1(gain.half_width), math.exp(fmean(logs[other]))


def tune_one(env: str, start: Start, options: argparse.Namespace) -> tuple[float, float]:
    """Tune a start, print a row, and return the throughput relative to the best of the grid, and to the start [%]."""
    torch.set_num_threads(1)  # as in Ray's processes
    kept: list[ScalingCallback] = []

    class Kept(ScalingCallback):
        def on_algorithm_init(self, **kwargs: Any) -> None:
            kept.append(self)
            super().on_algorithm_init(**kwargs)

    algorithm = config_of(env, start, options.batch, functools.partial(Kept, autotune=True)).build_algo()
    tuner = kept[0]._tuner
    assert tuner is not None
    settle, tuner.rescaler.settle = tuner.rescaler.settle, lambda: None
    started, iterations, probing_s = time.perf_counter(), 0, 0.0
    while not tuner.is_over:
        scaling = algorithm.train()["scaling"]
        probing_s += scaling["time"]["probe"]
        iterations += 1
    took = time.perf_counter() - started
    chosen, own = (tuner.scale, int(tuner.threads)), (start.scale, 1)
    best = fastest(algorithm, start, tuner.rescaler, options.rounds)
    of_best, error, _ = compare(algorithm, tuner.rescaler, chosen, best, 1 if chosen == best else options.pairs)
    gain, gain_error, own_sps = compare(algorithm, tuner.rescaler, chosen, own, max(5, options.pairs // 2))
    settle()
    algorithm.stop()
    cells = [
        f"{env}{', large model' * start.is_large}",
        start.scale,
        f"{own_sps:,.0f}",
        f"{chosen[0]}, {chosen[1]}",
        f"{best[0]}, {best[1]}",
        "the same" if chosen == best else f"{of_best:.1f} ± {error:.1f} %",
        f"{tuner.gain:.2f}× ± {tuner.gain_error:.0f} %",
        f"{gain / 100:.2f}× ± {gain_error:.0f} %",
        iterations,
        f"{took:.0f}",
        f"{probing_s:.0f}",
    ]
    print(f"| {' | '.join(map(str, cells))} |", flush=True)
    return of_best, gain


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", nargs="+", default=["HalfCheetah-v5", "Hopper-v5", "CartPole-v1", "waits", "images"])
    parser.add_argument("--start", type=int, nargs="+", default=range(len(STARTS)), help="numbers of starts")
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the whole grid")
    parser.add_argument("--pairs", type=int, default=10, help="iterations of the best and the chosen setting in turn")
    options = parser.parse_args()
    tune.register_env("waits", SlowStep)
    tune.register_env("images", Images)
    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False)
    print(f"PPO, {options.batch:,} env steps per iteration; {machine()}\n")
    columns = "env | start | steps/s | chosen | best | chosen / best | stated gain | gain in turn | iterations | s | probing s"
    print(f"| {columns} |\n|{'---|' * (columns.count('|') + 1)}")
    rows = [tune_one(env, STARTS[number], options) for env in options.env for number in options.start]
    good = sum(of_best >= 95 for of_best, _ in rows)
    slowest = min(gain for _, gain in rows)
    print(f"\n{good} of {len(rows)} reach 95 % of the best; the slowest has {slowest:.0f} % of its start's throughput.")


if __name__ == "__main__":
    main()
