"""Measures how well and how cheaply a search finds the best configuration: `python tests/benchmarks/search.py`. Takes minutes.

Replays searches on exhaustive grids recorded by `record_grid.py` and on synthetic surfaces, and prints a table for each goal. On a
recorded grid, a search sees a random half of each configuration's runs and is judged by the other half.
speed. That half is noisy as well.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace

import numpy as np

from rl_scaling_callback.analysis.goals import GOALS, Goal
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import Steady, SteadyRule, SteadyWindow
from rl_scaling_callback.report.decisions import goal_text
from rl_scaling_callback.sweeping.search import Search, TrialOutcome

SINGLE = Scale(1, 1)
FULL = (2, 7)
"""Warm-up iterations, and iterations of a whole trial: the minimum of the default rule."""
SHORT = (2, 5)
"""The same for the search's own trials."""
HIT = 0.05
PACE, BETWEEN_RUNS, BETWEEN_ITERATIONS = 0.1, 0.04, 0.05


@dataclass(frozen=True)
class Iteration:
    """An iteration of a run."""

    env_steps: float
    seconds: float
    learn: float
    sync: float
    other: float


@dataclass(frozen=True)
class Run:
    """A run of a configuration."""

    start_up: float
    iterations: tuple[Iteration, ...]

    def sps(self, window: tuple[int, int] = FULL) -> float:
        """Return SPS over the iterations of a window."""
        kept = self.iterations[slice(*window)]
        return sum(each.env_steps for each in kept) / sum(each.seconds for each in kept)

    def steady(self, window: tuple[int, int] = FULL) -> Steady:
        """Return the steady state over the iterations of a window."""
        steady = SteadyWindow(SteadyRule(warmup_iterations=0))
        for each in self.iterations[slice(*window)]:
            sample = each.seconds - each.learn - each.sync - each.other
            parts = {"sample": sample, "learn": each.learn, "sync": each.sync, "other": each.other}
            steady.add(each.env_steps, each.seconds, parts)
        return steady.read()

    def seconds(self, window: tuple[int, int] = FULL) -> float:
        """Return its duration up to the end of a window, including start-up [s]."""
        return self.start_up + sum(each.seconds for each in self.iterations[: window[1]])


@dataclass(frozen=True)
class Grid:
    """An exhaustive grid: the runs of each configuration that a search sees, in order, and the SPS that it is judged by."""

    seen: Mapping[Scale, Sequence[Run]]
    truth: Mapping[Scale, float]
    cores: float

    @property
    def exhaustive_seconds(self) -> float:
        """Time to measure each configuration once [s]."""
        return sum(runs[0].seconds() for runs in self.seen.values())


class Bench:
    """Runs trials on a grid and adds up their durations."""

    def __init__(self, grid: Grid, goal: Goal) -> None:
        self.grid, self.goal = grid, goal
        self.trials: list[TrialOutcome] = []
        self._taken: dict[Scale, int] = defaultdict(int)

    def measure(self, scale: Scale, window: tuple[int, int] = FULL) -> TrialOutcome:
        """Run a trial."""
        run = self._next(scale)
        self._taken[scale] += 1
        trial = TrialOutcome(scale, run.seconds(window), run.steady(window))
        self.trials.append(trial)
        return trial

    def score(self, scale: Scale, window: tuple[int, int] = FULL) -> float:
        """Return the score of the next trial for single-objective searchers: ln SPS minus a penalty for missing the goal."""
        sps = {SINGLE: self.trials[0].steady.sps, scale: self._next(scale).sps(window)}
        return math.log(sps[scale]) - 100 * shortfall(sps, scale, self.goal)

    def _next(self, scale: Scale) -> Run:
        # If a policy asks for more runs than there are, it gets the last one again, at its cost.
        runs = self.grid.seen[scale]
        return runs[min(self._taken[scale], len(runs) - 1)]

    @property
    def share(self) -> float:
        """Time spent, as a share of the time of the exhaustive grid."""
        return sum(trial.seconds for trial in self.trials) / self.grid.exhaustive_seconds

    def best_measured(self) -> Scale:
        """Return the best configuration by measured SPS alone."""
        return best({trial.scale: trial.steady.sps for trial in self.trials}, self.goal)


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


Policy = Callable[[Bench, np.random.Generator], Scale]


def search(budget: float, window: tuple[int, int] = SHORT) -> Policy:
    """Return the package's search."""

    def run(bench: Bench, rng: np.random.Generator) -> Scale:
        seen = bench.grid.seen
        found = Search(
            tuple(sorted({scale.num_env_runners for scale in seen})),
            tuple(sorted({scale.num_envs_per_env_runner for scale in seen})),
            bench.goal,
            cores=bench.grid.cores,
            budget=budget,
            repetitions=min(map(len, seen.values())),
        )
        while (scale := found.propose(bench.trials)) is not None:
            bench.measure(scale, window)
        choice = found.choose(bench.trials)
        assert choice is not None
        return choice

    return run


