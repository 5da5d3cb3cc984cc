"""What watching costs: `python tests/benchmarks/overhead.py [--rounds 6] [--calls 20000]`.

Prints medians and ratios measured side by side in one run: the hook itself next to RLlib's own compilation of a result and, when
installed, Lightning's `Throughput`; files opened and memory kept while it runs; and training with the callback next to training
without it, in turns.
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


def hook(calls: int) -> None:
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
    for _ in range(calls):
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
    print(f"memory kept after {calls} more iterations: {after - before:+d} bytes")


def training(rounds: int) -> None:
    """Train with and without the callback in turns; print the ratio of their iteration times."""
    ours = functools.partial(ScalingCallback, baseline_sps=1000.0)
    trainings = {"with": config(ours, 1).build_algo(), "without": config(None, 1).build_algo()}
    for algorithm in trainings.values():
        algorithm.train()
        algorithm.train()
    times: dict[str, list[float]] = {name: [] for name in trainings}
    for turn in range(rounds):
        for name in sorted(trainings, reverse=bool(turn % 2)):
            times[name].append(trainings[name].train()["time_this_iter_s"])
    for algorithm in trainings.values():
        algorithm.stop()
    ratios = [a / b for a, b in zip(times["with"], times["without"], strict=True)]
    middle = statistics.median(ratios)
    error = 1.57 * (statistics.quantiles(ratios, n=4)[2] - statistics.quantiles(ratios, n=4)[0]) / len(ratios) ** 0.5
    print(f"iteration time with / without the callback, {rounds} pairs in turns: {middle:.4f} ± {error:.4f} (median, 95 %)")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=60)
    arguments.add_argument("--calls", type=int, default=20_000)
    options = arguments.parse_args()
    ray.init(num_cpus=4, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    hook(options.calls)
    training(options.rounds)
