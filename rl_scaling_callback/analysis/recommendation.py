"""Recommends a configuration for a goal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple

from rl_scaling_callback.analysis.configurations import Configuration
from rl_scaling_callback.analysis.goals import Goal, Standing, Verdict, combined, judge, may_meet, standings
from rl_scaling_callback.analysis.laws import Laws, Prediction
from rl_scaling_callback.analysis.suggestions import worth_measuring
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import DEFAULT_RULE

ENOUGH_ITERATIONS: Final = DEFAULT_RULE.warmup_iterations + DEFAULT_RULE.iteration_limit
"""Iterations after which more would hardly improve a trial's throughput estimate."""

_MOST_REPEATS: Final = 9
"""Ten runs narrow the interval to a third of that of one run; more repeats are rarely worth their time."""
_WORTH_CPUS: Final = 1.1
"""Of configurations tied within noise, one measured as slower by up to this factor may be chosen for its fewer CPUs."""

Ground = Literal["fastest", "nearest", "surrogate", "none"]
"""The reason for a choice: it is the fastest that meets the goal (or the cheapest tied with it); none meets the goal and it comes
closest; a search estimates it to be the best from all measurements; there is no choice."""

DoubtKind = Literal[
    "nothing measured", "no baseline", "no error", "no baseline error", "nothing to compare", "not comparable", "noted",
    "not alone", "no throughput",
]  # fmt: skip


class Doubt(NamedTuple):
    """A caveat in the measurements that makes a choice uncertain or impossible.

    Attributes:
        kind: the kind of caveat.
        about: the configurations that it concerns, if not all or only the choice.
    """

    kind: DoubtKind
    about: tuple[Configuration, ...] = ()


