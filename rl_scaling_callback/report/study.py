"""What the report of one workload is based on: configurations, law, recommendations, checklist; the columns of its table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from rl_scaling_callback.analysis.checklist import Check, checklist
from rl_scaling_callback.analysis.choice import GOALS, Goal, Recommendation, recommend
from rl_scaling_callback.analysis.configurations import Configuration, configurations
from rl_scaling_callback.analysis.laws import Law, axes, fit_law
from rl_scaling_callback.analysis.runs import Study
from rl_scaling_callback.core.formulas import NAN, ratio
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.text import UNKNOWN, percent, rounded


@dataclass(frozen=True, slots=True)
class StudyReport:
    """The report of one workload.

    Attributes:
        study: its runs.
        reference: the scale that speedups were to be relative to.
        configurations: one for each scale, by N.
        law: the scaling law fitted to them; None if there are too few, or it predicts them badly.
        axes: Karp–Flatt's serial fraction along each measured axis, at the largest N.
        recommendations: by name of the goal, the requested goal first.
        checklist: filled in for the requested goal.
    """

    study: Study
    reference: Scale
    configurations: tuple[Configuration, ...]
    law: Law | None
    axes: Mapping[str, float]
    recommendations: Mapping[str, Recommendation]
    checklist: tuple[Check, ...]

    @property
    def recommendation(self) -> Recommendation:
        """The recommendation for the requested goal."""
        return next(iter(self.recommendations.values()))


def study_report(study: Study, goal: Goal, reference: Scale) -> StudyReport:
    """Return the report of one workload; see `make_report` for the arguments."""
    found = configurations(study, reference)
    law = fit_law(found, study.baseline)
    goals = {goal.name: goal} | {name: other for name, other in GOALS.items() if name != goal.name}
    recommendations = {name: recommend(found, each) for name, each in goals.items()}
    checks = tuple(checklist(recommendations[goal.name], law, study.gpus))
    return StudyReport(study, reference, found, law, axes(found, study.baseline), recommendations, checks)


class Column(NamedTuple):
    """A column of the table of configurations.

    Attributes:
        name: its name, for the page.
        header: title shown to readers.
        unit: unit of the numbers; "" for none.
        value: returns the value of a configuration; a text up to its first semicolon is shown, None if unknown.
        decimals: maximum number of decimals; None for texts.
        error: returns the half-width of the 95 % interval [%]; None for columns without an error.
        spare: drop order in a narrow terminal, highest first; 0 for columns that are always shown.
    """

    name: str
    header: str
    unit: str
    value: Callable[[Configuration], float | str | None]
    decimals: int | None = None
    error: Callable[[Configuration], float] | None = None
    spare: int = 0

    def cell(self, configuration: Configuration) -> str:
        """Return the text of a cell, with the error if known."""
        value = self.value(configuration)
        if not isinstance(value, float):
            return UNKNOWN if value is None else str(value).split(";")[0]
        error = self.error(configuration) if self.error and not math.isnan(value) else NAN
        return rounded(value, self.decimals or 0) + ("" if math.isnan(error) else f" {percent(error)}")


# The baseline's speedups are 1 by definition.
COLUMNS: Final = (
    Column("config", "config", "", lambda c: str(c.scale)),
    Column("parallelism", "N", "", lambda c: c.scale.parallelism, 0),
    Column("seconds", "time", "s", lambda c: c.seconds, 6, spare=2),
    Column("sps", "SPS", "steps/s", lambda c: c.sps, 2, lambda c: c.sps_error),
    Column("speedup", "speedup", "×", lambda c: c.speedup, 2, lambda c: NAN if c.is_baseline else c.speedup_error),
    Column("efficiency", "efficiency", "%", lambda c: c.efficiency, 1),
    Column("loss", "loss", "% points", lambda c: c.loss, 1, spare=6),
    Column("band", "band", "", lambda c: c.band or None),
    Column("sps_per_cpu", "SPS per CPU", "steps/s", lambda c: ratio(c.sps, c.cpus), 0, spare=4),
    Column("diagnosis", "main loss", "", lambda c: c.diagnosis or None, spare=3),
    Column("seconds_to_return", "to return", "s", lambda c: c.to_return.seconds, 6, lambda c: c.to_return.error, spare=2),
    Column("steps_to_return", "steps to return", "", lambda c: c.to_return.env_steps, 0, spare=7),
    Column("sooner", "sooner", "×", lambda c: c.sooner, 2, lambda c: NAN if c.is_baseline else c.to_return.sooner_error, spare=1),
)
"""All columns, in display order."""


def columns_of(configurations: Sequence[Configuration]) -> tuple[Column, ...]:
    """Return the columns to show: those that can't be dropped, and those of which a value is known."""
    return tuple(each for each in COLUMNS if not each.spare or any(each.cell(c) != UNKNOWN for c in configurations))
