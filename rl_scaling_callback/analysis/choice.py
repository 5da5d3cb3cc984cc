"""Goals with their constraints, and the choice of a configuration: the last word in sweeps and reports, not in autotune."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Literal, NamedTuple

from rl_scaling_callback.analysis.configurations import Configuration
from rl_scaling_callback.core import formulas
from rl_scaling_callback.core.checks import non_empty, positive
from rl_scaling_callback.core.formulas import NAN, interval
from rl_scaling_callback.core.steady import DEFAULT_RULE

Verdict = Literal["met", "not met", "undecided"]

TOLERANCE: Final = DEFAULT_RULE.precision / 100
"""Width of the zone below a goal's minimum in which a configuration may be chosen or not, as a share of the minimum: the precision
to which throughputs are measured. The decision changes in its middle, so that noise rarely rejects a configuration at the minimum,
or accepts one below the zone. Source: Andradóttir and Kim, Naval Research Logistics 57(5), 2010.
"""


@dataclass(frozen=True, slots=True)
class Goal:
    """Constraints on a configuration; among those that meet them, the largest speedup wins.

    Measured speedups and efficiencies have errors. One that is below its minimum by at most its error, and by at most 2.5 %,
    leaves the configuration eligible, and the verdict is "undecided".

    Attributes:
        name: its name.
        min_efficiency: minimum efficiency [%]; None for no limit, as for all that follow.
        min_speedup: minimum speedup [×].
        max_cpus: maximum number of CPUs per trial.

    Raises:
        ValueError: if a value is out of range.
    """

    name: str
    min_efficiency: float | None = None
    min_speedup: float | None = None
    max_cpus: float | None = None

    def __post_init__(self) -> None:
        non_empty("name", self.name)
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            if value is not None:
                positive(field.name, value)

    @classmethod
    def of(cls, goal: str | Goal = "balanced", **constraints: float | None) -> Goal:
        """Return a goal, given or by its name in `GOALS`, with constraints added or overridden.

        A constraint of None keeps the goal's value.

        Raises:
            ValueError: if the goal is unknown or a value is out of range.
        """
        if not isinstance(goal, Goal) and goal not in GOALS:
            raise ValueError(f"goal is {goal!r}; allowed are {', '.join(GOALS)}")
        given: dict[str, Any] = {field: value for field, value in constraints.items() if value is not None}
        return replace(goal if isinstance(goal, Goal) else GOALS[goal], **given)

    @property
    def limits(self) -> dict[str, float]:
        """The threshold of each figure of a configuration that it limits. All are minima, except that of the CPUs."""
        found = {field.name.partition("_")[2]: getattr(self, field.name) for field in fields(self)[1:]}
        return {figure: limit for figure, limit in found.items() if limit is not None}


GOALS: Final[Mapping[str, Goal]] = {
    "save": Goal("save", min_efficiency=80),
    "balanced": Goal("balanced", min_efficiency=60, min_speedup=2.5),
    "fastest": Goal("fastest"),
}
"""The predefined goals by name."""


def tolerance(error: float) -> float:
    """Return by how much (as ln) a figure with a 95 % interval of half-width `error` [%] may be below a minimum; 0 for NaN."""
    return min(TOLERANCE / 2, math.log1p(error / 100)) if error > 0 else 0.0


class Standing(NamedTuple):
    """A configuration judged by one constraint of a goal.

    Attributes:
        figure: the limited attribute of `Configuration`: efficiency, speedup or cpus.
        limit: the threshold.
        value: the configuration's figure; NaN if unknown.
        error: half-width of its 95 % interval [%]; NaN for CPUs, which are counted.
        is_unclear: whether the figure is inconclusive.
    """

    figure: str
    limit: float
    value: float
    error: float
    is_unclear: bool

    @property
    def reach(self) -> float:
        """Figure / threshold, or threshold / figure for CPUs: at least 1 if the constraint is met; NaN if unknown."""
        return formulas.ratio(self.limit, self.value) if self.figure == "cpus" else formulas.ratio(self.value, self.limit)

    @property
    def verdict(self) -> Verdict:
        """Whether the constraint is met, given the interval; undecided if that straddles the threshold, or if it is unknown."""
        low, high = interval(self.reach, self.error)
        if self.is_unclear or not (low >= 1 or high < 1):
            return "undecided"
        return "met" if low >= 1 else "not met"

    @property
    def misses(self) -> bool:
        """Whether the constraint is missed by more than the error allows; False if unknown."""
        return self.reach < 1 and -math.log(self.reach) > tolerance(self.error)


def standing(configuration: Configuration, figure: str, limit: float) -> Standing:
    """Return the standing of a configuration for a constraint."""
    if figure == "cpus":
        return Standing(figure, limit, configuration.cpus, NAN, is_unclear=False)
    # Efficiency is as uncertain as speedup.
    is_unclear = configuration.is_noisy or configuration.disturbed
    return Standing(figure, limit, getattr(configuration, figure), configuration.speedup_error, is_unclear)


def standings(configuration: Configuration, goal: Goal) -> list[Standing]:
    """Return the standing of a configuration for each constraint of a goal."""
    return [standing(configuration, *each) for each in goal.limits.items()]


def may_meet(configuration: Configuration, goal: Goal) -> bool:
    """Return whether no known figure of a configuration misses the goal."""
    return not any(each.misses for each in standings(configuration, goal))


INDIFFERENCE: Final = 0.02
"""Relative difference in speed that never justifies more CPUs."""

ENOUGH_ITERATIONS: Final = DEFAULT_RULE.warmup_iterations + DEFAULT_RULE.max_iterations
"""Iterations after which more would hardly improve a trial's throughput estimate."""

