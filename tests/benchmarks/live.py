"""Compares `sweep` with one trial per configuration on this machine: duration and quality of the choices.

Results are kept in one JSON file per env. Each command continues from there and takes at most about 4 minutes on 2 cores with the
default 12 configurations. Run nothing else at the same time. For one env, in about 12 minutes:

    python tests/benchmarks/live.py halfcheetah --stage trials   # each configuration once, in a random order
    python tests/benchmarks/live.py halfcheetah --stage sweeps   # a sweep for each goal
    python tests/benchmarks/live.py halfcheetah --stage trials   # the second round of trials
    python tests/benchmarks/live.py halfcheetah --stage sweeps   # repeat as needed: each call adds one sweep per goal
    python tests/benchmarks/live.py halfcheetah --stage rivals   # seconds: replays other methods and prints all tables

and likewise for cartpole, slow_step and hopper. An interrupted command loses only its current trial or sweep; run it again to
complete its round. `--stage summary` prints the tables of an existing file.

Trials are complete: start-up, 2 warm-up iterations and 5 that count, or more with `--iterations`, which are then combined to 5.
Iterations of over twice the median of their trial, in which the machine stood still, count as the median one. The time of a sweep
is that of the call, from the start of its Algorithm to the page. Neither includes the start of Ray. The rivals (Tune's ASHA and
Optuna, doubling by hand, search by trials) see the trials of one round and are charged their duration. All choices are judged by
rounds that the rivals did not see, one at a time, so "every configuration once" shows the uncertainty of the judge; those of sweeps
are judged by all rounds together as well.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import numpy as np
import ray
import search
from ray import tune
from ray.rllib.algorithms.ppo import PPOConfig
from ray.tune.search import BasicVariantGenerator
from record_grid import ENVS, QUIET
from search import FULL, HIT, SINGLE, Bench, Grid, Iteration, Run

from rl_scaling_callback import Goal, ScalingCallback, sweep
from rl_scaling_callback.analysis.goals import GOALS
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.rllib.hardware import cpu_model, usable_cores

_ENVS: Final = {**ENVS, "hopper": "Hopper-v5"}
_REPLAYS: Final = 50

Data = dict[str, Any]


class Keeper(tune.Callback):
    """Passes on each completed trial: its start-up time and its iterations."""

    def __init__(self, keep: Callable[[Data], None]) -> None:
        self._keep = keep
        self._free_since = time.time()
        self._start_up = 0.0
        self._iterations: list[dict[str, float]] = []

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        """Record an iteration."""
        if not self._iterations:
            self._start_up = time.time() - self._free_since - result["time_this_iter_s"]
        times = result["scaling"]["time"]
        named = {"seconds": result["time_this_iter_s"], "env_steps": result["scaling"]["env_steps"]}
        self._iterations.append(named | {name: times[name] for name in ("learn", "sync", "other")})

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Pass on the trial."""
        scale = [trial.config["num_env_runners"], trial.config["num_envs_per_env_runner"]]
        self._keep({"scale": scale, "start_up": self._start_up, "iterations": self._iterations})
        self._free_since, self._iterations = time.time(), []


def run_trials(config: PPOConfig, data: Data, save: Callable[[], None]) -> None:
    """Complete the last round of trials, or run a new one."""
    scales = [[r, e] for r in data["runners"] for e in data["envs"]]
    rounds: dict[int, list[list[int]]] = defaultdict(list)
    for each in data["trials"]:
        rounds[each["round"]].append(each["scale"])
    number = max(rounds, default=0)
    if len(rounds[number]) == len(scales):
        number += 1
    left = [scale for scale in random.Random(number).sample(scales, len(scales)) if scale not in rounds[number]]

    def keep(trial: Data) -> None:
        data["trials"].append({"round": number, **trial})
        save()

    points = [{"num_env_runners": r, "num_envs_per_env_runner": e} for r, e in left]
    everything: Any = config.copy(copy_frozen=False).callbacks(ScalingCallback)
    everything.num_env_runners, everything.num_envs_per_env_runner = tune.choice(data["runners"]), tune.choice(data["envs"])
    tune.Tuner(
        "PPO",
        param_space=everything,
        tune_config=tune.TuneConfig(
            num_samples=len(points), search_alg=BasicVariantGenerator(points_to_evaluate=points, max_concurrent=1)
        ),
        run_config=tune.RunConfig(
            storage_path=tempfile.mkdtemp(), stop={"training_iteration": data["iterations"]}, callbacks=[Keeper(keep)], verbose=0
        ),
    ).fit()


