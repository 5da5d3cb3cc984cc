"""The texts that all report formats share: the columns of the table, and the sections around it."""

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
    answer_text,
    bottleneck_text,
    choice_text,
    code_text,
    evidence_text,
    goal_text,
    question_text,
    reason_text,
    runner_up_text,
)
from rl_scaling_callback.report.notes import left_out_text, notes_text
from rl_scaling_callback.report.report import Report, StudyReport
from rl_scaling_callback.report.text import UNKNOWN, counted, duration, listed, percent, printable, rounded

_MOST_NAMES: Final = 3
"""Maximum number of names to list of what shares a reason."""

_WIDEST: Final = 20.0
"""Intervals whose upper end is more than this many times the lower are not shown: they are too wide to be useful."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table of configurations.

    Attributes:
        name: key in JSON.
        header: title shown to readers.
        unit: unit of the numbers; "" for none.
        value: returns the value of a configuration.
        text: returns the formatted value, without the error.
        error: returns the half-width of the 95 % interval [%]; None for columns without an error.
        spare: drop order in a narrow terminal, highest first; 0 for columns that are always shown.
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
        """True for columns of numbers, which are right-aligned."""
        return self.name not in {"config", "band", "diagnosis"}

    def cell(self, configuration: Configuration) -> str:
        """Return the text of a cell, with the error if known."""
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
    Column("sps", "SPS", "steps/s", lambda c: c.sps, lambda c: rounded(c.sps, 2), lambda c: c.sps_error),
    Column("speedup", "speedup", "×", lambda c: c.speedup, lambda c: rounded(c.speedup, 2), _speedup_error),
    Column("efficiency", "efficiency", "%", lambda c: c.efficiency, lambda c: rounded(c.efficiency, 1)),
    Column("loss", "loss", "% points", lambda c: c.loss, lambda c: rounded(c.loss, 1), spare=5),
    Column("band", "band", "", lambda c: c.band or None, lambda c: c.band or UNKNOWN),
    Column("core_efficiency", "per core", "%", lambda c: c.core_efficiency, lambda c: rounded(c.core_efficiency, 1), spare=4),
    Column("sps_per_cpu", "SPS per CPU", "steps/s", lambda c: c.sps_per_cpu, lambda c: rounded(c.sps_per_cpu, 0), spare=3),
    Column("diagnosis", "main loss", "", lambda c: c.diagnosis or None, lambda c: c.diagnosis.split(";")[0] or UNKNOWN, spare=2),
)
"""The columns, in display order."""


@dataclass(frozen=True, slots=True)
class Section:
    """A section of the report.

    Attributes:
        title: its title.
        lines: its text, one paragraph per line.
        code: code to paste; "" for none.
    """

    title: str
    lines: tuple[str, ...]
    code: str = ""


def ranking_text(study: StudyReport) -> str:
    """Return the configurations in order of throughput; "" if no two are tied within noise."""
    groups = ranking(study.configurations)
    if len(groups) == sum(map(len, groups)):
        return ""
    alike = " > ".join(" = ".join(str(c.scale) for c in group) for group in groups)
    return f"By throughput (= means tied within noise): {alike}"


def law_lines(study: StudyReport) -> Iterator[str]:
    """Yield the findings of the scaling laws: the chosen law with its error, the others, the axes and the limits."""
    laws = study.laws
    if laws.chosen is not None:
        parameters = ", ".join(f"{name} = {value:.3g}" for name, value in laws.chosen.parameters.items())
        yield f"Chosen law {laws.chosen.name}: {laws.chosen.formula}, with {parameters}."
        yield (
            f"Its leave-one-out error is {rounded(laws.chosen.mean_error, 1, ' %')} on average "
            f"and {rounded(laws.chosen.max_error, 1, ' %')} at most."
        )
    others = [f"{fit.name} ({rounded(fit.mean_error, 1, ' %')})" for fit in laws.fits if fit is not laws.chosen]
    if others:
        yield f"{'Other laws' if laws.chosen else 'Laws'} (mean leave-one-out error): {', '.join(others)}."
    for axis in laws.axes:
        limit = f"limit {rounded(axis.limit, 1, '×')}" if axis.limit > 0 else "no limit"
        yield f"Amdahl along {axis.name} alone: serial fraction {rounded(axis.serial_fraction, 3)}, {limit}."
    low, high = laws.limit
    if low > 0:
        yield f"Speedup limit, over all laws and axes: {rounded(low, 1)} to {rounded(high, 1, '×')}."
    for top, fallen in laws.falls_beyond:
        yield f"Throughput falls beyond {top}: {fallen} is slower despite its larger N."
    yield from law_notes(laws)


def law_notes(laws: Laws) -> Iterator[str]:
    """Yield caveats about the laws: what they were not fitted to, and when they predict poorly."""
    if laws.left_out:
        yield f"{counted(laws.left_out, 'configuration')} left out: time unknown."
    if Scale(1, 1) not in laws.fitted_to:
        yield "1r×1e was not measured: serial fractions are unknown, and limits are relative to the predicted 1r×1e."
    best = laws.fits[0] if laws.fits else None
    if best is None:
        yield f"{counted(len(laws.fitted_to), 'configuration')}: a scaling law needs at least {FEWEST}."
    elif laws.chosen is None:
        yield (
            f"No law predicts these configurations: the best, {best.name}, has a mean leave-one-out error of "
            f"{rounded(best.mean_error, 0)} %, above the allowed {LARGEST_ERROR:.0f} %."
        )
    elif not any(fit.solution.law.two_level for fit in laws.fits):
        yield "All configurations lie on one line: predictions off it treat env runners and envs per runner as interchangeable."
    elif laws.chosen is not best:
        yield (
            f"{best.name} has the lowest leave-one-out error ({rounded(best.mean_error, 1)} %); {laws.chosen.name} is simpler and "
            f"within one standard error of it ({rounded(laws.chosen.mean_error, 1)} %)."
        )


def interval_text(low: float, high: float) -> str:
    """Return an interval of speedups; "–" if it is unknown or too wide to be useful."""
    return f"{rounded(low, 2)} to {rounded(high, 2)}" if high <= _WIDEST * low else UNKNOWN


def prediction_text(study: StudyReport, prediction: Prediction) -> str:
    """Return the chosen law's prediction for a configuration, in one line."""
    beyond = ", extrapolated beyond twice the measured range" if prediction.extrapolated else ""
    here, over_all = interval_text(*prediction.speedups), interval_text(*study.laws.span(prediction.scale))
    speedup = f"{rounded(prediction.speedup, 2, '×')} ({here}; all laws: {over_all})"
    return f"{prediction.scale}: {speedup}, {rounded(prediction.efficiency, 1, ' %')}{beyond}"


