"""Compares `sweep` with one trial per configuration on this machine: duration and quality of the choices.

Results are kept in one JSON file per env and algorithm. Each command continues from there and takes a few minutes on 2 cores with
the default 12 configurations. Run nothing else at the same time. For one env, in about 12 minutes:

    python tests/benchmarks/live.py halfcheetah --stage trials   # each configuration once, in a random order
    python tests/benchmarks/live.py halfcheetah --stage sweeps   # a sweep for each goal
    python tests/benchmarks/live.py halfcheetah --stage trials   # the second round of trials
    python tests/benchmarks/live.py halfcheetah --stage sweeps   # repeat as needed: each call adds one sweep per goal

Likewise for cartpole, slow_step, hopper and once (CartPole that exists once per process), and with `--algo impala`, or
`old` for PPO on the old API stack. An interrupted command loses only its current trial or sweep; run it again to complete its
round. `--stage summary` prints the tables of an existing file.

Trials are complete: start-up, 2 warm-up iterations and those that count. Iterations of over twice the median of their trial, in
which the machine stood still, count as the median one. The time of a sweep is that of the call, from the start of its Algorithm to
the page. Neither includes the start of Ray. Choices are judged by the mean of all rounds of trials.
"""

import argparse
import itertools
import json
import math
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any, Final

import gymnasium
import numpy as np
import ray
from ray import tune
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.tune.search import BasicVariantGenerator
from trials import SlowStep, machine

from rl_scaling_callback import sweep
from rl_scaling_callback.analysis.choice import GOALS, Goal
from rl_scaling_callback.core.scale import Scale

_WARMUP: Final = 2
SINGLE = Scale(1, 1)
HIT = 0.05
"""A choice is a hit if its regret is at most this."""

Data = dict[str, Any]


class Once(gymnasium.Wrapper):  # type: ignore[type-arg]
    """CartPole behind a port that only one env of a process can have."""

    alive = False

    def __init__(self, config: Any = None) -> None:
        if Once.alive:
            raise RuntimeError("the port is taken")
        Once.alive = True
        super().__init__(gymnasium.make("CartPole-v1"))

    def close(self) -> None:
        """Free the port."""
        Once.alive = False
        super().close()


_ENVS: Final = {
    "halfcheetah": "HalfCheetah-v5",
    "hopper": "Hopper-v5",
    "cartpole": "CartPole-v1",
    "slow_step": SlowStep,
    "once": Once,
}


