"""Measures the overhead of the callback: `python tests/benchmarks/overhead.py`. Takes about 20 minutes; run nothing else meanwhile.

Prints medians and ratios measured within one run: the hook compared with RLlib's compilation of a result, the files and sockets it
accesses, sampling alternately with and without the callback, and iterations after autotune beside those of a trial configured so.
"""

import argparse
import copy
import functools
import math
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import ray
import torch
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.callbacks.callbacks import RLlibCallback

from rl_scaling_callback import ScalingCallback, SteadyRule
from rl_scaling_callback.core.estimates import trimmed_mean


def config(callbacks: Any, runners: int, steps: int) -> PPOConfig:
    """Return a PPO config with `steps` env steps per iteration."""
    return (
        PPOConfig()
        .environment("CartPole-v1")
        .env_runners(num_env_runners=runners, num_cpus_per_env_runner=0.5)
        .training(train_batch_size_per_learner=steps, minibatch_size=steps // 2, num_epochs=2)
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


def timed(holder: Any, name: str) -> list[float]:
    """Record the duration of each call of an object's method [µs]."""
    spent: list[float] = []
    method = getattr(holder, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter_ns()
        try:
            return method(*args, **kwargs)
        finally:
            spent.append((time.perf_counter_ns() - started) / 1000)

    setattr(holder, name, call)
    return spent


def hook(iterations: int, calls: int) -> None:
    """Measure `on_train_result` on real Algorithms, with a stored baseline and with probes."""
    rule = {"steady": SteadyRule(warmup_iterations=0, min_iterations=2, max_iterations=2)}
    stored = functools.partial(ScalingCallback, baseline_dir=tempfile.mkdtemp(), **rule)
    reference = config(stored, 1, steps=100).build_algo()
    for _ in range(4):
        reference.train()
    reference.stop()
    for what, ours in {"a stored baseline": stored, "probe=True": functools.partial(ScalingCallback, probe=True, **rule)}.items():
        algorithm = config(ours, 2, steps=100).build_algo()
        for _ in range(5):
            result = algorithm.train()
        assert result["scaling"]["efficiency"] > 0, "no baseline in hand"
        (callback,) = algorithm.callbacks
        hooked, reduced = timed(callback, "on_train_result"), timed(algorithm.metrics, "reduce")
        for _ in range(iterations):
            result = algorithm.train()
        share = 100 * statistics.median(hooked) / statistics.median(reduced)
        print(
            f"{what}, median of {iterations} iterations: on_train_result {statistics.median(hooked):.0f} µs, RLlib's own "
            f"MetricsLogger.reduce() {statistics.median(reduced):.0f} µs, {share:.1f} %",
            flush=True,
        )
        del callback.on_train_result, algorithm.metrics.reduce
        again_and_again(what, algorithm, callback, result, calls)
        algorithm.stop()


def again_and_again(what: str, algorithm: Any, callback: Any, result: dict[str, Any], calls: int) -> None:
    """Repeat the last iteration's hook, with warm caches; print its duration, and the files and sockets it accesses."""
    phases = {phase: result["scaling"]["time"][phase] for phase in ("sample", "learn", "sync")}

    def iteration() -> None:
        callback._instrument.clock._seconds = dict(phases)
        callback.on_train_result(algorithm=algorithm, result=result)

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

    # A reduction changes the logger, so each uses a copy. The time to copy is subtracted.
    copied_us = median_us(lambda: copy.deepcopy(algorithm.metrics), 200)
    compiled_us = median_us(lambda: copy.deepcopy(algorithm.metrics).reduce(), 200) - copied_us
    print(
        f"{what}, in a loop: on_train_result {ours_us:.1f} µs (median of {calls}), reduce() {compiled_us:.1f} µs, "
        f"{100 * ours_us / compiled_us:.1f} %"
    )
    print(f"files and sockets touched in 1000 iterations: {events or 'none'}")


def side_by_side(what: str, calls: dict[str, Callable[[], object]], rounds: int) -> None:
    """Run the same call alternately with and without the callback, and print the ratios of wall-clock and CPU time.

    CPU time is that of this thread. It shows a difference of a percent even if other programs disturb the wall-clock time.
    """
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    order = list(calls)
    for _ in range(rounds):
        random.shuffle(order)  # a fixed order could coincide with the episodes
        for name in order:
            started = time.perf_counter(), time.thread_time()
            calls[name]()
            spent[name].append((time.perf_counter() - started[0], time.thread_time() - started[1]))
    for kind, index in (("time", 0), ("CPU time", 1)):
        pairs = zip(spent["with"], spent["without"], strict=True)
        estimate = trimmed_mean([math.log(a[index] / b[index]) for a, b in pairs])
        print(
            f"{what}, {kind} that the callback adds: {100 * estimate.mean:.2f} ± {100 * estimate.half_width:.2f} % "
            f"(trimmed mean of {rounds} pairs, 95 %)",
            flush=True,
        )


def sampling(rounds: int) -> None:
    """Sample CartPole, one of the fastest envs, in fragments of 50 steps with and without the callback, in one Algorithm."""
    torch.set_num_threads(1)
    algorithm = config(functools.partial(ScalingCallback, baseline_sps=1000.0), 0, steps=200).build_algo()
    algorithm.train()
    runner: Any = algorithm.env_runner
    callbacks, logger = runner._callbacks, vars(runner.metrics)
    hooked = logger["log_time"]

    def sample(ours: bool) -> None:
        runner._callbacks = callbacks if ours else [RLlibCallback()]  # RLlib's default
        logger.pop("log_time", None)
        if ours:
            logger["log_time"] = hooked
        runner.sample(num_timesteps=50)
        runner.get_metrics()

    side_by_side("CartPole, fragments of 50 steps", {"with": lambda: sample(True), "without": lambda: sample(False)}, 4 * rounds)
    algorithm.stop()


def tuned(rounds: int) -> None:
    """Train a trial that has tuned itself, and one that was configured like that, in turn."""
    torch.set_num_threads(1)
    one = config(functools.partial(ScalingCallback, autotune=True, learner_threads=1), 2, steps=1024).build_algo()
    scaling: dict[str, Any] = one.train()["scaling"]
    while not scaling["tuned"]["gain"] > 0:
        scaling = one.train()["scaling"]
    runners, envs = (int(scaling["tuned"][name]) for name in ("num_env_runners", "num_envs_per_env_runner"))
    other = config(functools.partial(ScalingCallback, probe=True), runners, steps=1024)
    other.num_envs_per_env_runner = envs
    algorithms = {"with": one, "without": other.build_algo()}
    hooked = [timed(algorithm.callbacks[0], "on_train_result") for algorithm in algorithms.values()]
    side_by_side(f"{runners}r×{envs}e, as tuned or as configured", {what: each.train for what, each in algorithms.items()}, rounds)
    print("on_train_result, as tuned and as configured: {:.0f} and {:.0f} µs".format(*map(statistics.median, hooked)))
    for algorithm in algorithms.values():
        algorithm.stop()


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=300, help="pairs of iterations with and without the callback")
    arguments.add_argument("--calls", type=int, default=20_000, help="number of timed calls of the hook")
    arguments.add_argument("--only", choices=("hook", "sampling", "tuned"), help="measure only this")
    options = arguments.parse_args()
    ray.init(num_cpus=4, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    if options.only in (None, "hook"):
        hook(options.rounds, options.calls)
    if options.only in (None, "sampling"):
        sampling(options.rounds)
    if options.only in (None, "tuned"):
        tuned(options.rounds)
