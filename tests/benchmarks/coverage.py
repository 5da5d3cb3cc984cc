"""Whether repeats confirm what a report says: `python -m tests.benchmarks.coverage`. About two minutes, no Ray.

On the grids under tests/data/grids and on simulated ones: how often a repeat falls into the interval, what that costs in width, how
many verdicts are wrong or undecided, and the error of laws beside the noise that no law can go below. The defaults for a grid
are those that the other grids give (leave one grid out).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import combinations, permutations, product
from statistics import fmean, median
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import stdtrit

from rl_scaling_callback.analysis import noise
from rl_scaling_callback.analysis.configurations import SINGLE, Configuration, configurations
from rl_scaling_callback.analysis.goals import judge
from rl_scaling_callback.analysis.laws import Measured, fit_laws
from rl_scaling_callback.analysis.noise import within
from rl_scaling_callback.analysis.runs import Run, Study
from rl_scaling_callback.analysis.speed_correction import Correction, at_one_pace
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import SteadyRule, SteadyWindow

from ..grids import NAMES, grid

THRESHOLDS = (("efficiency", 60.0), ("efficiency", 80.0), ("speedup", 1.5), ("speedup", 2.5))


def by_scale(runs: Iterable[Run]) -> dict[Scale, list[Run]]:
    groups: dict[Scale, list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.scale].append(run)
    return groups


def repetition(run: Run) -> int:
    return int(run.name.split()[1])


# Where the defaults come from


def excess(groups: Iterable[Sequence[Run]], deviation: float) -> tuple[float, int]:
    """Return the sum of squared deviations over their variance, and what is expected of it."""
    squares, freedom = 0.0, 0
    for runs in groups:
        weights = np.array([1 / (deviation**2 + within(run.steady)) for run in runs])
        logs = np.log([run.steady.sps for run in runs])
        squares += float(weights @ (logs - np.average(logs, weights=weights)) ** 2)
        freedom += len(runs) - 1
    return squares, freedom


def usual_deviation(names: Iterable[str]) -> float:
    """Return the deviation between runs with which those within configurations are as large as expected."""
    groups = [list(by_scale(grid(name).runs).values()) for name in names]

    def surplus(deviation: float) -> float:
        return sum(squares - freedom for squares, freedom in (excess(each, deviation) for each in groups))

    return float(brentq(surplus, 1e-3, 1))


def usual_left(names: Iterable[str]) -> float:
    """Return the share of that variance which the correction leaves, mean over grids by freedom."""
    both = [excess(by_scale(at_one_pace(grid(name)).runs).values(), usual_deviation([name])) for name in names]
    return sum(squares for squares, _ in both) / sum(freedom for _, freedom in both)


@contextmanager
def defaults_of(names: Sequence[str]) -> Iterator[None]:
    before = noise.USUAL_DEVIATION, noise.USUAL_LEFT
    noise.USUAL_DEVIATION, noise.USUAL_LEFT = usual_deviation(names), usual_left(names)  # type: ignore[misc]
    try:
        yield
    finally:
        noise.USUAL_DEVIATION, noise.USUAL_LEFT = before  # type: ignore[misc]


# Coverage


def holds(value: float, error: float, other: float) -> bool:
    return abs(math.log(other / value)) <= math.log1p(error / 100)


def compared(here: Study, there: Study, correction: Correction) -> tuple[list[tuple[bool, float]], list[tuple[bool, float]]]:
    """Return of each configuration whether its repeat is in its interval, and the ±: for SPS, and for the speedup."""
    one, two = ({each.scale: each for each in configurations(at_one_pace(study, correction))} for study in (here, there))
    both = [(one[scale], two[scale]) for scale in one if scale in two]
    sps = [(holds(a.sps, a.sps_error, b.sps), a.sps_error) for a, b in both]
    speedup = [
        (holds(a.speedup, a.speedup_error, b.speedup), a.speedup_error)
        for a, b in both
        if a.scale != SINGLE and a.speedup > 0 and b.speedup > 0
    ]
    return sps, speedup


def shown(kept: Sequence[tuple[bool, float]]) -> str:
    if not kept:
        return "   –             "
    return f"{100 * fmean(held for held, _ in kept):5.1f} % (± {median(width for _, width in kept):3.0f} %)"


def sets(name: str, size: int) -> Iterator[tuple[set[int], set[int]]]:
    """Yield pairs of as many repetitions each, none in both."""
    all_of_them = sorted({repetition(run) for run in grid(name).runs})
    for one in combinations(all_of_them, size):
        for other in combinations([each for each in all_of_them if each not in one], size):
            yield set(one), set(other)


def as_before(run: Run, baseline: Run) -> float:
    """Return the ± of a speedup by the iterations of single runs only (Welch), as it was before [%]."""
    mine, its = within(run.steady), within(baseline.steady)
    freedom = (mine + its) ** 2 / (mine**2 / (run.steady.iterations - 1) + its**2 / (baseline.steady.iterations - 1))
    return 100 * math.expm1(float(stdtrit(freedom, 0.975)) * math.sqrt(mine + its))


def before(name: str) -> tuple[list[tuple[bool, float]], list[tuple[bool, float]]]:
    """Return the same of SPS and speedups of single runs as they were before."""
    sps: list[tuple[bool, float]] = []
    speedup: list[tuple[bool, float]] = []
    for one, other in sets(name, 1):
        here, there = ({run.scale: run for run in grid(name, each).runs} for each in (one, other))
        for scale in here.keys() & there.keys():
            mine, its = here[scale].steady, there[scale].steady
            sps.append((holds(mine.sps, mine.error, its.sps), mine.error))
            if scale != SINGLE and SINGLE in here and SINGLE in there:
                ratios = [each[scale].steady.sps / each[SINGLE].steady.sps for each in (here, there)]
                error = as_before(here[scale], here[SINGLE])
                speedup.append((holds(ratios[0], error, ratios[1]), error))
    return sps, speedup


def one_run_among_repeats(name: str) -> list[tuple[bool, float]]:
    """Return whether the interval of each run holds each other run of its configuration; all others were repeated."""
    kept = []
    groups = by_scale(grid(name).runs)
    for scale, runs in groups.items():
        others = [run for other, those in groups.items() if other != scale for run in those]
        for run, other in permutations(runs, 2):
            (found,) = (each for each in configurations(Study(name, (*others, run))) if each.scale == scale)
            kept.append((holds(found.sps, found.sps_error, other.steady.sps), found.sps_error))
    return kept


def recorded(name: str) -> None:
    print(f"\n{name}: defaults {noise.USUAL_DEVIATION:.3f} and {noise.USUAL_LEFT:.2f}, from the other grids")
    sps, speedup = before(name)
    print(f"  {'before, 1 run of each':35} SPS {shown(sps)}  speedup {shown(speedup)}")
    for correction, size in product(("never", "always"), (1, 2)):
        sps, speedup = [], []
        for one, other in sets(name, size):
            first, second = compared(grid(name, one), grid(name, other), correction)
            sps += first
            speedup += second
        what = f"{size} run{'s' * (size > 1)} of each, corrected: {correction}"
        print(f"  {what:35} SPS {shown(sps)}  speedup {shown(speedup)}")
    print(f"  {'one run, all others repeated':35} SPS {shown(one_run_among_repeats(name))}")


def single(name: str, each: int) -> bool:
    return any(run.scale == SINGLE for run in grid(name, {each}).runs)


# Simulated


def simulated(rng: np.random.Generator, *, between: float, drift: float, learner: bool, repetitions: int) -> Study:
    """Return a study of a machine whose speed differs between runs, and wanders while they run; some 30 later it is another."""
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
                learn, sample = 0.3 * factor, (0.2 + 0.3 / r + 1.5 / (r * e)) * factor * math.exp(rng.normal(0, 0.03))
                parts = {"sample": sample, "learn": learn, "sync": 0.0, "other": 0.0, "busy": sample, "longest": sample}
                window.add(1000, learn + sample, parts if learner else None)
            runs.append(Run(name=f"{r}r{e}e {number}", scale=Scale(r, e), steady=window.read()))
    return Study("simulated", tuple(runs))


def simulations() -> None:
    print("\nsimulated: 12 configurations, 60 studies each, a repeat of the whole study against its intervals")
    for between, drift in ((0.03, 0.0), (0.1, 0.0), (0.04, 0.1), (0.08, 0.1)):
        for learner, repetitions in product((False, True), (1, 2, 4)):
            rng = np.random.default_rng(7)
            sps: list[tuple[bool, float]] = []
            speedup: list[tuple[bool, float]] = []
            for _ in range(60):
                # One machine: its speed goes on where it was.
                both = simulated(rng, between=between, drift=drift, learner=learner, repetitions=2 * repetitions)
                halves = [[run for run in both.runs if (repetition(run) < repetitions) == first] for first in (True, False)]
                one, other = (replace(both, runs=tuple(half)) for half in halves)
                first, second = compared(one, other, "repeated")
                sps += first
                speedup += second
            what = (
                f"runs {100 * between:.0f} %, drift {100 * drift:.0f} %, {repetitions} of each, {'' if learner else 'no '}learner"
            )
            print(f"  {what:45} SPS {shown(sps)}  speedup {shown(speedup)}")


# Verdicts and laws


def verdicts(name: str) -> None:
    truth = {each.scale: each for each in configurations(grid(name))}
    counts: dict[str, list[int]] = {"before": [0, 0, 0], "after": [0, 0, 0]}
    for each in sorted({repetition(run) for run in grid(name).runs if single(name, repetition(run))}):
        runs = {run.scale: run for run in grid(name, {each}).runs}
        for found in configurations(grid(name, {each})):
            if found.scale == SINGLE:
                continue
            for what, least in THRESHOLDS:
                figure, right = getattr(found, what), getattr(truth[found.scale], what) >= least
                earlier = as_before(runs[found.scale], runs[SINGLE])
                for when, error in (("before", earlier), ("after", found.speedup_error)):
                    verdict = judge(figure, error, least)
                    place = 2 if verdict == "undecided" else 0 if (verdict == "met") == right else 1
                    counts[when][place] += 1
    for when, (good, bad, open_) in counts.items():
        print(f"  {name:12} {when:7} right {good:4}  wrong {bad:4}  undecided {open_:4}")


def measured(found: Sequence[Configuration]) -> list[Measured]:
    return [Measured(each.scale, 1000 / each.sps, each.own_error) for each in found]


def laws(name: str) -> None:
    for correction in ("never", "repeated"):
        found = configurations(at_one_pace(grid(name), correction))
        law = fit_laws(measured(found), found[0].runs[0].cores, 1000).chosen
        # What a law with no error of its own would still be off by: E|x| of a normal x.
        floor = 100 * fmean(math.sqrt(2 / math.pi * each.variance) for each in found)
        named = "none" if law is None else f"{law.name}: leave-one-out {law.mean_error:.1f} % (at most {law.max_error:.1f} %)"
        print(f"  {name:12} corrected: {correction:9} law {named}, noise alone {floor:.1f} %")


def law_coverage(name: str) -> None:
    seen: list[bool] = []
    unseen: list[bool] = []
    for each in [each for each in sorted({repetition(run) for run in grid(name).runs}) if single(name, each)][:2]:
        found = configurations(grid(name, {each}))
        others = [run for run in grid(name).runs if repetition(run) != each]
        cores = found[0].runs[0].cores
        for left_out in (None, *found):
            law = fit_laws(measured([c for c in found if c is not left_out]), cores, 1000).chosen
            for run in others:
                if law is not None and (left_out is None or run.scale == left_out.scale):
                    prediction = law.predict(run.scale)
                    held = prediction.low <= 1000 / run.steady.sps <= prediction.high
                    (seen if left_out is None else unseen).append(held)
    print(f"  {name:12} repeats of what the law was fitted to {100 * fmean(seen):.1f} %, of others {100 * fmean(unseen):.1f} %")


def main(*_: Any) -> None:
    print(f"defaults from all grids: {usual_deviation(NAMES):.3f}, {usual_left(NAMES):.2f}; alone", end=" ")
    print(", ".join(f"{name} {usual_deviation([name]):.3f} and {usual_left([name]):.2f}" for name in NAMES))
    for name in NAMES:
        with defaults_of([other for other in NAMES if other != name]):
            recorded(name)
    simulations()
    print(
        "\nverdicts on single runs, judged by all repetitions pooled; thresholds " + ", ".join(f"{a} {b:g}" for a, b in THRESHOLDS)
    )
    for name in NAMES:
        with defaults_of([other for other in NAMES if other != name]):
            verdicts(name)
    print("\nlaws on all repetitions")
    for name in NAMES:
        laws(name)
    print("\nintervals of laws fitted to single runs")
    for name in NAMES:
        with defaults_of([other for other in NAMES if other != name]):
            law_coverage(name)


if __name__ == "__main__":
    main()
