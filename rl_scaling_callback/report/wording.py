"""What a report says, in words: the columns of its table, and the sections that go with it. Each form of the report shows these."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from rl_scaling_callback.analysis.configurations import Configuration
from rl_scaling_callback.analysis.laws import FEWEST, LARGEST_ERROR, Laws, Prediction
from rl_scaling_callback.analysis.noise import USUAL_STD, Noise
from rl_scaling_callback.analysis.recommendation import ranking
from rl_scaling_callback.analysis.runs import SpeedCorrection
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.report.decisions import (
    bottleneck_text,
    choice_text,
    code_text,
    evidence_text,
    goal_text,
    question_text,
    reason_text,
    runner_up_text,
)
from rl_scaling_callback.report.report import Report, StudyReport
from rl_scaling_callback.report.text import UNKNOWN, duration, number, percent, plain

_WIDEST: Final = 20.0
"""An interval whose ends are further apart, as a ratio, says nothing."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table of configurations.

    Attributes:
        name: its key in JSON.
        header: its title for readers.
        unit: unit of its numbers; "" for none.
        value: reads it from a configuration.
        text: how a reader sees it, without the error.
        error: reads the half-width of its 95 % interval [%]; None for columns without.
        spare: the higher, the sooner a narrow terminal goes without it; 0 for never.
    """

    name: str
    header: str
    unit: str
    value: Callable[[Configuration], Any]
    text: Callable[[Configuration], str]
    error: Callable[[Configuration], float] | None = None
    spare: int = 0

    @property
    def title(self) -> str:
        """Header and unit."""
        return f"{self.header} [{self.unit}]" if self.unit else self.header

    @property
    def numeric(self) -> bool:
        """True for columns of numbers, which readers want right-aligned."""
        return self.name not in {"config", "band", "diagnosis"}

    def cell(self, configuration: Configuration) -> str:
        """Return the cell as readers see it, with its error where that is known."""
        text = self.text(configuration)
        error = self.error(configuration) if self.error else math.nan
        return text if math.isnan(error) else f"{text} {percent(error)}"


def _speedup_error(configuration: Configuration) -> float:
    # The baseline's speedup is 1 by definition.
    return math.nan if configuration.is_baseline else configuration.speedup_error


COLUMNS: Final[tuple[Column, ...]] = (
    Column("config", "config", "", lambda c: str(c.scale), lambda c: str(c.scale)),
    Column("parallelism", "N", "", lambda c: c.scale.parallelism, lambda c: str(c.scale.parallelism)),
    Column("seconds", "time", "s", lambda c: c.seconds, lambda c: duration(c.seconds), spare=1),
    Column("sps", "SPS", "steps/s", lambda c: c.sps, lambda c: number(c.sps, 0), lambda c: c.sps_error),
    Column("speedup", "speedup", "×", lambda c: c.speedup, lambda c: number(c.speedup, 2), _speedup_error),
    Column("efficiency", "efficiency", "%", lambda c: c.efficiency, lambda c: number(c.efficiency, 1)),
    Column("loss", "loss", "% points", lambda c: c.loss, lambda c: number(c.loss, 1), spare=5),
    Column("band", "band", "", lambda c: c.band or None, lambda c: c.band or UNKNOWN),
    Column("core_efficiency", "per core", "%", lambda c: c.core_efficiency, lambda c: number(c.core_efficiency, 1), spare=4),
    Column("sps_per_cpu", "SPS per CPU", "steps/s", lambda c: c.sps_per_cpu, lambda c: number(c.sps_per_cpu, 0), spare=3),
    Column(
        "diagnosis", "where it goes", "", lambda c: c.diagnosis or None, lambda c: c.diagnosis.split(";")[0] or UNKNOWN, spare=2
    ),
)
"""The columns, in the reader's order."""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the report besides the table: a title, a sentence a line, and code to paste."""

    title: str
    lines: tuple[str, ...]
    code: str = ""


def ranking_text(study: StudyReport) -> str:
    """Return the configurations in order of throughput; "" where noise leaves no doubt of it."""
    groups = ranking(study.configurations)
    if len(groups) == sum(map(len, groups)):
        return ""
    alike = " > ".join(" = ".join(str(c.scale) for c in group) for group in groups)
    return f"By throughput, = where noise can't tell them apart: {alike}"