def config_of(data: Data) -> AlgorithmConfig:
    """Return the config to tune."""
    config: Any = (IMPALAConfig if data["algo"] == "impala" else PPOConfig)()
    if data["algo"] == "old":
        config.api_stack(enable_rl_module_and_learner=False, enable_env_runner_and_connector_v2=False)
        config.training(train_batch_size=data["steps"], minibatch_size=data["steps"] // 4, num_epochs=4)
    elif data["algo"] == "ppo":
        config.training(train_batch_size_per_learner=data["steps"], minibatch_size=data["steps"] // 4, num_epochs=4)
    else:
        config.training(train_batch_size_per_learner=data["steps"]).reporting(min_time_s_per_iteration=2)
    made: AlgorithmConfig = config.environment(_ENVS[data["env"]]).debugging(log_level="ERROR")
    return made


class Keeper(tune.Callback):
    """Passes on each completed trial: its duration, and the env steps and seconds of its iterations."""

    def __init__(self, keep: Callable[[Data], None]) -> None:
        self._keep = keep
        self._free_since = time.time()
        self._iterations: list[list[float]] = []

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        """Record an iteration."""
        steps = result.get("num_env_steps_sampled_this_iter", result["env_runners"].get("num_env_steps_sampled", 0))
        self._iterations.append([float(steps), result["time_this_iter_s"]])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Pass on the trial."""
        scale = [trial.config["num_env_runners"], trial.config["num_envs_per_env_runner"]]
        self._keep({"scale": scale, "seconds": time.time() - self._free_since, "iterations": self._iterations})
        self._free_since, self._iterations = time.time(), []

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Pass on that the configuration can't be trained."""
        self.on_trial_complete(iteration, trials, trial)


def run_trials(config: Any, scales: Sequence[Scale], iterations: int, callback: tune.Callback) -> None:
    """Run one trial of each configuration in this order, and report to a Tune callback."""
    points = [
        {"num_env_runners": scale.num_env_runners, "num_envs_per_env_runner": scale.num_envs_per_env_runner} for scale in scales
    ]
    config = config.copy(copy_frozen=False)
    for name in points[0]:
        setattr(config, name, tune.choice(sorted({point[name] for point in points})))
    tune.Tuner(
        config.algo_class,
        param_space=config,
        tune_config=tune.TuneConfig(
            num_samples=len(points), search_alg=BasicVariantGenerator(points_to_evaluate=points, max_concurrent=1)
        ),
        run_config=tune.RunConfig(
            storage_path=tempfile.mkdtemp(), stop={"training_iteration": iterations}, callbacks=[callback], verbose=0
        ),
    ).fit()


def run_round(config: AlgorithmConfig, data: Data, save: Callable[[], None]) -> None:
    """Complete the last round of trials, or run a new one."""
    scales = [Scale(r, e) for r in data["runners"] for e in data["envs"]]
    rounds: dict[int, list[Scale]] = defaultdict(list)
    for each in data["trials"]:
        rounds[each["round"]].append(Scale(*each["scale"]))
    number = max(rounds, default=0)
    if len(rounds[number]) == len(scales):
        number += 1
    left = [scale for scale in random.Random(number).sample(scales, len(scales)) if scale not in rounds[number]]

    def keep(trial: Data) -> None:
        data["trials"].append({"round": number, **trial})
        save()

    run_trials(config, left, data["iterations"], Keeper(keep))


def run_sweeps(config: AlgorithmConfig, data: Data, save: Callable[[], None]) -> None:
    """Run a sweep for each of the goals with the fewest sweeps so far."""
    times = {name: sum(each["goal"] == name for each in data["sweeps"]) for name in data["goals"]}
    for name in [name for name in data["goals"] if times[name] == min(times.values())]:
        started = time.monotonic()
        made = sweep(
            config,
            name,
            runners=data["runners"],
            envs=data["envs"],
            page=Path(tempfile.mkdtemp()) / "page.html",
            say=lambda text: None,
            show=lambda report: None,
        )
        seconds = time.monotonic() - started
        found = made.studies[0].recommendation
        assert found.choice is not None
        data["sweeps"].append(
            {
                "goal": name,
                "seconds": seconds,
                "scale": [found.choice.scale.num_env_runners, found.choice.scale.num_envs_per_env_runner],
                "speedups": {str(each.scale): [each.speedup, each.speedup_error] for each in made.studies[0].configurations},
                "measured": made.experiment.source,
            }
        )
        save()


def shortfall(sps: Mapping[Scale, float], scale: Scale, goal: Goal) -> float:
    """Return the sum of ln(threshold / figure) over the thresholds that a configuration misses."""
    speedup = sps[scale] / sps[SINGLE]
    found = ((goal.min_speedup, speedup), (goal.min_efficiency, 100 * speedup / scale.parallelism))
    return sum(max(0.0, math.log(least / value)) for least, value in found if least is not None)


def best(sps: Mapping[Scale, float], goal: Goal) -> Scale:
    """Return the fastest configuration that meets the goal, or else the closest to it."""
    return max(sps, key=lambda scale: (-shortfall(sps, scale, goal), sps[scale]))


def regret(sps: Mapping[Scale, float], choice: Scale, goal: Goal) -> float:
    """Return how much slower than the best a choice is, or how much further from the goal if it misses it."""
    target = best(sps, goal)
    missing, least = shortfall(sps, choice, goal), shortfall(sps, target, goal)
    # If nothing meets the goal, only the distance from it counts.
    slower = 1 - sps[choice] / sps[target] if least == 0 else 0.0
    return max(0.0, slower, 1 - math.exp(least - missing))


def sps_of(trial: Data) -> float:
    """Return the throughput of a trial; NaN if it failed."""
    counting = trial["iterations"][_WARMUP:]
    if not counting:
        return math.nan
    middle = median(seconds for _, seconds in counting)
    return float(
        sum(steps for steps, _ in counting)
        / sum(min(seconds, middle) if seconds > 2 * middle else seconds for _, seconds in counting)
    )


def summary(data: Data) -> None:
    """Print the tables of the results so far."""
    found: dict[Scale, list[float]] = defaultdict(list)
    for each in data["trials"]:
        if (sps := sps_of(each)) > 0:
            found[Scale(*each["scale"])].append(math.log(sps))
    grid = len(data["runners"]) * len(data["envs"])
    rounds = len(data["trials"]) / grid
    print(f"{data['env']}, {data['algo']}, {data['steps']} env steps; {data['machine']}; {rounds:g} rounds of trials")
    if SINGLE not in found:
        return
    truth = {scale: math.exp(fmean(logs)) for scale, logs in found.items()}
    whole = sum(each["seconds"] for each in data["trials"]) / rounds
    print(f"Every configuration once: {whole:.0f} s")
    if any(len(logs) > 1 for logs in found.values()):
        noise = math.sqrt(fmean(float(np.var(logs, ddof=1)) for logs in found.values() if len(logs) > 1))
        print(f"Trials of one configuration differ by {100 * noise:.1f} % (standard deviation)")
    print("Intervals of choices that hold another sweep for the same goal: {} of {}".format(*repeats(data["sweeps"])))
    print("By trials: " + ", ".join(f"{scale} {truth[scale] / truth[SINGLE]:.2f}×" for scale in sorted(truth)))
    for goal in (GOALS[name] for name in data["goals"]):
        target = best(truth, goal)
        swept = [each for each in data["sweeps"] if each["goal"] == goal.name]
        lost = [regret(truth, Scale(*each["scale"]), goal) for each in swept]
        hits = f"{sum(each <= HIT for each in lost)} of {len(lost)} sweeps within 5 %"
        print(f"\nGoal {goal.name}: best {target}, {truth[target] / truth[SINGLE]:.2f}×; {hits}")
        for each, loss in zip(swept, lost, strict=True):
            scale = Scale(*each["scale"])
            speedup, error = each["speedups"][str(scale)]
            by_trials = f"by trials {truth[scale] / truth[SINGLE]:.2f}×, regret {100 * loss:.1f} %"
            print(f"  {each['seconds']:.0f} s -> {scale}: {speedup:.2f}× ± {error:.0f} %, {by_trials}; {each['measured']}")


def repeats(sweeps: Sequence[Data]) -> tuple[int, int]:
    """Return how often the interval of a choice held the figure of another sweep for the same goal, and of how many pairs."""
    held = [
        abs(math.log(other["speedups"][choice][0] / each["speedups"][choice][0])) <= math.log1p(each["speedups"][choice][1] / 100)
        for each, other in itertools.permutations(sweeps, 2)
        if each["goal"] == other["goal"] and (choice := str(Scale(*each["scale"]))) != str(SINGLE) and choice in other["speedups"]
    ]
    return sum(held), len(held)


def numbers(text: str) -> list[int]:
    """Parse an option such as "1,2,4"."""
    return [int(number) for number in text.split(",")]


def main() -> None:
    """Run a stage and print the tables."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("env", choices=sorted(_ENVS))
    arguments.add_argument("--stage", choices=["trials", "sweeps", "summary"], required=True)
    arguments.add_argument("--algo", choices=["ppo", "old", "impala"], default="ppo")
    # Used only for a new file.
    arguments.add_argument("--runners", type=numbers, default=[1, 2, 4])
    arguments.add_argument("--envs", type=numbers, default=[1, 2, 4, 8])
    arguments.add_argument("--goals", nargs="+", choices=GOALS, default=list(GOALS))
    arguments.add_argument("--steps", type=int, default=1024, help="env steps per iteration, or of a batch")
    arguments.add_argument("--iterations", type=int, default=7, help="iterations of a trial, at least 3")
    options = arguments.parse_args()
    file = Path(f"live-{options.algo}-{options.env}.json")
    if file.exists():
        data: Data = json.loads(file.read_text())
    else:
        data = {name: getattr(options, name) for name in ("env", "algo", "runners", "envs", "goals", "steps", "iterations")}
        data |= {"machine": machine(), "trials": [], "sweeps": []}

    def save() -> None:
        part = file.with_suffix(".part")
        part.write_text(json.dumps(data))
        part.replace(file)

    if options.stage != "summary":
        ray.init(num_cpus=max(data["runners"]) + 3, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
        (run_round if options.stage == "trials" else run_sweeps)(config_of(data), data, save)
    summary(data)


if __name__ == "__main__":
    main()
