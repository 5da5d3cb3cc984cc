"""Which configuration to take, and why."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple

from rl_scaling_callback.analysis.configurations import Configuration
from rl_scaling_callback.analysis.goals import Goal, Standing, Verdict, judge, may_meet, standings, together
from rl_scaling_callback.analysis.laws import Laws, Prediction
from rl_scaling_callback.analysis.suggestions import worth_measuring
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import DEFAULT_RULE

ENOUGH_ITERATIONS: Final = DEFAULT_RULE.warmup_iterations + DEFAULT_RULE.iteration_limit
"""Iterations after which a trial's throughput is as settled as it gets."""

_MOST_REPEATS: Final = 9
"""The interval of ten runs has a third of the width of one's; who wants it narrower than that is after something else."""
_WORTH_CPUS: Final = 1.1
"""What noise can't tell apart is still more likely slower where it was measured as slower: a tenth is risked for fewer CPUs."""

Ground = Literal["fastest", "nearest", "believed", "none"]
"""Why a configuration is the choice: it is the fastest (or the cheapest of those that noise can't tell from it) that meets the
goal; none meets it, and it comes nearest; a search believes it to be the best by all measurements; there is no choice."""

DoubtKind = Literal[
    "nothing measured", "no baseline", "no error", "nothing to compare", "not comparable", "noted", "not alone", "no throughput"
]


class Doubt(NamedTuple):
    """What makes a choice less than certain in the measurements themselves, or impossible.

    Attributes:
        kind: what it is.
        about: the configurations that it concerns, where it does not concern all or the choice.
    """

    kind: DoubtKind
    about: tuple[Configuration, ...] = ()


class Remedy(NamedTuple):
    """What would settle a verdict that an interval leaves open.

    Attributes:
        kind: to repeat choice and baseline; to do so without the other programs that disturbed them; more rounds of probes.
        times: repeats of each, or rounds; infinite where more than `most` would be needed, NaN where the number is not known.
        most: more than these are not worth it.
        seconds: time that the repeats take without start-up; NaN where not known.
    """

    kind: Literal["repeats", "undisturbed repeats", "rounds"]
    times: float = math.nan
    most: int = _MOST_REPEATS
    seconds: float = math.nan


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A choice with what it rests on; `report.wording` puts it in words.

    Attributes:
        goal: what was asked for.
        choice: the configuration to take; None where none can be recommended.
        verdict: whether the choice meets the goal's constraints; undecided where an interval straddles a threshold, and where
            there is no choice.
        ground: why it is the choice.
        peers: the configurations that noise can't tell from the best, the choice included.
        standings: how the choice stands to each constraint.
        remedy: what would settle an undecided verdict; None where nothing is left open by an interval.
        doubts: what makes the choice less than certain; without a choice, what is missing.
        runner_up: the next best; None where there is none.
        measure_next: what is predicted of configurations worth measuring before deciding, best first. The prediction is NaN where
            there is no law or no baseline.
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
    configurations: Sequence[Configuration], goal: Goal, laws: Laws | None = None, believed: Scale | None = None
) -> Recommendation:
    """Return the recommendation for a goal; where no configuration meets it, `choice` comes nearest and the verdict says so.

    A figure decides whether a configuration is a candidate; its interval, whether the verdict is met or undecided. Of the
    candidates that noise can't tell from the fastest, the cheapest is taken: fewest CPUs, then smallest N. Where there is no
    candidate, the same goes for those that come equally near, as far as noise lets that be told.

    Args:
        configurations: what was measured.
        goal: what the configuration is for.
        laws: laws that were fitted to it.
        believed: the best by all measurements taken together, as a search knows it; where it was measured, it is the choice.
    """
    needs_speedup = goal.min_efficiency is not None or goal.min_speedup is not None
    known = [each for each in configurations if each.speedup > 0]
    if not (known or needs_speedup):
        known = [each for each in configurations if each.sps > 0]
    if not known:
        return Recommendation(goal, doubts=(_missing(configurations),))
    best = _best(known, goal)
    told = next((each for each in known if each.scale == believed), None)
    choice = told or best.choice
    stands = tuple(standings(choice, goal))
    baseline = next((each for each in known if each.is_baseline), None)
    return Recommendation(
        goal=goal,
        choice=choice,
        verdict=together(each.verdict for each in stands),
        ground="believed" if told else "fastest" if best.fits else "nearest",
        peers=(choice,) if told else tuple(best.peers),
        standings=stands,
        remedy=_remedy(choice, baseline, stands),
        doubts=tuple(_doubts(configurations, choice)),
        runner_up=_runner_up(known, choice, goal),
        measure_next=worth_measuring(known, choice, goal, laws),
    )


class _Best(NamedTuple):
    """The best of a pool, all that noise can't tell from the fastest (or from the nearest), and whether they meet the goal."""

    choice: Configuration
    peers: list[Configuration]
    fits: bool