def law_lines(study: StudyReport) -> Iterator[str]:
    """Yield what the laws say: the chosen one with its error, the others, the axes, and where scaling ends."""
    laws = study.laws
    if not laws.fits:
        yield f"No law was fitted to {len(study.configurations)} configuration(s)."
    elif laws.chosen is not None:
        parameters = ", ".join(f"{name} = {value:.3g}" for name, value in laws.chosen.parameters.items())
        yield f"Chosen law {laws.chosen.name}: {laws.chosen.formula}, with {parameters}."
        yield (
            f"Its leave-one-out error is {number(laws.chosen.mean_error, 1, ' %')} on average "
            f"and {number(laws.chosen.max_error, 1, ' %')} at most."
        )
    others = [f"{fit.name} ({number(fit.mean_error, 1, ' %')})" for fit in laws.fits if fit is not laws.chosen]
    if others:
        yield f"{'Other laws' if laws.chosen else 'Laws'}, with their mean leave-one-out error: {', '.join(others)}."
    for axis in laws.axes:
        limit = f"a limit of {number(axis.limit, 1, '×')}" if axis.limit > 0 else "no limit"
        yield f"Amdahl along {axis.name} alone: serial fraction {number(axis.serial_fraction, 3)}, {limit}."
    low, high = laws.limit
    if low > 0:
        yield f"Limit of the speedup over laws and axes: {number(low, 1)} to {number(high, 1, '×')}."
    for top, fallen in laws.falls_beyond:
        yield f"Throughput falls beyond {top}: {fallen} is slower although its N is larger."
    yield from law_notes(laws)


def law_notes(laws: Laws) -> Iterator[str]:
    """Yield what a reader must know of the laws: what they are not fitted to, and where they say little."""
    if laws.left_out:
        yield f"{laws.left_out} configuration(s) left out: their time is not known."
    if Scale(1, 1) not in laws.fitted_to:
        yield "1r×1e was not measured: no serial fraction along an axis, and limits count from the predicted 1r×1e."
    best = laws.fits[0] if laws.fits else None
    if best is None:
        yield f"{len(laws.fitted_to)} configurations: a scaling law needs at least {FEWEST}."
    elif laws.chosen is None:
        yield (
            f"No law predicts these configurations: the best, {best.name}, has a mean leave-one-out error of "
            f"{number(best.mean_error, 0)} %; {LARGEST_ERROR:.0f} % is the most that is allowed."
        )
    elif not any(fit.solution.law.two_level for fit in laws.fits):
        yield "All configurations lie on one line: what is predicted off it takes env runners and envs per runner for the same."
    elif laws.chosen is not best:
        yield (
            f"{best.name} has the least leave-one-out error ({number(best.mean_error, 1)} %); {laws.chosen.name} is simpler and "
            f"within one standard error of it ({number(laws.chosen.mean_error, 1)} %)."
        )


def interval_text(low: float, high: float) -> str:
    """Return an interval of speedups; "–" where it is not known, or so wide that it says nothing."""
    return f"{number(low, 2)} to {number(high, 2)}" if high <= _WIDEST * low else UNKNOWN


def prediction_text(study: StudyReport, prediction: Prediction) -> str:
    """Return what the chosen law says of a configuration, in a line."""
    beyond = ", extrapolated beyond twice what was measured" if prediction.extrapolated else ""
    here, over_all = interval_text(*prediction.speedups), interval_text(*study.laws.span(prediction.scale))
    speedup = f"{number(prediction.speedup, 2, '×')} ({here}; over all laws {over_all})"
    return f"{prediction.scale}: {speedup}, {number(prediction.efficiency, 1, ' %')}{beyond}"


