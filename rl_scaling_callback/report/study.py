"""What the report of one workload is based on: configurations, laws, recommendations and checklist."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rl_scaling_callback.analysis.checklist import Check, checklist
from rl_scaling_callback.analysis.choice import Recommendation, recommend
from rl_scaling_callback.analysis.configurations import Configuration, configurations
from rl_scaling_callback.analysis.goals import GOALS, Goal
from rl_scaling_callback.analysis.laws import Laws, fit_laws
from rl_scaling_callback.analysis.returns import INCOMPARABLE, TimeToReturn
from rl_scaling_callback.analysis.runs import Study
from rl_scaling_callback.core.scale import Scale


@dataclass(frozen=True, slots=True)
class StudyReport:
    """The report of one workload.

    Attributes:
        study: its runs.
        configurations: one for each scale, by N.
        laws: the scaling laws fitted to them.
        recommendations: by name of the goal, the requested goal first.
        checklist: filled in for the requested goal.
    """

    study: Study
    configurations: tuple[Configuration, ...]
    laws: Laws
    recommendations: Mapping[str, Recommendation]
    checklist: tuple[Check, ...]

    @property
    def recommendation(self) -> Recommendation:
        """The recommendation for the requested goal."""
        return next(iter(self.recommendations.values()))

    @property
    def to_return(self) -> TimeToReturn:
        """The time to return of the first configuration; they all share the target."""
        return next((c.to_return for c in self.configurations), INCOMPARABLE)


def study_report(study: Study, goal: Goal, reference: Scale, target_return: float | None = None) -> StudyReport:
    """Return the report of one workload; see `make_report` for the arguments."""
    found = configurations(study, reference, target_return)
    laws = fit_laws(found, study.baseline)
    goals = {goal.name: goal} | {name: other for name, other in GOALS.items() if name != goal.name}
    recommendations = {name: recommend(found, each) for name, each in goals.items()}
    return StudyReport(study, found, laws, recommendations, checklist(recommendations[goal.name], laws, study.gpus))