def notes(study: StudyReport) -> Iterator[str]:
    """Yield what readers need to interpret the numbers: what is missing, what ± means, and the notes of the runs."""
    found = study.configurations
    noise = next((c.noise for c in found if not math.isnan(c.sps_error)), None)
    if noise is not None:
        yield (
            "± is the 95 % interval for a repeat with as many runs: from figure / (1 + ±) to figure × (1 + ±). It covers the noise "
            "within and between runs and, for speedups, that of the baseline."
        )
        yield _differ(noise)
    correction = study.study.correction
    if correction is not None:
        yield (
            "All figures are corrected for the machine's speed in each run, estimated from the learner's update, which is the same "
            f"work in every run. {_effect(correction)}"
        )
    if study.study.timed_iterations:
        yield "Iterations have a fixed duration: compare throughput, not time."
    if study.study.waits_are_known:
        yield "Phases overlap in this algorithm: losses describe how the env runners spent their time, on average."
    elif not study.study.exclusive_phases:
        yield "Phases overlap in this algorithm, so losses can't be attributed to causes."
    estimated = [str(c.scale) for c in found if c.losses_estimated]
    if estimated:
        scales = ", ".join(estimated)
        yield f"Serial stepping includes contention for {scales}: a run of one runner with as many envs separates them."
    if study.study.baseline is not None:
        baseline = study.study.baseline
        origin = (f"{rounded(baseline.steady.sps, 0)} steps/s", baseline.name, notes_text(baseline.notes))
        yield f"No run at the scale of the baseline; its throughput: {printable(', '.join(filter(None, origin)))}."
    for c in found:
        if c.notes:
            yield f"{c.scale}: {printable(notes_text(c.notes))}"


