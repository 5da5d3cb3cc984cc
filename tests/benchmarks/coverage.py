"""Checks the intervals of reports against repeats: `python -m tests.benchmarks.coverage`. Takes ten seconds, no Ray.

Each repetition of the grids under tests/data/grids is a round of trials of PPO, one of every configuration in random order. It
prints the noise to assume of unrepeated runs, the coverage of intervals and their width, and the errors of the law next to those
that noise alone causes.
"""

import csv
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, permutations
from pathlib import Path
from statistics import fmean, median

import numpy as np
from scipy.optimize import brentq
from scipy.special import polygamma

from rl_scaling_callback.analysis.configurations import configurations
from rl_scaling_callback.analysis.laws import fit_law
from rl_scaling_callback.analysis.runs import Run, Study, within
from rl_scaling_callback.core.attribution import TimeBreakdown
from rl_scaling_callback.core.scale import REFERENCE_SCALE, Scale
from rl_scaling_callback.core.steady import DEFAULT_RULE, SteadyWindow

FOLDER = Path(__file__).parents[1] / "data" / "grids"
NAMES = sorted(path.stem for path in FOLDER.glob("*.csv"))


def grid(name: str, repetitions: set[int] | None = None) -> Study:
    """Return the runs of a recorded grid, all of them or those of some repetitions."""
    windows: dict[tuple[int, Scale], SteadyWindow] = defaultdict(lambda: SteadyWindow(DEFAULT_RULE))
    with (FOLDER / f"{name}.csv").open() as file:
        measured = file.readline()  # what, where and when
        for row in csv.DictReader(file):
            key = int(row["repetition"]), Scale(int(row["num_env_runners"]), int(row["num_envs_per_env_runner"]))
            if repetitions is not None and key[0] not in repetitions:
                continue
            seconds = float(row["time_this_iter_s"])
            phases = {phase: float(row[f"{phase}_s"]) for phase in ("sample", "learn", "sync")}
            spent = TimeBreakdown.of(phases, seconds, float(row["busy_s"]), float(row["longest_s"]))
            windows[key].add(float(row["env_steps"]), seconds, spent.parts)
    cores = float(measured.split(" cores")[0].rpartition(" ")[2])
    runs = [
        Run(name=f"{scale} {repetition}", scale=scale, steady=window.read(), cores=cores)
        for (repetition, scale), window in windows.items()
    ]
    return Study(name, tuple(runs))


def by_scale(runs: Iterable[Run]) -> dict[Scale, list[Run]]:
    groups: dict[Scale, list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.scale].append(run)
    return groups


def repetition(run: Run) -> int:
    return int(run.name.split()[1])


# The defaults


def excess(runs: Sequence[Run], deviation: float, *, rounds: bool) -> tuple[float, int, float]:
    """Return the sum of squared deviations over their variance, its expected value, and the variance between rounds.

    Args:
        runs: runs of repeated configurations.
        deviation: standard deviation between runs, in excess of the noise within runs.
        rounds: whether to remove the mean of each round through the grid.
    """
    scales, numbers = sorted({run.scale for run in runs}), sorted({repetition(run) for run in runs})
    weights = np.array([1 / math.sqrt(deviation**2 + within(run.steady)) for run in runs])
    logs = np.log([run.steady.sps for run in runs])
    columns = [[run.scale == scale for run in runs] for scale in scales]
    columns += [[repetition(run) == number for run in runs] for number in numbers[1:] if rounds]
    design = np.array(columns, dtype=float).T
    found = np.linalg.lstsq(design * weights[:, None], logs * weights, rcond=None)[0]
    left = (logs - design @ found) * weights
    means = np.append(found[len(scales) :], 0.0)
    chance = 1 / float(np.mean(weights**2)) / len(scales)
    return float(left @ left), len(runs) - design.shape[1], float(means.var(ddof=1)) - chance if rounds else 0.0


def repeated(study: Study) -> list[Run]:
    return [run for runs in by_scale(study.runs).values() if len(runs) > 1 for run in runs]


def usual_deviation(names: Iterable[str], *, rounds: bool = True) -> float:
    """Return the standard deviation between runs that explains the differences within configurations."""
    grids = [repeated(grid(name)) for name in names]

    def surplus(deviation: float) -> float:
        found = [excess(runs, deviation, rounds=rounds) for runs in grids]
        return sum(squares - dof for squares, dof, _ in found)

    return float(brentq(surplus, 1e-3, 1))


def usual_level(names: Sequence[str]) -> float:
    """Return the standard deviation of the means of rounds through a grid."""
    deviation = usual_deviation(names)
    return math.sqrt(max(0.0, fmean(excess(repeated(grid(name)), deviation, rounds=True)[2] for name in names)))