class Remedy(NamedTuple):
    """How to settle an undecided verdict.

    Attributes:
        kind: repeat the choice and the baseline; repeat them without interference from other programs; more rounds of probes.
        times: number of repeats or rounds; infinite if more than `most` would be needed, NaN if unknown.
        most: the largest number worth the time.
        seconds: duration of the repeats without start-up; NaN if unknown.
    """

    kind: Literal["repeats", "undisturbed repeats", "rounds"]
    times: float = math.nan
    most: int = _MOST_REPEATS
    seconds: float = math.nan


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A choice and the reasons for it; `report.decisions` turns it into text.

    Attributes:
        goal: the requested goal.
        choice: the recommended configuration; None if none can be recommended.
        verdict: whether the choice meets the goal's constraints; undecided if an interval straddles a threshold or there is no
            choice.
        ground: the reason for the choice.
        peers: the configurations tied with the best within noise, including the choice.
        standings: the choice judged by each constraint.
        remedy: how to settle an undecided verdict; None if no interval straddles a threshold.
        doubts: caveats about the choice; without a choice, what is missing.
        runner_up: the next best; None if there is none.
        measure_next: predictions for configurations worth measuring before deciding, best first; NaN without a law or baseline.
    """

    goal: Goal
    choice: Configuration | None = None
    verdict: Verdict = "undecided"
    ground: Ground = "none"
    peers: tuple[Configuration, ...] = ()
    standings: tuple[Standing, ...] = ()
    remedy: Remedy | None = None
    doubts: tuple[Doubt, ...] = ()
    runner_up: Configuration | None = None
    measure_next: tuple[Prediction, ...] = ()


def recommend(
    configurations: Sequence[Configuration], goal: Goal, laws: Laws | None = None, surrogate_best: Scale | None = None
) -> Recommendation:
    """Return the recommendation for a goal; if no configuration meets it, the choice is the closest and the verdict "not met".

    Point estimates, within `goals.tolerance`, decide whether a configuration is a candidate; intervals decide whether the verdict
    is "met" or "undecided". Of the candidates tied with the fastest within noise, the cheapest is chosen: fewest CPUs, then
    smallest N. Without a candidate, the same applies to those tied for the closest.

    Args:
        configurations: the measured configurations.
        goal: the goal.
        laws: the laws fitted to them.
        surrogate_best: the best according to a search's surrogate of all measurements; if it was measured, it is the choice.
    """
    needs_speedup = goal.min_efficiency is not None or goal.min_speedup is not None
    known = [each for each in configurations if each.speedup > 0]
    if not (known or needs_speedup):
        known = [each for each in configurations if each.sps > 0]
    if not known:
        return Recommendation(goal, doubts=(_missing(configurations),))
    best = _best(known, goal)
    estimated = next((each for each in known if each.scale == surrogate_best), None)
    choice = estimated or best.choice
    stands = tuple(standings(choice, goal))
    baseline = next((each for each in known if each.is_baseline), None)
    shared: list[Verdict] = ["undecided"] if any(run.exclusive == 0 for run in choice.runs) else []
    return Recommendation(
        goal=goal,
        choice=choice,
        verdict=combined([*shared, *(each.verdict for each in stands)]),
        ground="surrogate" if estimated else "fastest" if best.fits else "nearest",
        peers=(choice,) if estimated else tuple(best.peers),
        standings=stands,
        remedy=_remedy(choice, baseline, stands),
        doubts=tuple(_doubts(configurations, choice)),
        runner_up=_runner_up(known, choice, goal),
        measure_next=worth_measuring(known, choice, goal, laws),
    )


class _Best(NamedTuple):
    """The best of a pool, its peers within noise, and whether they meet the goal."""

    choice: Configuration
    peers: list[Configuration]
    fits: bool


def _best(pool: Sequence[Configuration], goal: Goal) -> _Best:
    """Return the cheapest of those tied with the fastest that meets the goal.

    If none meets it, the pool is reduced to those tied for the smallest distance from the goal.
    """
    may = [each for each in pool if may_meet(each, goal)]
    # Configurations with unknown figures, such as unrecorded RAM, rank behind those known to meet the goal.
    fit = [each for each in may if not any(math.isnan(standing.reach) for standing in standings(each, goal))] or may
    if fit:
        fastest = max(fit, key=lambda each: each.sps)
        peers = [each for each in fit if _as_fast(each, fastest)]
    else:
        nearest = min(pool, key=lambda each: _distance(each, goal))
        near = [each for each in pool if each is nearest or _as_near(each, nearest, goal)]
        fastest = max(near, key=lambda each: each.sps)
        peers = [each for each in near if _as_fast(each, fastest)]
    return _Best(min(peers, key=_cost), peers, bool(fit))


def tied(one: Configuration, other: Configuration) -> bool:
    """Return whether two throughputs are equal within noise: their difference is within its 95 % interval (Welch, on logs).

    Throughputs rather than speedups, because all speedups share the baseline's error.
    """
    return abs(math.log(one.sps / other.sps)) <= _noise(one, other)


def _as_fast(one: Configuration, fastest: Configuration) -> bool:
    """Return whether one is as fast within noise, and not slower by more than `_WORTH_CPUS` as measured."""
    return tied(one, fastest) and one.sps * _WORTH_CPUS >= fastest.sps


def _noise(one: Configuration, other: Configuration) -> float:
    return math.hypot(*(math.log1p(each.own_error / 100) for each in (one, other) if each.own_error > 0))


def _as_near(one: Configuration, nearest: Configuration, goal: Goal) -> bool:
    """Return whether two are equally far from a goal within noise. The distance to each missed threshold varies with throughput."""
    (resources, lack, _), (least_resources, least_lack, _) = _distance(one, goal), _distance(nearest, goal)
    missed = sum(each.limit.is_least and each.misses for each in standings(one, goal))
    return resources == least_resources and lack - least_lack <= missed * _noise(one, nearest)


def _cost(configuration: Configuration) -> tuple[float, ...]:
    scale = configuration.scale
    return configuration.cpus, scale.parallelism, scale.num_env_runners, -configuration.sps


def _distance(configuration: Configuration, goal: Goal) -> tuple[float, ...]:
    """Return the distance of a configuration from a goal: excess resources first, then the sum of what it lacks."""
    lacking = [(not each.limit.is_least, -math.log(each.reach)) for each in standings(configuration, goal) if each.misses]
    resources = sum(lack for is_resource, lack in lacking if is_resource)
    return resources, sum(lack for is_resource, lack in lacking if not is_resource), -configuration.sps


def ranking(configurations: Sequence[Configuration]) -> list[list[Configuration]]:
    """Return the configurations in groups, fastest first: those of a group are tied with its fastest within noise."""
    groups: list[list[Configuration]] = []
    for each in sorted((each for each in configurations if each.sps > 0), key=lambda each: -each.sps):
        if groups and tied(each, groups[-1][0]):
            groups[-1].append(each)
        else:
            groups.append([each])
    return groups


def _repeats(choice: Configuration, baseline: Configuration, reach: float) -> int | None:
    """Return how many repeats of both exclude the threshold from a figure's interval if the figure stays; None for too many.

    Args:
        choice: the configuration to judge.
        baseline: the baseline of its speedup.
        reach: figure / threshold.
    """
    for more in range(1, _MOST_REPEATS + 1):
        variance = sum(each.variance * len(each.runs) / (len(each.runs) + more) for each in (choice, baseline))
        error = replace(choice.noise, dof=choice.noise.dof + 2 * more).error(variance)
        if judge(reach, error, 1.0) != "undecided":
            return more
    return None


def _runner_up(known: Sequence[Configuration], choice: Configuration, goal: Goal) -> Configuration | None:
    others = [each for each in known if each is not choice]
    # The baseline is an obvious alternative: name it only if there is no other.
    others = [each for each in others if not each.is_baseline] or others
    return _best(others, goal).choice if others else None


def _missing(configurations: Sequence[Configuration]) -> Doubt:
    """Return what is missing if no configuration can be judged."""
    if not configurations:
        return Doubt("nothing measured")
    if any(each.sps > 0 for each in configurations):
        return Doubt("no baseline")
    return Doubt("no throughput", tuple(configurations))


def _remedy(choice: Configuration, baseline: Configuration | None, stands: Sequence[Standing]) -> Remedy | None:
    reaches = [each.reach for each in stands if each.verdict == "undecided" and each.reach > 0]
    if not reaches:
        return None
    if choice.disturbed:
        return Remedy("undisturbed repeats")
    if baseline is None or not choice.variance + baseline.variance >= 0:
        return Remedy("repeats")
    if choice.noise.probed:
        return _rounds(choice, reaches)
    needed = [_repeats(choice, baseline, reach) for reach in reaches]
    known = [each for each in needed if each is not None]
    if len(known) < len(needed):
        return Remedy("repeats", math.inf)
    more = max(known)
    return Remedy("repeats", more, seconds=more * ENOUGH_ITERATIONS * (choice.seconds + baseline.seconds))


def _rounds(choice: Configuration, reaches: Sequence[float]) -> Remedy:
    """Return how many more rounds of probes would settle it: the interval narrows with the square root of their number."""
    rounds = choice.runs[0].steady.iterations
    half_width = math.log1p(choice.speedup_error / 100)
    more = max(rounds * ((half_width / math.log(reach)) ** 2 - 1) if reach != 1 else math.inf for reach in reaches)
    most = _MOST_REPEATS * rounds
    return Remedy("rounds", math.inf if more > most else math.ceil(more), most)


def _doubts(configurations: Sequence[Configuration], choice: Configuration) -> Iterator[Doubt]:
    if math.isnan(choice.speedup):
        yield Doubt("no baseline")
    by_throughput = choice.is_baseline or math.isnan(choice.speedup)
    if math.isnan(choice.sps_error if by_throughput else choice.speedup_error):
        yield Doubt("no error" if math.isnan(choice.sps_error) else "no baseline error")
    if len(configurations) == 1:
        yield Doubt("nothing to compare")
    # A throughput without a speedup can't be compared with a choice that has one; its notes give the reason.
    incomparable = tuple(each for each in configurations if each.sps > 0 and math.isnan(each.speedup) and choice.speedup > 0)
    if incomparable:
        yield Doubt("not comparable", incomparable)
    concerned = [choice, *(each for each in configurations if each.is_baseline and each is not choice), *incomparable]
    if noted := tuple(each for each in concerned if each.notes):
        yield Doubt("noted", noted)
    if concurrent := tuple(each for each in concerned if any(run.exclusive == 0 for run in each.runs)):
        yield Doubt("not alone", concurrent)
    if unknown := tuple(each for each in configurations if math.isnan(each.sps)):
        yield Doubt("no throughput", unknown)
