"""Goals with their constraints, and verdicts on whether a configuration meets them that take noise into account."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Literal, NamedTuple

from rl_scaling_callback.analysis.returns import INCOMPARABLE, TimeToReturn
from rl_scaling_callback.core import formulas
from rl_scaling_callback.core.checks import non_empty, positive
from rl_scaling_callback.core.formulas import NAN, interval
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import DEFAULT_RULE

Verdict = Literal["met", "not met", "undecided"]

TOLERANCE: Final = DEFAULT_RULE.precision / 100
"""Width of the zone below a goal's minimum in which a configuration may be chosen or not, as a share of the minimum.

It is the precision to which throughputs are measured. The decision changes in its middle, so that noise rarely rejects a
configuration that meets the goal, or accepts one below the zone. Rejecting one at the minimum may cost far more than it lacks.
Source: Andradóttir and Kim, Naval Research Logistics 57(5), 2010.
"""


@dataclass(frozen=True, slots=True)
class Goal:
    """Constraints on a configuration; among those that meet them, the largest speedup wins.

    Measured speedups and efficiencies have errors. One that is below its minimum by at most its error, and by at most 2.5 %,
    leaves the configuration eligible, and the verdict is "undecided".

    Attributes:
        name: its name.
        min_efficiency: minimum efficiency [%]; None for no limit.
        min_speedup: minimum speedup [×]; None for no limit.
        max_cpus: maximum number of CPUs per trial; None for no limit.
        max_ram_utilisation: maximum RAM utilisation of the node [%]; None for no limit.
        min_sooner: minimum speedup of the time to return [×], see `returns`; None for no limit. Undecided without repeats.

    Raises:
        ValueError: if a value is out of range.
    """

    name: str
    min_efficiency: float | None = None
    min_speedup: float | None = None
    max_cpus: float | None = None
    max_ram_utilisation: float | None = None
    min_sooner: float | None = None

    def __post_init__(self) -> None:
        non_empty("name", self.name)
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            if value is not None:
                positive(field.name, value)
        if self.max_ram_utilisation is not None and self.max_ram_utilisation > 100:
            raise ValueError(f"max_ram_utilisation is {self.max_ram_utilisation!r}; allowed are percentages up to 100")

    @classmethod
    def of(cls, name: str = "balanced", **constraints: float | None) -> Goal:
        """Return one of `GOALS`, with constraints added or overridden.

        Args:
            name: the goal's name.
            **constraints: fields of `Goal` to override; None keeps the goal's value.

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
    def limits(self) -> tuple[Limit, ...]:
        """Its constraints."""
        sides = {field.name: field.name.partition("_") for field in fields(self)[1:]}
        return tuple(
            Limit(figure, side == "min", value)
            for name, (side, _, figure) in sides.items()
            if (value := getattr(self, name)) is not None
        )


class Limit(NamedTuple):
    """A constraint of a goal.

    Attributes:
        figure: the limited attribute of `Configuration`: efficiency, speedup, cpus, ram_utilisation or sooner.
        is_least: True for a minimum, False for a maximum. Maxima limit the machine's resources.
        value: the threshold.
    """

    figure: str
    is_least: bool
    value: float

    def reach(self, figure: float) -> float:
        """Return figure / threshold, or threshold / figure for a maximum: at least 1 if the constraint is met. NaN for NaN."""
        return formulas.ratio(figure, self.value) if self.is_least else formulas.ratio(self.value, figure)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """The figures of a configuration that goals judge.

    Attributes:
        scale: its scale; `scale.parallelism` is N.
        sps: its throughput [steps/s].
        sps_error: half-width [%] of the 95 % interval for a repeat of `sps`; NaN if unknown.
        speedup: [×]; NaN without a baseline. See `ideal`.
        speedup_error: the same for `speedup`, if the baseline is repeated as well [%]; NaN if unknown.
        cpus: CPUs allocated to a trial.
        ram_utilisation: [%]; NaN if unknown.
        unit: N at which the speedup of perfect scaling is 1×.
        to_return: its time to return.
    """

    scale: Scale
    sps: float
    sps_error: float
    speedup: float
    speedup_error: float
    cpus: float
    ram_utilisation: float = NAN
    unit: int = 1
    to_return: TimeToReturn = INCOMPARABLE

    @property
    def ideal(self) -> float:
        """The speedup of perfect scaling [×]: N, or N / N of the baseline if that counts as 1×."""
        return self.scale.parallelism / self.unit

    @property
    def efficiency(self) -> float:
        """Speedup / ideal × 100 [%]; its relative error is `speedup_error`."""
        return formulas.efficiency(self.speedup, self.ideal)

    @property
    def sooner(self) -> float:
        """Speedup of the time to return [×]; NaN if unknown."""
        return self.to_return.sooner

    @property
    def own_error(self) -> float:
        """Half-width of the 95 % interval of `sps` without the variation that all configurations share, for comparisons [%]."""
        return self.sps_error

    @property
    def is_unclear(self) -> bool:
        """Whether its speedup is inconclusive."""
        return False


def judge_speedup(candidate: Candidate, figure: float, least: float) -> Verdict:
    """Return whether a figure as uncertain as the speedup reaches `least`; undecided if the speedup is unclear."""
    return "undecided" if candidate.is_unclear else judge(figure, candidate.speedup_error, least)


def combined(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the combined verdict on several conditions."""
    found = set(verdicts)
    if "not met" in found:
        return "not met"
    return "undecided" if "undecided" in found else "met"


class Standing(NamedTuple):
    """A configuration judged by one constraint of a goal.

    Attributes:
        limit: the constraint.
        value: the configuration's figure; NaN if unknown.
        error: half-width of its 95 % interval [%]; NaN for CPUs, which are counted, and RAM, which is a maximum.
        verdict: whether the constraint is met, given the interval.
    """

    limit: Limit
    value: float
    error: float
    verdict: Verdict

    @property
    def reach(self) -> float:
        """At least 1 if the constraint is met; NaN if unknown."""
        return self.limit.reach(self.value)

    @property
    def misses(self) -> bool:
        """Whether the constraint is missed by more than the error allows; False if unknown."""
        return self.reach < 1 and -math.log(self.reach) > tolerance(self.error)


def standings(candidate: Candidate, goal: Goal) -> list[Standing]:
    """Return the standing of a configuration for each constraint of a goal."""
    # Efficiency is as uncertain as speedup.
    of_speedup, of_return = candidate.speedup_error, candidate.to_return.sooner_error
    errors = {"efficiency": of_speedup, "speedup": of_speedup, "sooner": of_return}
    # Seeds alone make curves differ, so one run each decides nothing.
    unclear = {"efficiency": candidate.is_unclear, "speedup": candidate.is_unclear, "sooner": math.isnan(of_return)}
    found = []
    for limit in goal.limits:
        value, error = float(getattr(candidate, limit.figure)), errors.get(limit.figure, NAN)
        verdict: Verdict = "undecided" if unclear.get(limit.figure) else judge(limit.reach(value), error, 1.0)
        found.append(Standing(limit, value, error, verdict))
    return found


def may_meet(candidate: Candidate, goal: Goal) -> bool:
    """Return whether no known figure of a configuration misses the goal."""
    return not any(each.misses for each in standings(candidate, goal))
