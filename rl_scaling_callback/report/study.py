"""What a report says about one workload: configurations, laws, recommendations and checklist."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rl_scaling_callback.analysis.checklist import Check, checklist
from rl_scaling_callback.analysis.configurations import Configuration, configurations
from rl_scaling_callback.analysis.goals import GOALS, Goal
from rl_scaling_callback.analysis.laws import Laws, Measured, Prediction, fit_laws
from rl_scaling_callback.analysis.recommendation import Recommendation, recommend
from rl_scaling_callback.analysis.returns import INCOMPARABLE, TimeToReturn
from rl_scaling_callback.analysis.runs import Study
from rl_scaling_callback.core.formulas import NAN, interval
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
        smallest = next((c.scale for c in self.configurations if c.is_baseline and c.unit > 1), None)
        beyond = [f"{c.scale} ({c.efficiency:.0f} %)" for c in self.configurations if _is_superlinear(c)]
        remarks = {
            "Speedup is relative to {}, the smallest scale measured, and efficiency to its N.": str(smallest or ""),
            "Superlinear: {}. Is the work per env step the same, and was the baseline undisturbed?": ", ".join(beyond),
        }
        return (*(remark.format(about) for remark, about in remarks.items() if about), *self._about_returns())

    def _about_returns(self) -> Iterator[str]:
        """Yield how times to return are defined, if they are known."""
        name, is_given = self.to_return.name, self.to_return.is_given
        known = [c.to_return for c in self.configurations if c.to_return.seconds > 0]
        if known:
            why = "" if is_given else ", the highest at which all runs stay for the last quarter of their time or longer"
            yield f"Time to {name}: training time until the mean return stays at or above it{why}."
            if all(math.isnan(each.error) for each in known):
                yield "Times to return are those of one run each: other seeds may differ."
        elif is_given:
            yield f"No configuration stays at {name} in all of its runs."

    def predictions(self) -> tuple[Prediction, ...]:
        """Return the chosen law's predictions for the gaps in the measured grid and for twice the env runners, by N."""
        fit = self.laws.chosen
        if fit is None:
            return ()
        measured = {c.scale for c in self.configurations}
        runners = {scale.num_env_runners for scale in measured}
        envs = {scale.num_envs_per_env_runner for scale in measured}
        runners.add(2 * max({1, *runners}))
        wanted = {Scale(r, e) for r in runners for e in envs} - measured
        return tuple(fit.predict(scale) for scale in sorted(wanted, key=lambda scale: (scale.parallelism, scale)))


def study_report(study: Study, goal: Goal, reference: Scale, target_return: float | None = None) -> StudyReport:
    """Return the report of one workload.

    Args:
        study: its runs.
        goal: the requested goal.
        reference: scale of the baseline.
        target_return: the return of the times to return; None for the highest that all runs reach.
    """
    found = configurations(study, reference, target_return)
    cores = max((run.cores for run in study.runs if run.cores > 0), default=NAN)
    laws = fit_laws(_measured(study, found), cores, _baseline(found))
    goals = {goal.name: goal} | {name: other for name, other in GOALS.items() if name != goal.name}
    recommendations = {name: recommend(found, each) for name, each in goals.items()}
    return StudyReport(study, found, laws, recommendations, checklist(recommendations[goal.name], laws, study.gpus))


def _baseline(found: Sequence[Configuration]) -> Measured:
    """Return what speedups are relative to, with its error if it was measured."""
    sps, unit = next(((each.baseline_sps, each.unit) for each in found if each.baseline_sps > 0), (NAN, 1))
    return Measured(Scale(1, unit), sps, next((each.own_error for each in found if each.is_baseline), NAN))


def _is_superlinear(configuration: Configuration) -> bool:
    """Return whether the efficiency is above 100 % by more than its error, and than that of figures with two digits."""
    error = configuration.speedup_error
    low, _ = interval(configuration.efficiency, error if error > 2 else 2.0)
    return low > 100


def _measured(study: Study, found: Sequence[Configuration]) -> list[Measured]:
    """Return the throughput of each configuration, including that of a baseline from outside the experiment."""
    measured = [Measured(c.scale, c.sps, c.own_error) for c in found]
    given = study.baseline
    if given is not None and given.scale not in {c.scale for c in found}:
        measured.append(Measured(given.scale, given.steady.sps, given.steady.error))
    return measured
