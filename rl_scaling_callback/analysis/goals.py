"""Goals with their constraints, and verdicts on whether a configuration meets them that take noise into account."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Literal, NamedTuple

from rl_scaling_callback.analysis.configurations import Configuration
from rl_scaling_callback.core import formulas
from rl_scaling_callback.core.checks import non_empty, positive
from rl_scaling_callback.core.formulas import NAN, interval
from rl_scaling_callback.core.scale import Scale
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
        min_sooner: minimum speedup of the time to return [×], see `returns`. Undecided without repeats.

    Raises:
        ValueError: if a value is out of range.
    """

    name: str
    min_efficiency: float | None = None
    min_speedup: float | None = None
    max_cpus: float | None = None
    min_sooner: float | None = None

    def __post_init__(self) -> None:
        non_empty("name", self.name)
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            if value is not None:
                positive(field.name, value)

    @classmethod
    def of(cls, name: str = "balanced", **constraints: float | None) -> Goal:
        """Return one of `GOALS`, with constraints added or overridden.

        A constraint of None keeps the goal's value.

        Raises:
            ValueError: if the goal is unknown or a value is out of range.
        """
        if name not in GOALS:
            raise ValueError(f"goal is {name!r}; allowed are {', '.join(GOALS)}")
        given: dict[str, Any] = {field: value for field, value in constraints.items() if value is not None}
        return replace(GOALS[name], **given)

    def least_speedups(self, scale: Scale) -> tuple[float, float]:
        """Return the minimum speedups implied by the efficiency and the speedup limit [×]; 0 without a limit."""
        return (self.min_efficiency or 0.0) / 100 * scale.parallelism, self.min_speedup or 0.0

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


def judge(value: float, error: float, least: float) -> Verdict:
    """Return whether a figure with a 95 % interval of half-width `error` [%] reaches `least`; undecided for NaN."""
    low, high = interval(value, error)
    if low >= least:
        return "met"
    return "not met" if high < least else "undecided"


def combined(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the combined verdict on several conditions."""
    found = set(verdicts)
    if "not met" in found:
        return "not met"
    return "undecided" if "undecided" in found else "met"


class Standing(NamedTuple):
    """A configuration judged by one constraint of a goal.

    Attributes:
        figure: the limited attribute of `Configuration`: efficiency, speedup, cpus or sooner.
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
        """Whether the constraint is met, given the interval."""
        return "undecided" if self.is_unclear else judge(self.reach, self.error, 1.0)

    @property
    def misses(self) -> bool:
        """Whether the constraint is missed by more than the error allows; False if unknown."""
        return self.reach < 1 and -math.log(self.reach) > tolerance(self.error)


def standing(configuration: Configuration, figure: str, limit: float) -> Standing:
    """Return the standing of a configuration for a constraint."""
    # Efficiency is as uncertain as speedup.
    error, is_unclear = configuration.speedup_error, configuration.is_noisy or configuration.disturbed
    if figure == "sooner":
        error = configuration.to_return.sooner_error
        is_unclear = math.isnan(error)  # Seeds alone make curves differ, so one run each decides nothing.
    elif figure == "cpus":
        error, is_unclear = NAN, False
    return Standing(figure, limit, float(getattr(configuration, figure)), error, is_unclear)


def standings(configuration: Configuration, goal: Goal) -> list[Standing]:
    """Return the standing of a configuration for each constraint of a goal."""
    return [standing(configuration, *each) for each in goal.limits.items()]


def may_meet(configuration: Configuration, goal: Goal) -> bool:
    """Return whether no known figure of a configuration misses the goal."""
    return not any(each.misses for each in standings(configuration, goal))