def exhaustive(bench: Bench, rng: np.random.Generator) -> Scale:
    """Measure every configuration once."""
    for scale in bench.grid.seen:
        bench.measure(scale)
    return bench.best_measured()


def random(share: float) -> Policy:
    """Return a random search: it measures the reference and random others until a share of the exhaustive cost is spent."""

    def run(bench: Bench, rng: np.random.Generator) -> Scale:
        bench.measure(SINGLE)
        others = [scale for scale in bench.grid.seen if scale != SINGLE]
        for index in rng.permutation(len(others)):
            if bench.share >= share:
                break
            bench.measure(others[index])
        return bench.best_measured()

    return run


def doubling(bench: Bench, rng: np.random.Generator) -> Scale:
    """Increase one count as long as that is better for the goal, then the other, as people do by hand."""
    runners = sorted({scale.num_env_runners for scale in bench.grid.seen})
    envs = sorted({scale.num_envs_per_env_runner for scale in bench.grid.seen})
    bench.measure(SINGLE)
    here, stuck, axis = (0, 0), 0, 0
    while stuck < 2:
        step = (here[0] + (axis == 0), here[1] + (axis == 1))
        if step[0] < len(runners) and step[1] < len(envs):
            ahead = Scale(runners[step[0]], envs[step[1]])
            bench.measure(ahead)
            if bench.best_measured() == ahead:
                here, stuck = step, 0
                continue
        axis, stuck = 1 - axis, stuck + 1
    return bench.best_measured()


def asha(bench: Bench, rng: np.random.Generator) -> Scale:
    """Start every configuration, and let Tune's ASHA stop those that are worse than others at the same iteration."""
    from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

    bench.measure(SINGLE)
    # ASHA judges a trial every iteration or two after warm-up, up to the last.
    scheduler = AsyncHyperBandScheduler(
        time_attr="training_iteration", metric="score", mode="max", grace_period=FULL[0] + 1, max_t=FULL[1], reduction_factor=2
    )
    others = [scale for scale in bench.grid.seen if scale != SINGLE]
    for index in rng.permutation(len(others)):
        trial = SimpleNamespace(trial_id=str(others[index]), config={})
        scheduler.on_trial_add(None, trial)
        for last in range(FULL[0] + 1, FULL[1] + 1):
            score = bench.score(others[index], (FULL[0], last))
            result = {"training_iteration": last, "score": score}
            if scheduler.on_trial_result(None, trial, result) != TrialScheduler.CONTINUE:
                break
        scheduler.on_trial_complete(None, trial, result)
        bench.measure(others[index], (FULL[0], last))
    return bench.best_measured()


def optuna(share: float) -> Policy:
    """Return a search by Tune's `OptunaSearch` (TPE by default) until a share of the exhaustive cost is spent."""

    def run(bench: Bench, rng: np.random.Generator) -> Scale:
        from ray import tune
        from ray.tune.search.optuna import OptunaSearch

        bench.measure(SINGLE)
        space = {
            "runners": tune.choice(sorted({scale.num_env_runners for scale in bench.grid.seen})),
            "envs": tune.choice(sorted({scale.num_envs_per_env_runner for scale in bench.grid.seen})),
        }
        searcher = OptunaSearch(space, metric="score", mode="max", seed=int(rng.integers(2**31)))
        while bench.share < share:
            name = str(len(bench.trials))
            proposed = searcher.suggest(name)
            scale = Scale(proposed["runners"], proposed["envs"])
            score = bench.score(scale)
            bench.measure(scale)
            searcher.on_trial_complete(name, {"score": score})
        return bench.best_measured()

    return run


def recorded(path: Path) -> tuple[dict[Scale, list[Run]], float]:
    """Return the runs of a recorded grid and the number of cores."""
    comment, *lines = path.read_text().splitlines()
    rows: dict[tuple[str, Scale], list[dict[str, str]]] = defaultdict(list)
    for row in csv.DictReader(lines):
        rows[row["repetition"], Scale(int(row["num_env_runners"]), int(row["num_envs_per_env_runner"]))].append(row)
    runs: dict[Scale, list[Run]] = defaultdict(list)
    for (_, scale), iterations in sorted(rows.items()):
        runs[scale].append(Run(float(iterations[0]["start_up_s"]), tuple(map(_iteration, iterations))))
    cores = next(float(word.split()[0]) for word in comment.split(", ") if word.endswith(" cores"))
    return runs, cores


def _iteration(row: Mapping[str, str]) -> Iteration:
    seconds, sample, learn, sync = (float(row[name]) for name in ("time_this_iter_s", "sample_s", "learn_s", "sync_s"))
    return Iteration(float(row["env_steps"]), seconds, learn, sync, seconds - sample - learn - sync)


def halves(path: Path, replays: int) -> Iterator[Grid]:
    """Yield a recorded grid with its runs split at random into a half to search and a half to judge by."""
    runs, cores = recorded(path)
    true = at_true_pace(runs)
    rng = np.random.default_rng(0)
    half = min(map(len, runs.values())) // 2
    for _ in range(replays):
        drawn = {scale: rng.permutation(len(each)) for scale, each in runs.items()}
        yield Grid(
            {scale: [runs[scale][index] for index in order[:half]] for scale, order in drawn.items()},
            {scale: math.exp(fmean(math.log(true[scale][index]) for index in order[half:])) for scale, order in drawn.items()},
            cores,
        )


