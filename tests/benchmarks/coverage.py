"""Checks the intervals of reports against repeats: `python -m tests.benchmarks.coverage`. About two minutes, no Ray.

On the grids under tests/data/grids and on simulated ones, prints the coverage of intervals and their width, the shares of wrong and
undecided verdicts, and the error of laws next to the noise floor. The defaults used for a grid are estimated from the other grids
(leave one grid out).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import combinations, permutations
from statistics import fmean, median
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import polygamma, stdtrit

from rl_scaling_callback.analysis import noise
from rl_scaling_callback.analysis.configurations import Configuration, configurations
from rl_scaling_callback.analysis.goals import judge
from rl_scaling_callback.analysis.laws import Measured, fit_laws
from rl_scaling_callback.analysis.noise import within
from rl_scaling_callback.analysis.runs import Run, Study
from rl_scaling_callback.core.formulas import interval
from rl_scaling_callback.core.scale import REFERENCE_SCALE, Scale
from rl_scaling_callback.core.steady import SteadyRule, SteadyWindow
from rl_scaling_callback.report.decisions import repeats_needed

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


def welch(run: Run, baseline: Run) -> float:
    """Return the ± of a speedup from the iterations of single runs alone (Welch) [%]."""
    mine, its = within(run.steady), within(baseline.steady)
    dof = (mine + its) ** 2 / (mine**2 / (run.steady.iterations - 1) + its**2 / (baseline.steady.iterations - 1))
    return 100 * math.expm1(float(stdtrit(dof, 0.975)) * math.sqrt(mine + its))


def from_iterations(name: str) -> tuple[list[tuple[bool, float]], list[tuple[bool, float]]]:
    """Return the same for intervals from the iterations of single runs alone."""
    sps: list[tuple[bool, float]] = []
    speedup: list[tuple[bool, float]] = []
    for one, other in sets(name, 1):
        here, there = ({run.scale: run for run in grid(name, each).runs} for each in (one, other))
        for scale in here.keys() & there.keys():
            mine, its = here[scale].steady, there[scale].steady
            sps.append((holds(mine.sps, mine.error, its.sps), mine.error))
            if scale != REFERENCE_SCALE and REFERENCE_SCALE in here and REFERENCE_SCALE in there:
                ratios = [each[scale].steady.sps / each[REFERENCE_SCALE].steady.sps for each in (here, there)]
                error = welch(here[scale], here[REFERENCE_SCALE])
                speedup.append((holds(ratios[0], error, ratios[1]), error))
    return sps, speedup


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
    sps, speedup = from_iterations(name)
    print(f"  {'iterations alone, 1 run of each':35} SPS {shown(sps)}  speedup {shown(speedup)}")
    for size in (1, 2):
        sps, speedup = [], []
        for one, other in sets(name, size):
            first, second = compared(grid(name, one), grid(name, other))
            sps += first
            speedup += second
        what = f"{size} run{'s' * (size > 1)} of each"
        print(f"  {what:35} SPS {shown(sps)}  speedup {shown(speedup)}")
    print(f"  {'one run, all others repeated':35} SPS {shown(one_run_among_repeats(name))}")


def single(name: str, each: int) -> bool:
    return any(run.scale == REFERENCE_SCALE for run in grid(name, {each}).runs)


# Simulated


def simulated(rng: np.random.Generator, *, between: float, drift: float, repetitions: int) -> Study:
    """Return a study on a machine whose speed differs between runs and drifts, with a time constant of about 30 runs."""
    speed, runs = rng.normal(0, drift), []
    keep = math.exp(-1 / 200)
    for number in range(repetitions):
        for scale in rng.permutation([(r, e) for r in (1, 2, 4) for e in (1, 2, 4, 8)]):
            r, e = map(int, scale)
            window = SteadyWindow(SteadyRule(warmup_iterations=0))
            own = rng.normal(0, between)
            for _ in range(6):
                speed = keep * speed + rng.normal(0, drift * math.sqrt(1 - keep**2))
                factor = math.exp(speed + own)
                sample = (0.2 + 0.3 / r + 1.5 / (r * e)) * math.exp(rng.normal(0, 0.03))
                window.add(1000, (0.3 + sample) * factor)
            runs.append(Run(name=f"{r}r{e}e {number}", scale=Scale(r, e), steady=window.read()))
    return Study("simulated", tuple(runs))


def simulations() -> None:
    print("\nsimulated: 12 configurations, 60 studies each, a repeat of the whole study against its intervals")
    for between, drift in ((0.03, 0.0), (0.1, 0.0), (0.04, 0.1), (0.08, 0.1)):
        for repetitions in (1, 2, 4):
            rng = np.random.default_rng(7)
            sps: list[tuple[bool, float]] = []
            speedup: list[tuple[bool, float]] = []
            for _ in range(60):
                # Both halves run on the same machine, whose speed continues to drift.
                both = simulated(rng, between=between, drift=drift, repetitions=2 * repetitions)
                halves = [[run for run in both.runs if (repetition(run) < repetitions) == first] for first in (True, False)]
                one, other = (replace(both, runs=tuple(half)) for half in halves)
                first, second = compared(one, other)
                sps += first
                speedup += second
            what = f"runs {100 * between:.0f} %, drift {100 * drift:.0f} %, {repetitions} of each"
            print(f"  {what:45} SPS {shown(sps)}  speedup {shown(speedup)}")


def advice(between: float) -> None:
    """Follow the advice on undecided verdicts, and count how many it settles, and how many of them rightly."""
    rng = np.random.default_rng(11)
    settled, right, too_close, trials = 0, 0, 0, 0
    least = 2.5
    for _ in range(400):
        truth = least * math.exp(rng.normal(0, 0.3))

        def run(scale: Scale, seconds: float, number: int) -> Run:
            window, own = SteadyWindow(SteadyRule(warmup_iterations=0)), rng.normal(0, between)
            for _ in range(6):
                window.add(1000, seconds * math.exp(own + rng.normal(0, 0.03)))
            return Run(name=f"{scale} {number}", scale=scale, steady=window.read())

        ends = ((REFERENCE_SCALE, 1.0), (Scale(4, 1), 1 / truth))
        runs = [run(scale, seconds, 0) for scale, seconds in ends]
        baseline, found = configurations(Study("advice", tuple(runs)))
        if judge(found.speedup, found.speedup_error, least) != "undecided":
            continue
        more = repeats_needed(found, baseline, found.speedup / least)
        if math.isinf(more):
            too_close += 1
            continue
        trials += 1
        runs += [run(scale, seconds, number) for scale, seconds in ends for number in range(1, round(more) + 1)]
        _, again = configurations(Study("advice", tuple(runs)))
        verdict = judge(again.speedup, again.speedup_error, least)
        settled += verdict != "undecided"
        right += verdict == ("met" if truth >= least else "not met")
    print(
        f"  runs {100 * between:.0f} %: of {trials} undecided verdicts that repeats were said to settle, {settled} were settled, "
        f"{settled - right} of them wrongly; {too_close} were called too close"
    )


# Verdicts and laws


def verdicts(name: str) -> None:
    truth = {each.scale: each for each in configurations(grid(name))}
    counts: dict[str, list[int]] = {"iterations alone": [0, 0, 0], "with repeats": [0, 0, 0]}
    for each in sorted({repetition(run) for run in grid(name).runs if single(name, repetition(run))}):
        runs = {run.scale: run for run in grid(name, {each}).runs}
        for found in configurations(grid(name, {each})):
            if found.scale == REFERENCE_SCALE:
                continue
            for what, least in THRESHOLDS:
                figure, right = getattr(found, what), getattr(truth[found.scale], what) >= least
                earlier = welch(runs[found.scale], runs[REFERENCE_SCALE])
                for when, error in (("iterations alone", earlier), ("with repeats", found.speedup_error)):
                    verdict = judge(figure, error, least)
                    column = 2 if verdict == "undecided" else 0 if (verdict == "met") == right else 1
                    counts[when][column] += 1
    counts["2 runs of each"] = twice = [0, 0, 0]
    pairs = list(combinations([each for each in range(5) if single(name, each)], 2))
    for pair in pairs:
        for found in configurations(grid(name, set(pair))):
            for what, least in THRESHOLDS if found.scale != REFERENCE_SCALE else ():
                verdict = judge(getattr(found, what), found.speedup_error, least)
                right = getattr(truth[found.scale], what) >= least
                twice[2 if verdict == "undecided" else 0 if (verdict == "met") == right else 1] += 1
    for when, (right, wrong, undecided) in counts.items():
        share = undecided / (right + wrong + undecided)
        print(f"  {name:12} {when:22} right {right:4}  wrong {wrong:3}  undecided {undecided:4} ({100 * share:.0f} %)")


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
    simulations()
    print(
        "\nverdicts on single runs, judged by all repetitions pooled; thresholds " + ", ".join(f"{a} {b:g}" for a, b in THRESHOLDS)
    )
    for name in NAMES:
        with defaults_of([other for other in NAMES if other != name]):
            verdicts(name)
    print("\nadvice on undecided verdicts, followed")
    for between in (0.02, 0.06, 0.1):
        advice(between)
    print("\nlaws on all repetitions")
    for name in NAMES:
        laws(name)
    print("\nintervals of speedups by laws fitted to single runs")
    for name in NAMES:
        with defaults_of([other for other in NAMES if other != name]):
            law_coverage(name)


if __name__ == "__main__":
    main()
