"""Chooses a configuration for a goal. Sweeps and reports both choose with `choose`, and nothing else does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Generic, NamedTuple, TypeVar

from rl_scaling_callback.analysis.goals import Candidate, Goal, may_meet, standings

INDIFFERENCE: Final = 0.02
"""Relative difference in speed that never justifies more CPUs."""

C = TypeVar("C", bound=Candidate)


class Choice(NamedTuple, Generic[C]):
    """The configuration chosen for a goal.

    Attributes:
        best: the configuration.
        equals: the configurations as good as it, including itself, cheapest first.
        fits: whether it meets the goal as measured, within its error; otherwise it comes closest.
    """

    best: C
    equals: list[C]
    fits: bool


def choose(candidates: Sequence[C], goal: Goal) -> Choice[C]:
    """Return the cheapest of the configurations tied with the fastest that meets the goal.

    If none meets it, the same applies to those tied for the closest. A configuration is tied if it is slower, or further from the
    goal, by at most 2 %, or by what noise explains and at most 4 %. The cheapest has the fewest CPUs, then the smallest N.

    Args:
        candidates: at least one configuration with a throughput.
        goal: the goal.
    """
    may = [each for each in candidates if may_meet(each, goal)]
    # Configurations with unknown figures, such as unrecorded RAM, rank behind those known to meet the goal.
    fit = [each for each in may if not any(math.isnan(standing.reach) for standing in standings(each, goal))] or may
    pool = fit or _closest(candidates, goal)
    fastest = max(pool, key=lambda each: each.sps)
    equals = sorted((each for each in pool if _is_as_fast(each, fastest)), key=_cost)
    return Choice(equals[0], equals, bool(fit))


def shortfall(candidate: Candidate, goal: Goal) -> tuple[float, float]:
    """Return by how much (as ln) a configuration exceeds the goal's resources, and by how much it lacks speed; 0 if it doesn't."""
    missed = [(each.limit.is_least, -math.log(each.reach)) for each in standings(candidate, goal) if each.misses]
    return sum(lack for is_least, lack in missed if not is_least), sum(lack for is_least, lack in missed if is_least)


def noise(one: Candidate, other: Candidate) -> float:
    """Return the half-width of the 95 % interval of the difference between two throughputs, as ln (Welch); 0 if unknown.

    Throughputs rather than speedups, because all speedups share the baseline's error. An own error is that of a repeat, whose
    variance is twice that of the figure.
    """
    return math.hypot(*(math.log1p(each.own_error / 100) for each in (one, other) if each.own_error > 0)) / math.sqrt(2)


def tied(one: Candidate, other: Candidate) -> bool:
    """Return whether two throughputs are equal within noise."""
    return abs(math.log(one.sps / other.sps)) <= noise(one, other)


def _is_as_fast(one: Candidate, fastest: Candidate) -> bool:
    return math.log(fastest.sps / one.sps) <= _slack(noise(one, fastest))


def _slack(noise: float) -> float:
    return min(2 * INDIFFERENCE, max(INDIFFERENCE, noise))


def _closest(candidates: Sequence[C], goal: Goal) -> list[C]:
    """Return the configurations tied for the smallest shortfall. Excess resources outweigh any lack of speed."""
    nearest = min(candidates, key=lambda each: (*shortfall(each, goal), -each.sps))
    resources, least = shortfall(nearest, goal)

    def is_as_near(each: C) -> bool:
        excess, lack = shortfall(each, goal)
        # The shortfall from each missed threshold changes with the throughput.
        missed = sum(standing.limit.is_least and standing.misses for standing in standings(each, goal))
        return excess == resources and lack - least <= _slack(missed * noise(each, nearest))

    return [each for each in candidates if each is nearest or is_as_near(each)]


def _cost(candidate: Candidate) -> tuple[float, ...]:
    scale = candidate.scale
    return candidate.cpus, scale.parallelism, scale.num_env_runners, -candidate.sps