def at_true_pace(runs: Mapping[Scale, Sequence[Run]]) -> dict[Scale, list[float]]:
    """Return the SPS of each run."""
    return {scale: [run.steady().sps for run in each] for scale, each in runs.items()}


def synthetic(replays: int, seed: int = 0, noise: float = 1.0) -> Iterator[Grid]:
    """Yield grids of 4 × 4 and 5 × 5 on five kinds of surface (see `race.py`), with the usual noise times `noise`."""
    rng = np.random.default_rng(seed)
    for replay in range(replays):
        counts = (1, 2, 4, 8, 16)[: 4 + replay % 2]
        fixed, share, cap = rng.uniform(0.02, 0.5), rng.uniform(0.2, 0.95), math.exp(rng.uniform(math.log(1.5), math.log(16)))
        c = (1 - fixed) * share
        b = 1 - fixed - c
        spread, slowing = rng.uniform(0.05, 0.4), rng.uniform(0, 0.02, size=2)
        law = replay // 2 % 5
        cores = float(round(cap)) if law in (2, 4) and rng.random() < 0.5 else NAN
        steps, unit = 16384.0, math.exp(rng.uniform(math.log(2), math.log(20)))
        seen, truth = {}, {}
        for scale in (Scale(r, e) for r in counts for e in counts):
            r, e = scale.num_env_runners, scale.num_envs_per_env_runner
            vector_step = b + c / e
            sample = (
                vector_step / r,
                vector_step / r * (1 + spread * math.sqrt(2 * math.log(r))),
                vector_step * max(1 / r, 1 / cap),
                vector_step / r + (slowing[0] + slowing[1] / e) * (r - 1),
                vector_step * (r**-4 + cap**-4) ** 0.25 + slowing[0] * (r - 1),
            )[law]
            truth[scale] = steps / (unit * (fixed + sample))
            seen[scale] = [_drawn(rng, steps, unit * fixed, unit * sample, noise) for _ in range(3)]
        yield Grid(seen, truth, cores)


def _drawn(rng: np.random.Generator, steps: float, learn: float, sample: float, noise: float) -> Run:
    pace, own = np.exp(rng.normal(0, (noise * PACE, noise * BETWEEN_RUNS)))
    factors = pace * np.exp(rng.normal(0, noise * BETWEEN_ITERATIONS, FULL[1]))
    return Run(10.0, tuple(Iteration(steps, each * (learn + own * sample), each * learn, 0.0, 0.0) for each in factors.tolist()))


def table(goal: Goal, kinds: Mapping[str, Sequence[Grid]], policies: Mapping[str, Policy]) -> None:
    """Print the results of each policy for a goal on each kind of grid."""
    print(f"\nGoal {goal.name}: {goal_text(goal)}")
    header = ("grids", "policy", "within 5 %", "regret 50 %", "90 %", "100 %", "cost share", "trials")
    print("{:<28}{:<24}{:>12}{:>13}{:>8}{:>8}{:>12}{:>8}".format(*header))
    for kind, grids in kinds.items():
        for name, policy in policies.items():
            rng = np.random.default_rng(0)
            regrets, shares, trials = [], [], []
            for grid in grids:
                bench = Bench(grid, goal)
                regrets.append(regret(grid.truth, policy(bench, rng), goal))
                shares.append(bench.share)
                trials.append(len(bench.trials))
            hits = 100 * fmean(each <= HIT for each in regrets)
            middle, most, worst = (100 * each for each in np.quantile(regrets, (0.5, 0.9, 1)))
            print(
                f"{kind:<28}{name:<24}{hits:>12.0f}{middle:>13.1f}{most:>8.1f}{worst:>8.1f}"
                f"{100 * fmean(shares):>12.0f}{fmean(trials):>8.1f}"
            )


def main() -> None:
    """Print the tables."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("grids", type=Path, nargs="*", help="CSV files of record_grid.py")
    arguments.add_argument("--replays", type=int, default=100, help="number of grids of each kind")
    options = arguments.parse_args()
    policies: dict[str, Policy] = {
        "search": search(1.0),
        "search, half the budget": search(0.5),
        "exhaustive": exhaustive,
        "random": random(0.2),
        "doubling by hand": doubling,
        "Tune's ASHA": asha,
    }
    if find_spec("optuna"):
        policies["Tune's Optuna"] = optuna(0.3)
    else:
        print("Tune's OptunaSearch: not installed (pip install optuna)")
    kinds = {"synthetic": list(synthetic(options.replays)), "synthetic, quiet": list(synthetic(options.replays, noise=0.25))}
    for path in options.grids:
        kinds[path.stem] = list(halves(path, options.replays))
    for goal in GOALS.values():
        table(goal, kinds, policies)


if __name__ == "__main__":
    main()
