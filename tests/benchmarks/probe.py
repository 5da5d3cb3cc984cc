"""Compares probes with whole iterations: `python tests/benchmarks/probe.py --env HalfCheetah-v5 --algo ppo`, about two minutes.

One Algorithm with 4 env runners alternately probes 12 scales and trains whole iterations at each of them, in random order and in
the same processes (see `rllib.rescale`). Prints a Markdown table of the speedups over 1r×1e by both. With `--coverage 20`, counts
how often the stated interval of a probed baseline holds the steady figure of separate trials right before and after. Run nothing
else at the same time.
"""

import argparse
import functools
import gc
import math
import multiprocessing
import os
import random
import time
from statistics import mean, median
from typing import Any

import ray
import torch
from ray import tune
from ray.rllib.algorithms.dqn import DQNConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.sac import SACConfig
from trials import SlowStep, machine

from rl_scaling_callback import ScalingCallback
from rl_scaling_callback.core.attribution import PHASES, TimeBreakdown
from rl_scaling_callback.core.estimates import Estimate, trimmed_mean
from rl_scaling_callback.core.probing import Probe
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import SteadyRule, SteadyWindow
from rl_scaling_callback.rllib.prober import Prober
from rl_scaling_callback.rllib.rescale import Switch

REFERENCE = Scale(1, 1)
SCALES = [Scale(runners, envs) for runners in (1, 2, 4) for envs in (1, 2, 4, 8)]


def config_of(algo: str, env: str, batch: int, scale: Scale) -> Any:
    """Return the config of an Algorithm."""
    if algo == "ppo":
        config = PPOConfig().training(train_batch_size_per_learner=batch, minibatch_size=min(batch, 512), num_epochs=4)
    else:
        config = (DQNConfig if algo == "dqn" else SACConfig)().training(num_steps_sampled_before_learning_starts=256)
        config.reporting(min_time_s_per_iteration=0, min_sample_timesteps_per_iteration=batch)
    return (
        config.environment(env)
        .env_runners(
            num_env_runners=scale.num_env_runners,
            num_envs_per_env_runner=scale.num_envs_per_env_runner,
            num_cpus_per_env_runner=0.25,
        )
        .callbacks(functools.partial(ScalingCallback, baseline_sps=1.0))  # it times the phases
        .debugging(log_level="ERROR")
    )


PARTS = tuple(phase for phase in PHASES if phase != "evaluate")


def per_step(result: dict[str, Any]) -> TimeBreakdown:
    """Return the time breakdown of an iteration, per env step [s]."""
    scaling = result["scaling"]
    return TimeBreakdown.of(scaling["time"], sum(scaling["time"][part] for part in PARTS)).scaled(1 / scaling["env_steps"])


def updates_ratio(prober: Prober, scale: Scale, own: Scale) -> float:
    """Return the ratio of learner updates at a scale to those at the trial's own, for equal env steps."""
    steps = prober.env_steps_per_update(own)
    return 1.0 if math.isinf(steps) else steps / prober.env_steps_per_update(scale)