def _differ(noise: Noise) -> str:
    if noise.probed:
        return "Errors of speedups are estimated from rounds of probes."
    percent = f"{100 * math.sqrt(noise.factor) * USUAL_STD:.0f} % (standard deviation)"
    if noise.from_repeats:
        return f"Repeated runs of one configuration differ by {percent}, in addition to the noise within runs."
    return (
        f"No configuration was repeated: runs are assumed to differ by {percent}, as is usual on shared machines, in addition to "
        "the noise within runs. Repeat trials to measure it."
    )


def _effect(correction: SpeedCorrection) -> str:
    if not correction.is_estimated:
        return f"Too few trials were repeated to estimate it: the usual {correction.slope:g} % for each percent is used."
    differed, now = 100 * correction.measured, 100 * correction.corrected
    return (
        f"Runs of one configuration differed by {differed:.1f} % before correction and {now:.1f} % after it (standard deviation)."
    )


def left_out(report: Report) -> Iterator[str]:
    """Yield what was left out, all that share a reason in one line."""
    names: dict[str, list[str]] = {}
    for each in report.experiment.left_out:
        names.setdefault(printable(left_out_text(each)), []).append(printable(each.name))
    for reason, sharing in names.items():
        more = [f"{len(sharing) - _MOST_NAMES} more"] if len(sharing) > _MOST_NAMES else []
        yield f"{listed([*sharing[:_MOST_NAMES], *more])}: {reason}"


def decision(study: StudyReport) -> Section:
    """Return the recommendation for the requested goal: its reasons, alternatives and caveats, and the code to use it."""
    asked = study.recommendation
    lines = [
        f"Goal {asked.goal.name}: {goal_text(asked.goal)}.",
        reason_text(asked),
        ranking_text(study),
        f"Runner-up: {runner_up_text(asked)}" if asked.runner_up else "",
        f"Bottleneck: {bottleneck_text(asked)}" if bottleneck_text(asked) else "",
        f"Measure next: {', '.join(map(suggestion_text, asked.measure_next))}" if asked.measure_next else "",
        f"Other goals: {'; '.join(_other_goals(study))}" if asked.choice else "",
    ]
    return Section("Recommendation", tuple(line for line in lines if line), code_text(asked))


def verdict_text(study: StudyReport) -> str:
    """Return the decision in one line: the configuration to use, and whether it meets the goal."""
    asked = study.recommendation
    return f"{choice_text(asked)}. Goal {asked.goal.name}: {asked.verdict}."


def suggestion_text(prediction: Prediction) -> str:
    """Return a configuration worth measuring, with its predicted speedup if there is a prediction."""
    known = prediction.speedup > 0
    return f"{prediction.scale} (predicted {rounded(prediction.speedup, 2, '×')})" if known else str(prediction.scale)


def _other_goals(study: StudyReport) -> Iterator[str]:
    for name, each in study.recommendations.items():
        if each is not study.recommendation:
            yield f"{name}: {choice_text(each).removeprefix('Use ').lower()} ({each.verdict})"


def details(study: StudyReport) -> Iterator[Section]:
    """Yield the sections behind the recommendation; empty ones are omitted."""
    checks = [f"{each.stage}: {question_text(each)} {answer_text(each)}. {evidence_text(each)}" for each in study.checklist]
    for section in (
        Section("Scaling laws", tuple(law_lines(study))),
        Section("Predictions", tuple(prediction_text(study, each) for each in study.predictions())),
        Section("Checklist", tuple(checks)),
        Section("Notes", tuple(notes(study))),
    ):
        if section.lines:
            yield section


def closing(report: Report) -> Section:
    """Return the last section of a report: what was left out, and the provenance."""
    without = [f"Left out: {line}" for line in left_out(report)]
    nothing = [] if report.studies else ["Nothing to show: no run of this experiment could be read."]
    told = map(printable, report.experiment.notes)
    return Section(
        "Source", (*nothing, *told, *without, *(f"{name}: {printable(text)}" for name, text in report.provenance.items()))
    )
