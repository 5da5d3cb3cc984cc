"""What watching costs: `python tests/benchmarks/overhead.py`. It takes some 10 minutes; nothing else should run meanwhile.

Prints medians and ratios measured side by side in one run: the hook itself next to RLlib's own compilation of a result and, when
installed, Lightning's `Throughput`; files opened and memory kept while it runs; and training and sampling with the callback next to
the same without it, in turns.
"""

from __future__ import annotations

import argparse
import copy
import functools
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import ray
import torch
from ray.rllib.algorithms.ppo import PPOConfig

from rl_scaling_callback import ScalingCallback
from rl_scaling_callback.reading import REPORTS


def config(callbacks: Any, runners: int) -> PPOConfig:
    """Return PPO on CartPole with iterations of about a second."""
    return (
        PPOConfig()
        .environment("CartPole-v1")
        .env_runners(num_env_runners=runners, num_cpus_per_env_runner=0.5)
        .training(train_batch_size_per_learner=1000, minibatch_size=250, num_epochs=2)
        .callbacks(callbacks or [])
        .debugging(log_level="ERROR")
    )


def median_us(call: Callable[[], object], calls: int) -> float:
    """Return the median duration of `call` [µs]."""
    durations = []
    for _ in range(calls):
        started = time.perf_counter_ns()
        call()
        durations.append(time.perf_counter_ns() - started)
    return statistics.median(durations) / 1000


def hook(calls: int, kept_over: int) -> None:
    """Measure `on_train_result` on a real Algorithm with everything on and its baseline in hand."""
    place = tempfile.mkdtemp()
    ours = functools.partial(ScalingCallback, baseline_dir=place, warmup_iterations=0, min_iterations=2, max_iterations=2)
    algorithm = config(ours, 1).build_algo()
    for _ in range(3):
        algorithm.train()
    algorithm.stop()

    algorithm = config(ours, 2).build_algo()
    result = algorithm.train()
    result = algorithm.train()
    (callback,) = algorithm.callbacks
    report = {"rest": 0.3, "env_step": 0.1, "inference": 0.2}
    phases = {"sample": 0.6, "learn": 0.3, "sync": 0.01}

    def iteration() -> None:
        result["env_runners"][REPORTS] = {"1": report, "2": report}
        callback._phases._seconds = dict(phases)
        callback.on_train_result(algorithm=algorithm, result=result)

    iteration()
    assert result["scaling"]["efficiency"] > 0, "no baseline in hand"
    ours_us = median_us(iteration, calls)

    events: dict[str, int] = {}
    counting = [True]

    def audit(event: str, _arguments: object) -> None:
        if counting[0] and (event == "open" or event.startswith(("os.", "socket.", "pathlib."))):
            events[event] = events.get(event, 0) + 1

    sys.addaudithook(audit)
    for _ in range(1000):
        iteration()
    counting[0] = False

    tracemalloc.start()
    for _ in range(1000):
        iteration()
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(kept_over):
        iteration()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    # A reduction changes the logger, so each works on a copy, whose own time is taken off.
    copied_us = median_us(lambda: copy.deepcopy(algorithm.metrics), 200)
    compiled_us = median_us(lambda: copy.deepcopy(algorithm.metrics).reduce(), 200) - copied_us
    algorithm.stop()

    print(f"on_train_result, everything on, baseline in hand: {ours_us:8.1f} µs median of {calls} (1.0)")
    print(f"RLlib's own MetricsLogger.reduce():               {compiled_us:8.1f} µs ({compiled_us / ours_us:.1f})")
    try:
        from lightning.fabric.utilities.throughput import Throughput
    except ImportError:
        print("Lightning's Throughput: not installed (pip install lightning)")
    else:
        throughput, step = Throughput(window_size=100), [0]

        def update() -> None:
            step[0] += 1
            throughput.update(time=float(step[0]), batches=step[0], samples=1000 * step[0], lengths=1000 * step[0])
            throughput.compute()

        lightning_us = median_us(update, calls)
        print(f"Lightning's Throughput.update() + compute():      {lightning_us:8.1f} µs ({lightning_us / ours_us:.1f})")
    print(f"files and sockets touched in 1000 iterations: {events or 'none'}")
    print(f"memory kept after {kept_over:,} more iterations: {after - before:+,d} bytes")


def side_by_side(what: str, calls: dict[str, Callable[[], object]], rounds: int) -> None:
    """Do the same with and without the callback in turns, and print the ratios of time and of CPU time.

    CPU time is that of this process: it tells a difference of a percent where other programs make the time itself jump.
    """
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for turn in range(rounds):
        for name in sorted(calls, reverse=bool(turn % 2)):
            started = time.perf_counter(), time.process_time()
            calls[name]()
            spent[name].append((time.perf_counter() - started[0], time.process_time() - started[1]))
    for kind, place in (("time", 0), ("CPU time", 1)):
        ratios = [a[place] / b[place] for a, b in zip(spent["with"], spent["without"], strict=True)]
        quarters = statistics.quantiles(ratios, n=4)
        error = 1.57 * (quarters[2] - quarters[0]) / len(ratios) ** 0.5
        print(
            f"{what}, {kind} with / without the callback: {quarters[1]:.4f} ± {error:.4f} (median of {rounds} pairs, 95 %)",
            flush=True,
        )


def training(rounds: int) -> None:
    """Train and sample with and without the callback, with the env runner in this process."""
    torch.set_num_threads(1)
    ours = functools.partial(ScalingCallback, baseline_sps=1000.0)
    trainings = {"with": config(ours, 0).build_algo(), "without": config(None, 0).build_algo()}
    for algorithm in trainings.values():
        algorithm.train()
    side_by_side("a training iteration", {name: algorithm.train for name, algorithm in trainings.items()}, rounds)
    samples = {name: functools.partial(each.env_runner.sample, num_timesteps=200) for name, each in trainings.items()}
    side_by_side("sampling in an env runner", samples, 5 * rounds)
    for algorithm in trainings.values():
        algorithm.stop()


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=100, help="pairs of iterations with and without the callback")
    arguments.add_argument("--calls", type=int, default=20_000, help="calls of the hook that are timed")
    arguments.add_argument("--kept-over", type=int, default=1_000_000, help="iterations over which memory must stay")
    options = arguments.parse_args()
    ray.init(num_cpus=4, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    hook(options.calls, options.kept_over)
    training(options.rounds)
