"""The content of a report: for each study its configurations, laws, recommendations and checklist."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from html import escape
from typing import Any

from rl_scaling_callback._version import __version__
from rl_scaling_callback.analysis.checklist import Check, checklist
from rl_scaling_callback.analysis.configurations import SINGLE, Configuration, configurations
from rl_scaling_callback.analysis.goals import GOALS, Goal, interval
from rl_scaling_callback.analysis.laws import Laws, Measured, Prediction, Work, fit_laws
from rl_scaling_callback.analysis.recommendation import Recommendation, recommend
from rl_scaling_callback.analysis.runs import Experiment, Study
from rl_scaling_callback.analysis.speed_correction import Correction, correct_speed
from rl_scaling_callback.core import formulas
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
    def remarks(self) -> tuple[str, ...]:
        """Sentences without which its figures could be misread."""
        smallest = next((c.scale for c in self.configurations if c.is_baseline and c.scale.parallelism != round(c.ideal, 6)), None)
        beyond = [f"{c.scale} ({c.efficiency:.0f} %)" for c in self.configurations if _is_superlinear(c)]
        remarks = {
            "Speedup is relative to {}, the smallest scale measured, and efficiency to its N.": str(smallest or ""),
            "Superlinear: {}. Is the work per env step the same, and was the baseline undisturbed?": ", ".join(beyond),
        }
        return tuple(remark.format(about) for remark, about in remarks.items() if about)

    @property
    def baseline_sps(self) -> float:
        """SPS that speedups are relative to [steps/s]; NaN without a baseline."""
        return self.laws.work.baseline_sps

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


@dataclass(frozen=True, slots=True, repr=False)
class Report:
    """The report of an experiment.

    Attributes:
        experiment: the runs that were read, and those left out.
        studies: one for each workload, in the experiment's order.
        provenance: source, time and version, as texts by name.
        config: after a sweep, the `AlgorithmConfig` with the recommended numbers; otherwise None.
        interrupted: True if a sweep was interrupted before it had measured everything.
    """

    experiment: Experiment
    studies: tuple[StudyReport, ...]
    provenance: Mapping[str, str]
    config: Any = None
    interrupted: bool = False

    def __repr__(self) -> str:
        from rl_scaling_callback.report.decisions import choice_text

        choices = [f"{each.study.title}: {choice_text(each.recommendation)}" for each in self.studies]
        return f"<Report: {'; '.join(choices) or 'nothing to show'}>"

    def _repr_html_(self) -> str:
        """Return the page in an iframe, for notebooks."""
        from rl_scaling_callback.report.page import render_page

        return f'<iframe srcdoc="{escape(render_page(self))}" style="width: 100%; height: 40em; border: 0"></iframe>'


def make_report(
    experiment: Experiment | Any,
    goal: str | Goal = "balanced",
    reference: str | Scale = SINGLE,
    made: datetime | None = None,
    *,
    correction: Correction = "repeated",
    choose: Callable[[Goal], Scale | None] | None = None,
) -> Report:
    """Return the report of an experiment.

    Args:
        experiment: the experiment, as read by `read_experiment`, or a DataFrame for it to read.
        goal: the name of one of `GOALS`, or a `Goal`. The report also covers the other goals of `GOALS`.
        reference: scale of the baseline, such as `"1r1e"`.
        made: timestamp of the report; now by default.
        correction: when to correct throughputs for the machine's speed in each run (see `speed_correction`).
        choose: returns the best configuration of the first study for a goal, based on all measurements combined, or None if
            undetermined; by default each configuration is judged by its own figures.

    Raises:
        ExperimentError: if a DataFrame can't be read.
        TypeError: if `experiment` is neither an `Experiment` nor a DataFrame.
        ValueError: if the goal, scale or correction is not allowed.
    """
    if hasattr(experiment, "to_dict"):
        from rl_scaling_callback.experiments import read_experiment

        experiment = read_experiment(experiment)
    if not isinstance(experiment, Experiment):
        raise TypeError(f"experiment is {experiment!r}; allowed is an Experiment: read_experiment(path) returns one")
    goal = goal if isinstance(goal, Goal) else Goal.of(goal)
    reference = reference if isinstance(reference, Scale) else Scale.parse(reference)
    studies = [correct_speed(study, correction) for study in experiment.studies]
    made = made or datetime.now(timezone.utc)
    provenance = {
        "Source": experiment.source,
        "Made": made.strftime("%Y-%m-%d %H:%M %Z").strip(),
        "Made by": f"rl_scaling_callback {__version__}",
    }
    choosers = [choose or _nothing, *(_nothing for _ in studies[1:])]
    reports = (_study_report(study, goal, reference, each) for study, each in zip(studies, choosers, strict=False))
    return Report(experiment, tuple(reports), provenance)


def _is_superlinear(configuration: Configuration) -> bool:
    """Return whether the efficiency is above 100 % by more than its error, and than that of figures with two digits."""
    error = configuration.speedup_error
    low, _ = interval(configuration.efficiency, error if error > 2 else 2.0)
    return low > 100


def _nothing(goal: Goal) -> Scale | None:
    return None


def _study_report(study: Study, goal: Goal, reference: Scale, choose: Callable[[Goal], Scale | None]) -> StudyReport:
    found = configurations(study, reference)
    work = Work(
        env_steps=_env_steps(study, found),
        baseline_sps=next((each.baseline_sps for each in found if each.baseline_sps > 0), NAN),
        baseline_error=next((each.own_error for each in found if each.is_baseline and each.own_error > 0), 0.0),
        unit=next((each.scale.parallelism / each.ideal for each in found if each.ideal > 0), 1.0),
    )
    cores = max((run.cores for run in study.runs if run.cores > 0), default=NAN)
    laws = fit_laws(tuple(_measured(study, found, work.env_steps)), cores, work)
    goals = {goal.name: goal} | {name: other for name, other in GOALS.items() if name != goal.name}
    recommendations = {name: recommend(found, each, laws, choose(each)) for name, each in goals.items()}
    return StudyReport(study, found, laws, recommendations, checklist(found, recommendations[goal.name], laws, study.gpus))


def _env_steps(study: Study, found: Sequence[Configuration]) -> float:
    """Return the mean env steps per iteration of the baseline, or of the first configuration that has any, or 1."""
    of_baseline = [run.steady for c in found if c.is_baseline for run in c.runs]
    given = [study.baseline.steady] if study.baseline else []
    for windows in (of_baseline, given, *([run.steady for run in c.runs] for c in found)):
        steps = formulas.ratio(sum(each.env_steps for each in windows), sum(each.iterations for each in windows))
        if steps > 0:
            return steps
    return 1.0


def _measured(study: Study, found: Sequence[Configuration], env_steps: float) -> Iterator[Measured]:
    """Yield the time that each configuration takes for equal work, including that of a baseline from outside the experiment."""
    for c in found:
        if c.sps > 0:
            yield Measured(c.scale, env_steps / c.sps, c.own_error)
    given = study.baseline
    if given is not None and given.steady.sps > 0 and given.scale not in {c.scale for c in found}:
        yield Measured(given.scale, env_steps / given.steady.sps, given.steady.error)
