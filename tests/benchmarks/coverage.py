"""Checks the intervals of reports against repeats: `python -m tests.benchmarks.coverage`. About two minutes, no Ray.

On the grids under tests/data/grids, prints the coverage of intervals and their width, the shares of wrong and undecided verdicts,
and the error of laws next to the noise floor. The defaults used for a grid are estimated from the other grids (leave one grid out).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations, permutations
from statistics import fmean, median
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import polygamma

from rl_scaling_callback.analysis import noise
from rl_scaling_callback.analysis.configurations import Configuration, configurations
from rl_scaling_callback.analysis.goals import judge
from rl_scaling_callback.analysis.laws import Measured, fit_laws
from rl_scaling_callback.analysis.noise import within
from rl_scaling_callback.analysis.runs import Run, Study
from rl_scaling_callback.core.formulas import interval
from rl_scaling_callback.core.scale import REFERENCE_SCALE, Scale

from ..grids import NAMES, grid

THRESHOLDS = (("efficiency", 60.0), ("efficiency", 80.0), ("speedup", 1.5), ("speedup", 2.5))


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


@contextmanager
def defaults_of(names: Sequence[str]) -> Iterator[None]:
    defaults = {"USUAL_STD": usual_deviation(names), "USUAL_LEVEL": usual_level(names)}
    before = {name: getattr(noise, name) for name in defaults}
    for name, value in defaults.items():
        setattr(noise, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(noise, name, value)


# Coverage


def holds(value: float, error: float, other: float) -> bool:
    return abs(math.log(other / value)) <= math.log1p(error / 100)


def compared(here: Study, there: Study) -> tuple[list[tuple[bool, float]], list[tuple[bool, float]]]:
    """Return, for each configuration, whether its repeat lies in its interval, and the ±; for SPS and for speedups."""
    one, two = ({each.scale: each for each in configurations(study)} for study in (here, there))
    both = [(one[scale], two[scale]) for scale in one if scale in two]
    sps = [(holds(a.sps, a.sps_error, b.sps), a.sps_error) for a, b in both]
    speedup = [
        (holds(a.speedup, a.speedup_error, b.speedup), a.speedup_error)
        for a, b in both
        if a.scale != REFERENCE_SCALE and a.speedup > 0 and b.speedup > 0
    ]
    return sps, speedup


def shown(kept: Sequence[tuple[bool, float]]) -> str:
    if not kept:
        return "   –             "
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


def recorded(name: str, source: str) -> None:
    values = f"deviation {noise.USUAL_STD:.3f}, level {noise.USUAL_LEVEL:.3f}"
    print(f"\n{name}: {values}, from {source}")
    for size in (1, 2):
        sps: list[tuple[bool, float]] = []
        speedup: list[tuple[bool, float]] = []
        for one, other in sets(name, size):
            first, second = compared(grid(name, one), grid(name, other))
            sps += first
            speedup += second
        what = f"{size} run{'s' * (size > 1)} of each"
        print(f"  {what:35} SPS {shown(sps)}  speedup {shown(speedup)}")
    print(f"  {'one run, all others repeated':35} SPS {shown(one_run_among_repeats(name))}")


def single(name: str, each: int) -> bool:
    return any(run.scale == REFERENCE_SCALE for run in grid(name, {each}).runs)


# Verdicts and laws


def verdicts(name: str) -> None:
    truth = {each.scale: each for each in configurations(grid(name))}
    alone = [each for each in sorted({repetition(run) for run in grid(name).runs}) if single(name, each)]
    for size in (1, 2):
        right = wrong = undecided = 0
        for chosen in combinations(alone, size):
            for found in configurations(grid(name, set(chosen))):
                for what, least in THRESHOLDS if found.scale != REFERENCE_SCALE else ():
                    verdict = judge(getattr(found, what), found.speedup_error, least)
                    undecided += verdict == "undecided"
                    right += verdict == ("met" if getattr(truth[found.scale], what) >= least else "not met")
                    wrong += verdict == ("not met" if getattr(truth[found.scale], what) >= least else "met")
        share = undecided / (right + wrong + undecided)
        what = f"{size} run{'s' * (size > 1)} of each"
        print(f"  {name:12} {what:22} right {right:4}  wrong {wrong:3}  undecided {undecided:4} ({100 * share:.0f} %)")


def measured(found: Sequence[Configuration]) -> list[Measured]:
    return [Measured(each.scale, each.sps, each.own_error) for each in found]


def laws(name: str) -> None:
    found = configurations(grid(name))
    law = fit_laws(measured(found), found[0].runs[0].cores).chosen
    # The error of a perfect law due to noise: E|x| of a normal x.
    floor = 100 * fmean(math.sqrt(2 / math.pi * each.variance) for each in found)
    named = "none" if law is None else f"{law.law.name}: leave-one-out {law.mean_error:.1f} % (at most {max(law.errors):.1f} %)"
    print(f"  {name:12} law {named}, noise alone {floor:.1f} %")


def law_coverage(name: str) -> None:
    seen: list[bool] = []
    unseen: list[bool] = []
    rounds = {each: {run.scale: run.steady.sps for run in grid(name, {each}).runs} for each in range(5)}
    rounds = {each: sps for each, sps in rounds.items() if REFERENCE_SCALE in sps}
    for each in [*rounds][:2]:
        found = configurations(grid(name, {each}))
        for left_out in (None, *(c for c in found if c.scale != REFERENCE_SCALE)):
            single = next(c for c in found if c.scale == REFERENCE_SCALE)
            baseline = Measured(REFERENCE_SCALE, single.sps, single.own_error)
            law = fit_laws(measured([c for c in found if c is not left_out]), found[0].runs[0].cores, baseline).chosen
            if law is None:
                continue
            for sps in (sps for other, sps in rounds.items() if other != each):
                for scale in sps.keys() - {REFERENCE_SCALE} if left_out is None else sps.keys() & {left_out.scale}:
                    predicted = law.predict(scale)
                    low, high = interval(predicted.speedup, predicted.speedup_error)
                    (seen if left_out is None else unseen).append(low <= sps[scale] / sps[REFERENCE_SCALE] <= high)
    print(f"  {name:12} repeats of what the law was fitted to {100 * fmean(seen):.1f} %, of others {100 * fmean(unseen):.1f} %")


def main(*_: Any) -> None:
    for names in (NAMES, *([name] for name in NAMES)):
        found = usual_deviation(names), usual_level(names)
        print(f"{', '.join(names):32} deviation {found[0]:.3f}, level {found[1]:.3f}")
    print(f"degrees of freedom {usual_freedom(NAMES):.1f}")
    for name in NAMES:
        with defaults_of([other for other in NAMES if other != name]):
            recorded(name, "the other grids")
        recorded(name, "all grids")
    print(
        "\nverdicts on single runs, judged by all repetitions pooled; thresholds " + ", ".join(f"{a} {b:g}" for a, b in THRESHOLDS)
    )
    for name in NAMES:
        with defaults_of([other for other in NAMES if other != name]):
            verdicts(name)
    print("\nlaws on all repetitions")
    for name in NAMES:
        laws(name)
    print("\nintervals of speedups by laws fitted to single runs")
    for name in NAMES:
        with defaults_of([other for other in NAMES if other != name]):
            law_coverage(name)


if __name__ == "__main__":
    main()
