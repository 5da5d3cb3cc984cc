"""What a report says about one workload: configurations, laws, recommendations and checklist."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rl_scaling_callback.analysis.checklist import Check, checklist
from rl_scaling_callback.analysis.choice import Recommendation, recommend
from rl_scaling_callback.analysis.configurations import Configuration, configurations
from rl_scaling_callback.analysis.goals import GOALS, Goal
from rl_scaling_callback.analysis.laws import Laws, fit_laws
from rl_scaling_callback.analysis.returns import INCOMPARABLE, TimeToReturn
from rl_scaling_callback.analysis.runs import Study
from rl_scaling_callback.core.formulas import interval
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
        """The baseline's time to return, or that of the smallest scale if it has no run; they all share the target."""
        return next((c.to_return for c in sorted(self.configurations, key=lambda c: not c.is_baseline)), INCOMPARABLE)

    @property
    def remarks(self) -> tuple[str, ...]:
        """Sentences without which its figures could be misread."""
        return tuple(self._remarks())

    def _remarks(self) -> Iterator[str]:
        found = self.configurations
        if smallest := next((c.scale for c in found if c.is_baseline and c.unit > 1), None):
            yield f"Speedup is relative to {smallest}, the smallest scale measured, and efficiency to its N."
        # Above 100 % by more than the error, and than that of figures with two digits.
        beyond = [c for c in found if interval(c.efficiency, c.speedup_error if c.speedup_error > 2 else 2.0)[0] > 100]
        if beyond:
            scales = ", ".join(f"{c.scale} ({c.efficiency:.0f} %)" for c in beyond)
            yield f"Superlinear: {scales}. Is the work per env step the same, and was the baseline undisturbed?"
        name, is_given = self.to_return.name, self.to_return.is_given
        known = [c.to_return for c in found if c.to_return.seconds > 0]
        if known:
            why = "" if is_given else ", the highest at which all runs stay for the last quarter of their time or longer"
            yield f"Time to {name}: training time until the mean return stays at or above it{why}."
            if all(math.isnan(each.error) for each in known):
                yield "Times to return are those of one run each: other seeds may differ."
        elif is_given:
            yield f"No configuration stays at {name} in all of its runs."

    def predictions(self) -> tuple[Configuration, ...]:
        """Return the chosen law's predictions by N: the gaps in the grid and twice the env runners, up to twice the largest N."""
        if self.laws.chosen is None:
            return ()
        measured = {c.scale for c in self.configurations}
        runners = {scale.num_env_runners for scale in measured}
        wanted = {Scale(r, c.num_envs_per_env_runner) for r in {*runners, 2 * max({1, *runners})} for c in measured} - measured
        near = [scale for scale in wanted if scale.parallelism <= 2 * max(each.parallelism for each in measured)]
        return tuple(map(self.laws.chosen.predict, sorted(near, key=lambda scale: (scale.parallelism, scale))))


def study_report(study: Study, goal: Goal, reference: Scale, target_return: float | None = None) -> StudyReport:
    """Return the report of one workload.

    Args:
        study: its runs.
        goal: the requested goal.
        reference: scale of the baseline.
        target_return: the return of the times to return; None for the highest that all runs reach.
    """
    found = configurations(study, reference, target_return)
    laws = fit_laws(found, study.baseline)
    goals = {goal.name: goal} | {name: other for name, other in GOALS.items() if name != goal.name}
    recommendations = {name: recommend(found, each) for name, each in goals.items()}
    return StudyReport(study, found, laws, recommendations, checklist(recommendations[goal.name], laws, study.gpus))