def predicted(breakdown: TimeBreakdown, pairs: list[tuple[Probe, Probe]], updates: float) -> float:
    """Return seconds per env step at a scale, predicted as by the callback: from probes of it and of the trial's own scale."""
    sampling = trimmed_mean([math.log(probe.seconds_per_step / own.seconds_per_step) for probe, own in pairs]).mean
    sync = trimmed_mean([math.log(probe.sync / own.sync) if probe.sync > 0 and own.sync > 0 else 0.0 for probe, own in pairs]).mean
    rest = breakdown.learn + breakdown.sync * math.exp(sync) + breakdown.other
    return breakdown.sample * math.exp(sampling) + rest * updates


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run rounds of probes and of whole iterations; return both, with times."""
    until, own = time.perf_counter() + options.seconds, Scale.parse(options.own)
    algorithm = config_of(options.algo, options.env, options.batch, Scale(4, 4)).build_algo()
    algorithm.train()
    switch, prober = Switch(algorithm), Prober(algorithm, max_seconds=120, probe_seconds=0.2)
    prober.measure(SCALES)
    measured = {
        "probes": [],
        "iterations": [],
        "probe_seconds": [],
        "full_seconds": [],
        "updates": {scale: updates_ratio(prober, scale, own) for scale in SCALES},
    }
    for scale in SCALES:
        switch.train(scale)
    # A full garbage collection took 0.3 s, once in about 40 updates of SAC or 1,500 env steps of DQN. Every iteration of SAC at
    # 1r×1e had one, but few of the shorter ones, so that medians had it at 1r×1e only. What is frozen is not traversed.
    gc.collect()
    gc.freeze()
    for number in range(options.rounds):
        started = time.perf_counter()
        if number > 1 and started > until:
            break
        measured["probes"] += prober.measure(SCALES)
        measured["probe_seconds"].append(time.perf_counter() - started)
        started = time.perf_counter()
        measured["iterations"] += [
            (scale, number, per_step(switch.train(scale)[0])) for scale in random.sample(SCALES, len(SCALES))
        ]
        measured["full_seconds"].append(time.perf_counter() - started)
    prober.close()
    algorithm.stop()
    return measured


def take_a_core_in_spells(seconds: float) -> None:
    """Use one core for some seconds, then none for as long, for ever."""
    while True:
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            pass
        time.sleep(seconds)


def steady_alone(options: argparse.Namespace) -> float:
    """Return the steady SPS of a trial of 1r×1e."""
    algorithm = config_of(options.algo, options.env, options.batch, REFERENCE).build_algo()
    window = SteadyWindow(SteadyRule())
    while not window.read().settled:
        scaling = algorithm.train()["scaling"]
        window.add(scaling["env_steps"], scaling["env_steps"] / scaling["sps"])
    algorithm.stop()
    return window.read().sps


def coverage(options: argparse.Namespace) -> None:
    """Alternate trials of 1r×1e with trials that probe it, and compare each of the latter with those before and after it."""
    if options.neighbour:
        multiprocessing.Process(target=take_a_core_in_spells, args=(3.0,), daemon=True).start()
    callback = functools.partial(ScalingCallback, probe=True)
    before, rows = steady_alone(options), []
    print("| 1r×1e before | probed | stated error % | 1r×1e after | before, after: off by % | % of the time spent on probes |")
    print("|---|---|---|---|---|---|")
    for _ in range(options.coverage):
        config = config_of(options.algo, options.env, options.batch, Scale.parse(options.own)).callbacks(callback)
        if options.algo == "ppo":
            config.training(lr=0.0)
        algorithm, scaling, probing = config.build_algo(), {}, 0.0
        started = time.perf_counter()
        while time.perf_counter() < started + options.seconds:
            scaling = algorithm.train()["scaling"]
            probing += scaling["time"]["probe"]
        share = 100 * probing / (time.perf_counter() - started)
        algorithm.stop()
        after = steady_alone(options)
        probed, error = scaling["steady"]["sps"] / scaling["steady"]["speedup"], scaling["baseline"]["error"]
        off = [100 * (probed / each - 1) for each in (before, after)]
        held = [abs(math.log(probed / each)) <= math.log1p(error / 100) for each in (before, after)]
        rows.append((error, off, held))
        print(
            f"| {before:,.0f} | {probed:,.0f} | {error:.1f} | {after:,.0f} | {off[0]:+.1f}, {off[1]:+.1f} | {share:.0f} |",
            flush=True,
        )
        before = after
    known = [row for row in rows if row[0] > 0]
    held = [each for row in known for each in row[2]]
    off = [each for row in known for each in row[1]]
    rms = math.sqrt(mean([each**2 for each in off]))
    print(
        f"\n{len(rows)} trials of {options.seconds:g} s; error known in {len(known)}; {sum(held)} of {len(held)} comparisons held "
        f"({100 * sum(held) / len(held):.0f} %); stated error, median ± {median(row[0] for row in known):.1f} %; difference, mean "
        f"{mean(off):+.1f} %, root mean square {rms:.1f} %."
    )


def speedups(times: dict[Scale, float]) -> dict[Scale, float]:
    """Return the speedups over the reference from seconds per env step."""
    return {scale: times[REFERENCE] / seconds for scale, seconds in times.items()}


def full_times(iterations: list[Any], rounds: Any = None) -> dict[Scale, float]:
    """Return seconds per env step of whole iterations, median over `rounds`."""
    times: dict[Scale, list[float]] = {scale: [] for scale in SCALES}
    for scale, number, breakdown in iterations:
        if rounds is None or number in rounds:
            times[scale].append(breakdown.total)
    return {scale: median(of_scale) for scale, of_scale in times.items()}


def bias(measured: dict[str, Any]) -> Estimate:
    """Return ln of the reference's time per env step by probes over that of its iterations: the error common to all speedups.

    One value a round: the mean of the predictions from the iterations at each other scale.
    """
    iterations = {(scale, number): breakdown for scale, number, breakdown in measured["iterations"]}
    probes, updates = measured["probes"], measured["updates"]

    def log_ratio(own: Scale, number: int) -> float:
        pair = (probes[number][REFERENCE], probes[number][own])
        value = predicted(iterations[own, number], [pair], updates[REFERENCE] / updates[own])
        return math.log(value / iterations[REFERENCE, number].total)

    rounds = range(len(measured["full_seconds"]))
    return trimmed_mean([mean(log_ratio(own, number) for own in SCALES if own != REFERENCE) for number in rounds])


def report(measured: dict[str, Any], own: Scale) -> None:
    """Print the table."""
    full = full_times(measured["iterations"])
    at_own = [breakdown for scale, _, breakdown in measured["iterations"] if scale == own]
    breakdown = TimeBreakdown.of_window({part: median(getattr(each, part) for each in at_own) for part in PARTS})
    pairs = {scale: [(probes[scale], probes[own]) for probes in measured["probes"]] for scale in SCALES}
    probed = {scale: predicted(breakdown, pairs[scale], measured["updates"][scale]) for scale in SCALES}
    by_probe, by_full = speedups(probed), speedups(full)
    errors = {scale: 100 * (by_probe[scale] / by_full[scale] - 1) for scale in SCALES if scale != REFERENCE}
    rounds = len(measured["full_seconds"])
    common = bias(measured)
    halves = [speedups(full_times(measured["iterations"], range(start, rounds, 2))) for start in (0, 1)]
    noise = {scale: 100 * (halves[0][scale] / halves[1][scale] - 1) for scale in errors}
    print("| scale | full steps/s | speedup, full | speedup, probed | error % | difference between halves of full % |")
    print("|---|---|---|---|---|---|")
    for scale in SCALES:
        print(
            f"| {scale} | {1 / full[scale]:,.0f} | {by_full[scale]:.2f} | {by_probe[scale]:.2f} | {errors.get(scale, 0):+.1f} "
            f"| {noise.get(scale, 0):+.1f} |"
        )
    print(
        f"\nError: {sizes(errors)}. Common to all: {REFERENCE} takes {100 * common.mean:+.1f} ± {100 * common.half_width:.1f} % "
        f"more time by probes (95 % interval over rounds). One half of the full iterations against the other: {sizes(noise)}.\n"
        f"{rounds} rounds; one of probes {median(measured['probe_seconds']):.1f} s, of full iterations "
        f"{median(measured['full_seconds']):.1f} s.\n"
    )


def sizes(percents: dict[Scale, float]) -> str:
    """Return the mean and the largest absolute value as text."""
    absolute = [abs(percent) for percent in percents.values()]
    return f"mean {mean(absolute):.1f} %, worst {max(absolute):.1f} %"


def main() -> None:
    """Run one env and algorithm."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", default="HalfCheetah-v5", help="a Gymnasium env, or 'slow' for one that waits 2 ms per step")
    parser.add_argument("--algo", default="ppo", choices=["ppo", "dqn", "sac"])
    parser.add_argument("--batch", type=int, default=2048, help="env steps per iteration")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=90, help="start no more rounds after this time, except the first two")
    parser.add_argument("--own", default="2r4e", help="the trial's own scale")
    parser.add_argument("--coverage", type=int, default=0, help="number of trials to compare with separate trials of 1r×1e")
    parser.add_argument("--neighbour", action="store_true", help="let another program take a core half of the time, 3 s at once")
    options = parser.parse_args()
    os.environ.update(PYTHONWARNINGS="ignore", RAY_worker_niceness="0")
    torch.set_num_threads(1)  # as Ray does in a trial of Tune
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    tune.register_env("slow", SlowStep)
    print(f"{options.algo.upper()}, {options.env}, {options.batch:,} env steps per iteration; {machine()}\n")
    if options.coverage:
        coverage(options)
        return
    measured = run(options)
    ray.shutdown()
    report(measured, Scale.parse(options.own))


if __name__ == "__main__":
    main()