def _best(pool: Sequence[Configuration], goal: Goal) -> _Best:
    """Return the cheapest of those that noise can't tell from the fastest that fits; where none does, of those that are near.

    Near are those that noise can't tell from the nearest, by how far they are from the goal.
    """
    fit = [each for each in pool if all(standing.reach >= 1 for standing in standings(each, goal))]
    # What can't be known, such as RAM that nobody recorded, comes behind what is known to fit.
    fit = fit or [each for each in pool if may_meet(each, goal)]
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
    """Return whether the difference of two throughputs is within its 95 % interval (Welch, on logs).

    Throughputs, not speedups: the baseline's error is in all speedups alike, and tells nothing about their difference.
    """
    return abs(math.log(one.sps / other.sps)) <= _noise(one, other)


def _as_fast(one: Configuration, fastest: Configuration) -> bool:
    """Return whether one may be taken for as fast: the less is known, the less is gained by giving up what was measured."""
    return tied(one, fastest) and one.sps * _WORTH_CPUS >= fastest.sps


def _noise(one: Configuration, other: Configuration) -> float:
    return math.hypot(*(math.log1p(each.own_error / 100) for each in (one, other) if each.own_error > 0))


def _as_near(one: Configuration, nearest: Configuration, goal: Goal) -> bool:
    """Return whether noise can't tell two by their distance from a goal. Each threshold missed moves with the throughput."""
    (resources, lack, _), (least_resources, least_lack, _) = _distance(one, goal), _distance(nearest, goal)
    missed = sum(each.limit.is_least and each.reach < 1 for each in standings(one, goal))
    return resources == least_resources and lack - least_lack <= missed * _noise(one, nearest)


def _cost(configuration: Configuration) -> tuple[float, ...]:
    scale = configuration.scale
    return configuration.cpus, scale.parallelism, scale.num_env_runners, -configuration.sps


def _distance(configuration: Configuration, goal: Goal) -> tuple[float, ...]:
    """Return how far a configuration is from a goal: resources that are not there first, then what it lacks in all."""
    lacking = [(not each.limit.is_least, -math.log(each.reach)) for each in standings(configuration, goal) if each.reach < 1]
    resources = sum(lack for is_resource, lack in lacking if is_resource)
    return resources, sum(lack for is_resource, lack in lacking if not is_resource), -configuration.sps


def ranking(configurations: Sequence[Configuration]) -> list[list[Configuration]]:
    """Return the configurations in groups, fastest first: those of a group can't be told from its fastest."""
    left = sorted((each for each in configurations if each.sps > 0), key=lambda each: -each.sps)
    groups = []
    while left:
        groups.append([each for each in left if each is left[0] or tied(each, left[0])])
        left = [each for each in left if each not in groups[-1]]
    return groups


def _repeats(choice: Configuration, baseline: Configuration, reach: float) -> int | None:
    """Return how often to repeat both until a figure's interval leaves a threshold out, if they come out alike; None for too often.

    Args:
        choice: what is judged.
        baseline: what its speedup is counted against.
        reach: the figure over the threshold.
    """
    for more in range(1, _MOST_REPEATS + 1):
        variance = sum(each.variance * len(each.runs) / (len(each.runs) + more) for each in (choice, baseline))
        error = replace(choice.noise, dof=choice.noise.dof + 2 * more).error(variance)
        if judge(reach, error, 1.0) != "undecided":
            return more
    return None


def _runner_up(known: Sequence[Configuration], choice: Configuration, goal: Goal) -> Configuration | None:
    others = [each for each in known if each is not choice]
    # Everybody knows the baseline: as an alternative it is worth naming only where there is no other.
    others = [each for each in others if not each.is_baseline] or others
    return _best(others, goal).choice if others else None


def _missing(configurations: Sequence[Configuration]) -> Doubt:
    """Return what is missing where no configuration can be judged."""
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
    """Return how many more rounds of probes would settle it: an interval narrows with the root of their number."""
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
        yield Doubt("no error")
    if len(configurations) == 1:
        yield Doubt("nothing to compare")
    # What is known by throughput alone can't be compared with a choice that has a speedup; its note says why.
    incomparable = tuple(each for each in configurations if each.sps > 0 and math.isnan(each.speedup) and choice.speedup > 0)
    if incomparable:
        yield Doubt("not comparable", incomparable)
    concerned = [choice, *(each for each in configurations if each.is_baseline and each is not choice), *incomparable]
    if noted := tuple(each for each in concerned if each.note):
        yield Doubt("noted", noted)
    if beside := tuple(each for each in concerned if any(run.exclusive == 0 for run in each.runs)):
        yield Doubt("not alone", beside)
    if unknown := tuple(each for each in configurations if math.isnan(each.sps)):
        yield Doubt("no throughput", unknown)