def notes(study: StudyReport) -> Iterator[str]:
    """Yield what a reader must know to read the numbers right: what is missing, what ± means, and each run's own note."""
    found = study.configurations
    noise = next((c.noise for c in found if not math.isnan(c.sps_error)), None)
    if noise is not None:
        yield (
            "± is where a figure would fall if it was measured again, with as many runs: in 95 % of cases between figure / (1 + ±) "
            "and figure × (1 + ±). It has the noise of the iterations and of the runs, and for a speedup that of the baseline's."
        )
        yield _differ(noise)
    correction = study.study.correction
    if correction is not None:
        yield (
            "All figures are corrected for how fast the machine was in each run, which the learner's update shows: it is the same "
            f"work in all of them. {_effect(correction)}"
        )
    if study.study.timed_iterations:
        yield "An iteration lasts a given time here: compare throughput, not time."
    if study.study.waits_are_known:
        yield "Phases overlap in this algorithm: losses say how the env runners spent their own time, on average."
    elif not study.study.exclusive_phases:
        yield "Phases overlap in this algorithm, so there is no account of where efficiency goes."
    estimated = [str(c.scale) for c in found if c.losses_estimated]
    if estimated:
        yield f"Serial stepping includes contention for {', '.join(estimated)}: a run with one runner and as many envs would tell."
    if study.study.baseline is not None:
        yield f"Baseline from outside the experiment: {plain(study.study.baseline.name)}."
    for c in found:
        if c.note:
            yield f"{c.scale}: {plain(c.note)}"


def _differ(noise: Noise) -> str:
    if noise.probed:
        return "Errors of speedups come from rounds of probes."
    percent = f"{100 * math.sqrt(noise.factor) * USUAL_STD:.0f} % (standard deviation)"
    if noise.from_repeats:
        return f"By the repeated runs, those of one configuration differ by {percent} beside the noise of their iterations."
    return (
        f"No configuration was repeated: runs are taken to differ by {percent} beside the noise of their iterations, as is usual "
        "on shared machines. Repeated runs tell what it is here."
    )


def _effect(correction: SpeedCorrection) -> str:
    if not correction.is_estimated:
        return f"Too few trials were repeated to tell by how much: {correction.slope:g} % for each percent is what is usual."
    differed, now = 100 * correction.measured, 100 * correction.corrected
    return f"Runs of one configuration differed by {differed:.1f} % as measured and by {now:.1f} % corrected (standard deviation)."


def left_out(report: Report) -> Iterator[str]:
    """Yield what is in no study, with the reason."""
    for each in report.experiment.left_out:
        yield f"{plain(each.name)}: {plain(each.reason)}"


def decision(study: StudyReport) -> Section:
    """Return the recommendation for the goal that was asked for: what speaks for it, what else to know, and what to take, last."""
    asked = study.recommendation
    lines = [
        f"Goal {asked.goal.name}: {goal_text(asked.goal)}.",
        reason_text(asked),
        ranking_text(study),
        f"Runner-up: {runner_up_text(asked)}" if asked.runner_up else "",
        f"Bottleneck: {bottleneck_text(asked)}" if bottleneck_text(asked) else "",
        f"Measure next: {', '.join(map(_predicted, asked.measure_next))}" if asked.measure_next else "",
        f"Other goals: {'; '.join(_other_goals(study))}" if asked.choice else "",
    ]
    return Section("Recommendation", tuple(line for line in lines if line), code_text(asked))


def verdict_text(study: StudyReport) -> str:
    """Return the decision in a line: what to take, and whether that meets the goal."""
    asked = study.recommendation
    return f"{choice_text(asked)}. Goal {asked.goal.name}: {asked.verdict}."


def _predicted(prediction: Prediction) -> str:
    return f"{prediction.scale} (predicted {number(prediction.speedup, 2, '×')})"


def _other_goals(study: StudyReport) -> Iterator[str]:
    for name, each in study.recommendations.items():
        if each is not study.recommendation:
            yield f"{name}: {choice_text(each).removeprefix('Take ').lower()} ({each.verdict})"


def details(study: StudyReport) -> Iterator[Section]:
    """Yield what the recommendation rests on; parts without content are left away."""
    checks = [f"{each.stage}: {question_text(each)} {each.verdict}. {evidence_text(each)}" for each in study.checklist]
    for section in (
        Section("Scaling laws", tuple(law_lines(study))),
        Section("Predictions", tuple(prediction_text(study, each) for each in study.predictions())),
        Section("Checklist", tuple(checks)),
        Section("Notes", tuple(notes(study))),
    ):
        if section.lines:
            yield section


def closing(report: Report) -> Section:
    """Return what a report ends with: what was left out, and where it comes from."""
    without = [f"Left out: {line}" for line in left_out(report)]
    nothing = [] if report.studies else ["Nothing to show: no run of this experiment could be read."]
    return Section("Source", (*nothing, *without, *(f"{name}: {plain(text)}" for name, text in report.provenance.items())))