TO_GET_A_BASELINE: Final = (
    f"Run a trial of the same workload with 1 env runner × 1 env for {ENOUGH_ITERATIONS} iterations, "
    "or give ScalingCallback probe=True, a baseline_dir or baseline_sps. A table needs a row of that scale."
)


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A choice and the reasons for it.

    Attributes:
        goal: the requested goal.
        measured: all configurations that it is based on.
        peers: the configurations as good as the choice (see `choose`), the choice first; empty if none can be recommended.
        ground: the reason for the choice: it is the fastest that meets the goal, or the cheapest tied with it; none meets the goal
            and it comes closest; its speedup is too noisy to tell, so it is a guess; there is no choice.
        verdict: whether the choice meets the goal's constraints; undecided if an interval straddles a threshold or there is no
            choice.
    """

    goal: Goal
    measured: tuple[Configuration, ...]
    peers: tuple[Configuration, ...] = ()
    ground: Literal["fastest", "nearest", "guess", "none"] = "none"
    verdict: Verdict = "undecided"

    @property
    def choice(self) -> Configuration | None:
        """The recommended configuration; None if none can be recommended."""
        return self.peers[0] if self.peers else None

    @property
    def standings(self) -> list[Standing]:
        """The choice judged by each constraint."""
        return standings(self.peers[0], self.goal) if self.peers else []

    @property
    def baseline(self) -> Configuration | None:
        """The configuration that is the baseline; None if it is none of those measured."""
        return next((each for each in self.measured if each.is_baseline), None)


def recommend(configurations: Sequence[Configuration], goal: Goal) -> Recommendation:
    """Return the recommendation for a goal; if no measured configuration meets it, the choice is the closest.

    `choose` makes the choice, from point estimates within `tolerance`; intervals decide whether the verdict is "met" or
    "undecided". If the choice's speedup is too noisy, the choice is a guess and the verdict "undecided".
    """
    measured = tuple(configurations)
    needs_speedup = goal.min_efficiency is not None or goal.min_speedup is not None
    known = [each for each in measured if each.speedup > 0]
    if not (known or needs_speedup):
        known = [each for each in measured if each.sps > 0]
    if not known:
        return Recommendation(goal, measured)
    peers = choose(known, goal)
    choice = peers[0]
    # The speedup of the baseline is exactly 1, but whether others are faster may be unclear.
    rivals = [each for each in known if not each.is_baseline] if choice.is_baseline else [choice]
    is_guess = bool(rivals) and all(each.is_noisy for each in rivals)
    verdicts = {each.verdict for each in standings(choice, goal)}
    is_undecided = is_guess or "undecided" in verdicts or any(run.exclusive == 0 for run in choice.runs)
    return Recommendation(
        goal,
        measured,
        peers=tuple(peers),
        ground="guess" if is_guess else "fastest" if may_meet(choice, goal) else "nearest",
        verdict="not met" if "not met" in verdicts and not is_guess else "undecided" if is_undecided else "met",
    )


def choose(candidates: Sequence[Configuration], goal: Goal) -> list[Configuration]:
    """Return the configurations tied with the fastest that meets the goal, the cheapest first, which is the one to choose.

    If none meets it, the same applies to those tied for the closest. A configuration is tied if it is slower, or further from the
    goal, by at most 2 %, or by what noise explains and at most 4 %. The cheapest has the fewest CPUs, then the smallest N. All
    `candidates`, at least one, have a throughput.
    """
    nearest = min(candidates, key=lambda each: (*shortfall(each, goal), -each.sps))
    pool = [each for each in candidates if _is_as_near(each, nearest, goal)]
    fastest = max(pool, key=lambda each: each.sps)
    equals = [each for each in pool if math.log(fastest.sps / each.sps) <= _slack(noise(each, fastest))]
    return sorted(equals, key=lambda each: (each.cpus, each.scale.parallelism, each.scale.num_env_runners, -each.sps))


def shortfall(configuration: Configuration, goal: Goal) -> tuple[float, float]:
    """Return by how much (as ln) a configuration exceeds the goal's CPUs, and by how much it lacks speed; 0 if it doesn't."""
    missed = [(each.figure == "cpus", -math.log(each.reach)) for each in standings(configuration, goal) if each.misses]
    return sum(lack for is_cpus, lack in missed if is_cpus), sum(lack for is_cpus, lack in missed if not is_cpus)


def noise(one: Configuration, other: Configuration) -> float:
    """Return the half-width of the 95 % interval of the difference between two throughputs, as ln (Welch); 0 if unknown.

    Throughputs rather than speedups, because all speedups share the baseline's error. A relative error is that of a repeat, whose
    variance is twice that of the figure.
    """
    return math.hypot(*(math.log1p(each.relative_error / 100) for each in (one, other) if each.relative_error > 0)) / math.sqrt(2)


def _slack(noise: float) -> float:
    return min(2 * INDIFFERENCE, max(INDIFFERENCE, noise))


def _is_as_near(each: Configuration, nearest: Configuration, goal: Goal) -> bool:
    """Return whether a configuration meets the goal as the nearest does, or is tied with it. CPUs outweigh any lack of speed."""
    (excess, lack), (least_excess, least_lack) = shortfall(each, goal), shortfall(nearest, goal)
    if least_excess == least_lack == 0:
        return excess == lack == 0
    # The shortfall from each missed threshold changes with the throughput.
    missed = sum(standing.misses and standing.figure != "cpus" for standing in standings(each, goal))
    return excess == least_excess and lack - least_lack <= _slack(missed * noise(each, nearest))