def run_sweeps(config: PPOConfig, data: Data, save: Callable[[], None]) -> None:
    """Run a sweep for each of the goals with the fewest sweeps so far."""
    times = {name: sum(each["goal"] == name for each in data["sweeps"]) for name in GOALS}
    for name in [name for name in GOALS if times[name] == min(times.values())]:
        started = time.monotonic()
        made = sweep(
            config,
            name,
            runners=data["runners"],
            envs=data["envs"],
            engine="probes",
            budget_minutes=data["budget_minutes"],
            storage_path=tempfile.mkdtemp(),
            say=lambda text: None,
            show=lambda report: None,
        )
        seconds = time.monotonic() - started
        choice = made.studies[0].recommendation.choice
        assert choice is not None
        data["sweeps"].append(
            {
                "goal": name,
                "seconds": seconds,
                "scale": [choice.scale.num_env_runners, choice.scale.num_envs_per_env_runner],
                "speedups": {str(each.scale): [each.speedup, each.speedup_error] for each in made.studies[0].configurations},
                "measured": made.experiment.source,
                "note": "; ".join(choice.notes),
            }
        )
        save()


def policies() -> dict[str, search.Policy]:
    """Return the other methods by name."""
    found = {
        "every configuration once": search.exhaustive,
        "search by trials": search.search(1.0, FULL),
        "doubling by hand": search.doubling,
        "Tune's ASHA": search.asha,
    }
    return found | ({"Tune's Optuna": search.optuna(0.3)} if find_spec("optuna") else {})


def run_rivals(data: Data, save: Callable[[], None]) -> None:
    """Replay the other methods on each complete round of trials."""
    runs = whole_rounds(data)
    data["rivals"] = []
    for (number, seen), (name, policy), goal in (
        (seen, policy, goal) for seen in runs.items() for policy in policies().items() for goal in GOALS.values()
    ):
        rng = np.random.default_rng(0)
        for _ in range(1 if policy is search.exhaustive or policy is search.doubling else _REPLAYS):
            bench = Bench(Grid({scale: [run] for scale, run in seen.items()}, {}, float(data["cores"])), goal)
            choice = policy(bench, rng)
            entry = {"policy": name, "goal": goal.name, "round": number, "share": bench.share}
            data["rivals"].append(entry | {"scale": [choice.num_env_runners, choice.num_envs_per_env_runner]})
    save()


def whole_rounds(data: Data) -> dict[int, dict[Scale, Run]]:
    """Return the trials of each complete round."""
    runs: dict[int, dict[Scale, Run]] = defaultdict(dict)
    for each in data["trials"]:
        iterations = without_stalls([Iteration(**iteration) for iteration in each["iterations"]])
        runs[each["round"]][Scale(*each["scale"])] = Run(each["start_up"], in_blocks(iterations))
    return {number: found for number, found in runs.items() if len(found) == len(data["runners"]) * len(data["envs"])}


