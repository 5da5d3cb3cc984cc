"""What the report of one workload is based on: configurations, laws, recommendations and checklist."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rl_scaling_callback.analysis.checklist import Check, checklist
from rl_scaling_callback.analysis.configurations import Configuration, configurations
from rl_scaling_callback.analysis.goals import GOALS, Goal
from rl_scaling_callback.analysis.laws import Laws, Measured, fit_laws
from rl_scaling_callback.analysis.recommendation import Recommendation, recommend
from rl_scaling_callback.analysis.returns import INCOMPARABLE, TimeToReturn
from rl_scaling_callback.analysis.runs import Study
from rl_scaling_callback.core.formulas import NAN
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
    measured = [Measured(c.scale, c.sps, c.own_error) for c in found]
    given = study.baseline
    if given is not None and given.scale not in {c.scale for c in found}:
        measured.append(Measured(given.scale, given.steady.sps, given.steady.error))
    sps, unit = next(((c.baseline_sps, c.unit) for c in found if c.baseline_sps > 0), (NAN, 1))
    baseline = Measured(Scale(1, unit), sps, next((c.own_error for c in found if c.is_baseline), NAN))
    laws = fit_laws(measured, max((run.cores for run in study.runs if run.cores > 0), default=NAN), baseline)
    goals = {goal.name: goal} | {name: other for name, other in GOALS.items() if name != goal.name}
    recommendations = {name: recommend(found, each) for name, each in goals.items()}
    return StudyReport(study, found, laws, recommendations, checklist(recommendations[goal.name], laws, study.gpus))
