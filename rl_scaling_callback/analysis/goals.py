"""What a configuration must reach, and whether it does: goals, their constraints, and verdicts that know of noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Literal

from rl_scaling_callback.analysis.configurations import Configuration
from rl_scaling_callback.core import formulas
from rl_scaling_callback.core.checks import label, positive
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.scale import Scale

Verdict = Literal["met", "not met", "undecided"]


@dataclass(frozen=True, slots=True)
class Goal:
    """What a configuration must reach; among those that do, the largest speedup wins.

    Attributes:
        name: its name.
        min_efficiency: least efficiency [%]; None for any.
        min_speedup: least speedup [×]; None for any.
        max_cpus: most CPUs that a trial may hold; None for any.
        max_ram_utilisation: most RAM utilisation of the node [%]; None for any.

    Raises:
        ValueError: a value out of its range.
    """

    name: str
    min_efficiency: float | None = None
    min_speedup: float | None = None
    max_cpus: float | None = None
    max_ram_utilisation: float | None = None

    def __post_init__(self) -> None:
        label("name", self.name)
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            if value is not None:
                positive(field.name, value)
        if self.max_ram_utilisation is not None and self.max_ram_utilisation > 100:
            raise ValueError(f"max_ram_utilisation is {self.max_ram_utilisation!r}; allowed are percentages up to 100")

    @classmethod
    def of(cls, name: str = "balanced", **constraints: float | None) -> Goal:
        """Return one of `GOALS`, with the user's own constraints beside or in place of its own.

        Args:
            name: the goal's name.
            **constraints: fields of `Goal`; None leaves the goal's own.

        Raises:
            ValueError: there is no such goal, or a value is out of its range.
        """
        if name not in GOALS:
            raise ValueError(f"goal is {name!r}; allowed are {', '.join(GOALS)}")
        given: dict[str, Any] = {field: value for field, value in constraints.items() if value is not None}
        return replace(GOALS[name], **given)

    def least_speedups(self, scale: Scale) -> tuple[float, float]:
        """Return the least speedups that efficiency and speedup ask of a configuration [×]; 0 where they ask for nothing."""
        return (self.min_efficiency or 0.0) / 100 * scale.parallelism, self.min_speedup or 0.0

    @property
    def asks(self) -> str:
        """Its constraints for the reader, `"efficiency ≥ 60 % and speedup ≥ 2.5×"`; "" where it has none."""
        return listed(each.asked(limit) for each in _CONSTRAINTS if (limit := each.limit(self)) is not None)


GOALS: Final[Mapping[str, Goal]] = {
    "save": Goal("save", min_efficiency=80),
    "balanced": Goal("balanced", min_efficiency=60, min_speedup=2.5),
    "fastest": Goal("fastest"),
}
"""The goals that have a name."""


def interval(value: float, error: float) -> tuple[float, float]:
    """Return the interval whose half-width is `error` [%], symmetric on a log scale; the value alone where that is NaN."""
    width = 1.0 if math.isnan(error) else 1 + error / 100
    return value / width, value * width


def judge(value: float, error: float, least: float) -> Verdict:
    """Return whether a figure with a 95 % interval of half-width `error` [%] reaches `least`; undecided for NaN."""
    low, high = interval(value, error)
    if low >= least:
        return "met"
    return "not met" if high < least else "undecided"


def judge_speedup(configuration: Configuration, figure: float, least: float) -> Verdict:
    """Return whether a figure that is as uncertain as the speedup reaches `least`; undecided where others disturbed it."""
    return "undecided" if configuration.disturbed else judge(figure, configuration.speedup_error, least)


def together(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the verdict on all of several conditions."""
    found = set(verdicts)
    if "not met" in found:
        return "not met"
    return "undecided" if "undecided" in found else "met"


@dataclass(frozen=True, slots=True)
class Standing:
    """How a configuration stands to one constraint of a goal.

    Attributes:
        asked: the constraint: `"speedup ≥ 2.5×"`.
        found: the configuration's figure, with its interval.
        lacking: what the figure lacks, where the constraint does not hold: `"speedup ≥ 2.5× by 0.09×"`.
        reach: figure / threshold, or threshold / figure for an upper limit: from 1 up the constraint holds. NaN where not known.
        verdict: with the interval in mind.
        is_resource: True for what a machine has and time can't make up for.
    """

    asked: str
    found: str
    lacking: str
    reach: float
    verdict: Verdict
    is_resource: bool


def standings(configuration: Configuration, goal: Goal) -> list[Standing]:
    """Return how a configuration stands to each constraint of a goal."""
    return [each.standing(configuration, limit) for each in _CONSTRAINTS if (limit := each.limit(goal)) is not None]


def may_meet(configuration: Configuration, goal: Goal) -> bool:
    """Return whether no figure of a configuration misses a goal; one that is not known doesn't."""
    return not any(each.reach < 1 for each in standings(configuration, goal))


@dataclass(frozen=True, slots=True)
class _Constraint:
    """A kind of constraint: a figure of configurations, its limit in a goal, and how both are written.

    Attributes:
        name: the figure's name.
        sign: `"≥"` where the limit is the least, `"≤"` where it is the most.
        limit: reads the limit from a goal.
        figure: reads the figure from a configuration.
        digits: decimals of the figure.
        unit: its unit, with the space before it.
    """

    name: str
    sign: Literal["≥", "≤"]
    limit: Callable[[Goal], float | None]
    figure: Callable[[Configuration], float]
    digits: int
    unit: str

    def asked(self, limit: float) -> str:
        return f"{self.name} {self.sign} {limit:g}{self.unit}"

    def standing(self, configuration: Configuration, limit: float) -> Standing:
        value, asked, is_least = self.figure(configuration), self.asked(limit), self.sign == "≥"
        # Efficiency is as uncertain as speedup; CPUs are counted and RAM is a maximum, without an interval.
        error = configuration.speedup_error if is_least else NAN
        reach = formulas.ratio(value, limit) if is_least else formulas.ratio(limit, value)
        return Standing(
            asked=asked,
            found="not known" if math.isnan(value) else with_interval(value, error, self.digits, self.unit),
            lacking=f"{asked} by {abs(limit - value):.3g}{' points' if self.unit == ' %' else self.unit}",
            reach=reach,
            verdict=judge_speedup(configuration, reach, 1.0) if is_least else judge(reach, error, 1.0),
            is_resource=not is_least,
        )


_CONSTRAINTS: Final = (
    _Constraint("efficiency", "≥", lambda goal: goal.min_efficiency, lambda each: each.efficiency, 1, " %"),
    _Constraint("speedup", "≥", lambda goal: goal.min_speedup, lambda each: each.speedup, 2, "×"),
    _Constraint("CPUs", "≤", lambda goal: goal.max_cpus, lambda each: each.cpus, 0, ""),
    _Constraint("RAM utilisation", "≤", lambda goal: goal.max_ram_utilisation, lambda each: each.ram_utilisation, 0, " %"),
)


def with_interval(value: float, error: float, digits: int, unit: str) -> str:
    """Return a figure for the reader, with its interval where that is known: `"2.71× (2.60 to 2.82)"`."""
    text = f"{value:.{digits}f}{unit}"
    if not error > 0:
        return text
    low, high = interval(value, error)
    return f"{text} ({low:.{digits}f} to {high:.{digits}f})"


def listed(texts: Iterable[str]) -> str:
    """Return texts as a sentence lists them: `"a, b and c"`; "" for none."""
    *first, last = [*texts] or [""]
    return f"{', '.join(first)} and {last}" if first else last