def without_stalls(iterations: Sequence[Iteration]) -> tuple[Iteration, ...]:
    """Return iterations, with the median one in place of those that took over twice as long: the machine stood still."""
    middle = sorted(iterations, key=lambda each: each.seconds)[len(iterations) // 2]
    return tuple(middle if each.seconds > 2 * middle.seconds else each for each in iterations)


def in_blocks(iterations: Sequence[Iteration]) -> tuple[Iteration, ...]:
    """Return the warm-up iterations, and the others combined to as many as `FULL` has."""
    warmup, last = FULL
    counting = np.array([astuple(each) for each in iterations[warmup:]])
    return (*iterations[:warmup], *(Iteration(*block.sum(axis=0)) for block in np.array_split(counting, last - warmup)))


def regrets(entries: Sequence[Data], truths: Mapping[Any, Mapping[Scale, float]], goal: Goal) -> Iterator[float]:
    """Yield the regret of each choice, judged by each round that it has not seen."""
    for each in entries:
        for number, truth in truths.items():
            if number != each.get("round"):
                yield search.regret(truth, Scale(*each["scale"]), goal)


def summary(data: Data) -> None:
    """Print the tables of the results so far."""
    runs = whole_rounds(data)
    print(f"{data['env']}, PPO, {data['steps']} env steps per iteration; {data['machine']}; {len(runs)} complete rounds of trials")
    if not runs:
        return
    pace = search.at_true_pace({scale: [each[scale] for each in runs.values()] for scale in next(iter(runs.values()))})
    truths: dict[Any, dict[Scale, float]] = {
        number: {scale: found[place] for scale, found in pace.items()} for place, number in enumerate(runs)
    }
    everything = {scale: math.exp(fmean(map(math.log, found))) for scale, found in pace.items()}
    whole = fmean(sum(run.seconds() for run in each.values()) for each in runs.values())
    one = fmean(run.start_up for each in runs.values() for run in each.values())
    print(f"Every configuration once: {whole:.0f} s, {one:.1f} s of each trial is start-up")
    if len(runs) > 1:
        noise = math.sqrt(fmean(float(np.var(np.log(found), ddof=1)) for found in pace.values()))
        print(
            f"Trials of one configuration differ by {100 * noise:.1f} % (standard deviation) after correction for the machine's "
            "speed"
        )
    print("Intervals of choices that hold another sweep for the same goal: {} of {}".format(*repeats(data["sweeps"])))
    for goal in GOALS.values():
        best = search.best(everything, goal)
        print(f"\nGoal {goal.name}: by all trials {best}, {everything[best] / everything[SINGLE]:.2f}×")
        print(
            "{:<32}{:>8}{:>12}{:>13}{:>8}{:>8}{:>14}".format(
                "", "choices", "within 5 %", "regret 50 %", "90 %", "100 %", "share of time"
            )
        )
        swept = [each for each in data["sweeps"] if each["goal"] == goal.name]
        shares = [each["seconds"] / whole for each in swept]
        row("sweep, by all trials", swept, list(regrets(swept, {"all": everything}, goal)), shares)
        row("sweep, by one round at a time", swept, list(regrets(swept, truths, goal)), shares)
        for name in dict.fromkeys(each["policy"] for each in data.get("rivals", [])):
            own = [each for each in data["rivals"] if each["policy"] == name and each["goal"] == goal.name]
            row(name, own, list(regrets(own, truths, goal)), [each["share"] for each in own])
        for each in swept:
            scale = Scale(*each["scale"])
            speedup, error = each["speedups"][str(scale)]
            by_trials = everything[scale] / everything[SINGLE]
            print(
                f"  {each['seconds']:.0f} s -> {scale}: {speedup:.2f}× ± {error:.0f} %, by trials {by_trials:.2f}×; "
                f"{each['measured']}"
            )


def repeats(sweeps: Sequence[Data]) -> tuple[int, int]:
    """Return how often the interval of a choice held the figure of another sweep for the same goal, and of how many pairs."""
    held = [
        abs(math.log(other["speedups"][choice][0] / each["speedups"][choice][0])) <= math.log1p(each["speedups"][choice][1] / 100)
        for each, other in itertools.permutations(sweeps, 2)
        if each["goal"] == other["goal"] and (choice := str(Scale(*each["scale"]))) != str(SINGLE) and choice in other["speedups"]
    ]
    return sum(held), len(held)


def row(name: str, entries: Sequence[Data], found: Sequence[float], shares: Sequence[float]) -> None:
    """Print a row on the quality of choices."""
    if not found:
        return
    hits = 100 * fmean(each <= HIT for each in found)
    middle, most, worst = (100 * each for each in np.quantile(found, (0.5, 0.9, 1)))
    print(f"{name:<32}{len(entries):>8}{hits:>12.0f}{middle:>13.1f}{most:>8.1f}{worst:>8.1f}{100 * fmean(shares):>12.0f} %")


def main() -> None:
    """Run a stage and print the tables."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("env", choices=sorted(_ENVS))
    arguments.add_argument("--stage", choices=["trials", "sweeps", "rivals", "summary"], required=True)
    arguments.add_argument("--file", type=Path, help="[default: live-ENV.json here]")
    # Used only for a new file.
    arguments.add_argument("--runners", type=lambda text: [int(r) for r in text.split(",")], default=[1, 2, 4])
    arguments.add_argument("--envs", type=lambda text: [int(e) for e in text.split(",")], default=[1, 2, 4, 8])
    arguments.add_argument("--steps", type=int, default=1024, help="env steps per iteration")
    arguments.add_argument("--iterations", type=int, default=FULL[1], help="iterations of a trial, at least 7")
    arguments.add_argument("--budget", type=float, help="budget of a sweep in minutes, instead of the default")
    options = arguments.parse_args()

    file: Path = options.file or Path(f"live-{options.env}.json")
    if file.exists():
        data: Data = json.loads(file.read_text())
    else:
        data = {name: getattr(options, name) for name in ("env", "runners", "envs", "steps", "iterations")}
        machine = f"{cpu_model()}, {usable_cores()} cores, Ray {ray.__version__}, {time.strftime('%Y-%m-%d')}"
        data |= {"budget_minutes": options.budget, "cores": usable_cores(), "machine": machine, "trials": [], "sweeps": []}

    def save() -> None:
        part = file.with_suffix(".part")
        part.write_text(json.dumps(data))
        part.replace(file)

    if options.stage in ("trials", "sweeps"):
        os.environ.update(QUIET | {"RAY_AIR_NEW_OUTPUT": "0"})
        ray.init(num_cpus=max(data["runners"]) + 1, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
        config = (
            PPOConfig()
            .environment(_ENVS[data["env"]])
            .training(train_batch_size_per_learner=data["steps"], minibatch_size=data["steps"] // 4, num_epochs=4)
            .debugging(log_level="ERROR")
        )
        (run_trials if options.stage == "trials" else run_sweeps)(config, data, save)
    elif options.stage == "rivals":
        run_rivals(data, save)
    summary(data)


if __name__ == "__main__":
    main()