def usual_freedom(names: Sequence[str]) -> float:
    """Return the degrees of freedom of the prior, from how much the variances of whole runs differ between grids."""
    logs = [2 * math.log(usual_deviation([name], rounds=False)) for name in names]
    chance = fmean(float(polygamma(1, excess(repeated(grid(name)), 1.0, rounds=False)[1] / 2)) for name in names)
    more = float(np.var(logs, ddof=1)) - chance
    return 2 * float(brentq(lambda half: float(polygamma(1, half)) - more, 0.1, 1e3)) if more > polygamma(1, 1e3) else math.inf


# Coverage


def holds(value: float, error: float, other: float) -> bool:
    return abs(math.log(other / value)) <= math.log1p(error / 100)


def compared(here: Study, there: Study) -> tuple[list[tuple[bool, float]], list[tuple[bool, float]]]:
    """Return, for each configuration, whether its repeat lies in its interval, and the ±; for SPS and for speedups."""
    one, two = ({each.scale: each for each in configurations(study)} for study in (here, there))
    both = [(one[scale], two[scale]) for scale in one if scale in two]
    compared = [(a, b) for a, b in both if a.scale != REFERENCE_SCALE and a.speedup > 0 and b.speedup > 0]
    speedup = [(holds(a.speedup, a.speedup_error, b.speedup), a.speedup_error) for a, b in compared]
    return [(holds(a.sps, a.sps_error, b.sps), a.sps_error) for a, b in both], speedup


def shown(kept: Sequence[tuple[bool, float]]) -> str:
    return f"{100 * fmean(held for held, _ in kept):5.1f} % (± {median(width for _, width in kept):3.0f} %)"


def sets(name: str, size: int) -> Iterator[tuple[set[int], set[int]]]:
    """Yield disjoint pairs of sets of `size` repetitions."""
    all_of_them = sorted({repetition(run) for run in grid(name).runs})
    for one in combinations(all_of_them, size):
        for other in combinations([each for each in all_of_them if each not in one], size):
            yield set(one), set(other)


def one_run_among_repeats(name: str) -> list[tuple[bool, float]]:
    """Return whether the interval of each run contains the other runs of its configuration; all others are repeated."""
    kept = []
    groups = by_scale(grid(name).runs)
    for scale, runs in groups.items():
        others = [run for other, those in groups.items() if other != scale for run in those]
        for run, other in permutations(runs, 2):
            (found,) = (each for each in configurations(Study(name, (*others, run))) if each.scale == scale)
            kept.append((holds(found.sps, found.sps_error, other.steady.sps), found.sps_error))
    return kept


def recorded(name: str) -> None:
    print(f"\n{name}")
    for size in (1, 2):
        sps: list[tuple[bool, float]] = []
        speedup: list[tuple[bool, float]] = []
        for one, other in sets(name, size):
            first, second = compared(grid(name, one), grid(name, other))
            sps += first
            speedup += second
        if sps:
            print(f"  {size} of each: SPS {shown(sps)}, speedup {shown(speedup)}")
    print(f"  one run, all others repeated: SPS {shown(one_run_among_repeats(name))}")


def left_out(name: str) -> list[bool]:
    """Return, for each configuration of a grid, whether it lies in the interval of the law fitted without it."""
    every = configurations(grid(name))
    laws = [(each, fit_law([other for other in every if other is not each])) for each in every]
    predicted = [(each, fit.predict(each.scale)) for each, fit in laws if fit]
    return [holds(each.sps, found.sps_error, found.sps) for each, found in predicted]


def law(name: str) -> None:
    found = fit_law(configurations(grid(name)))
    error = f"{found.mean_error:.1f} %" if found else "none"
    # The error of a perfect law due to noise: E|x| of a normal x.
    floor = 100 * fmean(math.sqrt(2 / math.pi * each.variance) for each in configurations(grid(name)))
    held = left_out(name)
    print(f"  {name:12} {error}; noise alone {floor:.1f} %; {sum(held)} of {len(held)} held")


def main() -> None:
    for names in (NAMES, *([name] for name in NAMES)):
        found = usual_deviation(names), usual_level(names)
        print(f"{', '.join(names):32} deviation {found[0]:.3f}, level {found[1]:.3f}")
    print(f"degrees of freedom {usual_freedom(NAMES):.1f}")
    for name in NAMES:
        recorded(name)
    print("\nmean leave-one-out error of the law, and how many configurations the law fitted without them predicts")
    for name in NAMES:
        law(name)


if __name__ == "__main__":
    main()
