"""The report as text: the table of configurations, and what goes with it, for terminals, Markdown and JSON.

The columns are defined once, for these forms and the page.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING, Any, Final

from rl_scaling_callback.analysis.configurations import Configuration
from rl_scaling_callback.analysis.goals import Goal
from rl_scaling_callback.analysis.recommendation import Recommendation
from rl_scaling_callback.analysis.runs import Pace
from rl_scaling_callback.report.report import Forecast, Report, StudyReport

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

UNKNOWN: Final = "–"

_WIDEST: Final = 20.0
"""An interval whose ends are further apart, as a ratio, says nothing."""


def number(value: float, digits: int, unit: str = "") -> str:
    """Return a number with so many decimals and thousands set apart, and its unit; "–" for NaN."""
    return UNKNOWN if math.isnan(value) else f"{value:,.{digits}f}{unit}"


def duration(seconds: float) -> str:
    """Return seconds with two decimals, or three digits where they are few; "–" for NaN."""
    return f"{seconds:.3g}" if 0 < seconds < 0.1 else number(seconds, 2)


def plain(text: str) -> str:
    """Return a text from a run without what could steer a terminal or break a line."""
    return "".join(character if character.isprintable() else " " for character in text)


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
        return text if math.isnan(error) else f"{text} ± {number(error, 1)} %"


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
"""The columns of specification §4, in the reader's order."""


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the report besides the table: a title, a sentence a line, and code to paste."""

    title: str
    lines: tuple[str, ...]
    code: str = ""


def goal_text(goal: Goal) -> str:
    """Return what a goal asks for."""
    return f"the largest speedup with {goal.asks}" if goal.asks else "the largest speedup"


def choice_text(recommendation: Recommendation) -> str:
    """Return what to take, with its figures."""
    choice = recommendation.choice
    if choice is None:
        return "Nothing can be recommended yet"
    return f"Take {choice.scale}: {number(choice.speedup, 2, '×')}, {number(choice.efficiency, 1, ' %')}"


def law_lines(study: StudyReport) -> Iterator[str]:
    """Yield what the laws say: the chosen one with its error, the others, the axes, and where scaling ends."""
    laws = study.laws
    if laws.chosen is None:
        yield f"No law was fitted to {len(study.configurations)} configuration(s)."
    else:
        parameters = ", ".join(f"{name} = {value:.3g}" for name, value in laws.chosen.parameters.items())
        yield f"Chosen law {laws.chosen.name}: {laws.chosen.formula}, with {parameters}."
        yield (
            f"Its leave-one-out error is {number(laws.chosen.mean_error, 1, ' %')} on average "
            f"and {number(laws.chosen.max_error, 1, ' %')} at most."
        )
    others = [f"{fit.name} ({number(fit.mean_error, 1, ' %')})" for fit in laws.fits if fit is not laws.chosen]
    if others:
        yield f"Other laws, with their mean leave-one-out error: {', '.join(others)}."
    for axis in laws.axes:
        limit = f"a limit of {number(axis.limit, 1, '×')}" if axis.limit > 0 else "no limit"
        yield f"Amdahl along {axis.name} alone: serial fraction {number(axis.serial_fraction, 3)}, {limit}."
    low, high = laws.limit
    if low > 0:
        yield f"Limit of the speedup over laws and axes: {number(low, 1)} to {number(high, 1, '×')}."
    for top, fallen in laws.falls_beyond:
        yield f"Throughput falls beyond {top}: {fallen} is slower although its N is larger."
    yield from map(plain, laws.notes)


def interval(low: float, high: float) -> str:
    """Return an interval of speedups; "–" where it is not known, or so wide that it says nothing."""
    return f"{number(low, 2)} to {number(high, 2)}" if high <= _WIDEST * low else UNKNOWN


def forecast_text(study: StudyReport, forecast: Forecast) -> str:
    """Return a forecast in a line."""
    beyond = ", extrapolated beyond twice what was measured" if forecast.extrapolated else ""
    efficiency = number(forecast.efficiency, 1, " %")
    here = interval(forecast.low, forecast.high)
    over_all = interval(*study.span(forecast.scale))
    return f"{forecast.scale}: {number(forecast.speedup, 2, '×')} ({here}; over all laws {over_all}), {efficiency}{beyond}"


def notes(study: StudyReport) -> Iterator[str]:
    """Yield what a reader must know to read the numbers right: what is missing, what ± means, and each run's own note."""
    yield from study.missing()
    found = study.configurations
    known = [c for c in found if not math.isnan(c.sps_error)]
    single = [str(c.scale) for c in known if not c.between_runs]
    if known:
        yield "± is half the width of the 95 % interval; that of a speedup includes the baseline's."
    if single:
        which = "All intervals are" if len(single) == len(known) else f"The intervals of {', '.join(single)} are"
        yield f"{which} from the iterations of one run. Runs of one configuration differ by more: repeat before a close verdict."
    pace = study.study.pace
    if pace is not None:
        yield (
            "All figures are corrected for how fast the machine was in each run, which the learner's update shows: it is the same "
            f"work in all of them. {_effect(pace)}"
        )
    if study.study.timed_iterations:
        yield "An iteration lasts a given time here: compare throughput, not time."
    if not study.study.exclusive_phases:
        yield "Phases overlap in this algorithm, so there is no account of where efficiency goes."
    estimated = [str(c.scale) for c in found if c.losses_estimated]
    if estimated:
        yield f"Serial stepping includes contention for {', '.join(estimated)}: a run with one runner and as many envs would tell."
    if study.study.baseline is not None:
        yield f"Baseline from outside the experiment: {plain(study.study.baseline.source)}."
    for c in found:
        if c.note:
            yield f"{c.scale}: {plain(c.note)}"


def _effect(pace: Pace) -> str:
    if not pace.is_estimated:
        return f"Too few trials were repeated to tell by how much: {pace.slope:g} % for each percent is what is usual."
    differed, now = 100 * pace.measured, 100 * pace.corrected
    return f"Runs of one configuration differed by {differed:.1f} % as measured and by {now:.1f} % corrected (standard deviation)."


def left_out(report: Report) -> Iterator[str]:
    """Yield what is in no study, with the reason."""
    for each in report.experiment.left_out:
        yield f"{plain(each.name)}: {plain(each.reason)}"


def sections(study: StudyReport) -> Iterator[Section]:
    """Yield what goes with the table, the decision first; parts without content are left away."""
    asked = study.recommendation
    decision = [f"{choice_text(asked)}. Goal {asked.verdict}: {goal_text(asked.goal)}.", asked.reason]
    if asked.runner_up is not None:
        decision.append(f"Runner-up: {asked.runner_up_reason or asked.runner_up.scale}")
    if asked.bottleneck:
        decision.append(f"Bottleneck: {asked.bottleneck}")
    if asked.measure_next:
        wanted = ", ".join(f"{scale} (predicted {number(speedup, 2, '×')})" for scale, speedup in asked.measure_next)
        decision.append(f"Measure next: {wanted}")
    others = [
        f"{name}: {choice_text(each)}. Goal {each.verdict}." for name, each in study.recommendations.items() if each is not asked
    ]
    checks = [f"{check.stage}: {check.text} {check.verdict}. {check.evidence}" for check in study.checklist]
    for section in (
        Section(f"Recommendation for goal {asked.goal.name}", tuple(line for line in decision if line), asked.code),
        Section("Other goals", tuple(others)),
        Section("Scaling laws", tuple(law_lines(study))),
        Section("Predictions", tuple(forecast_text(study, each) for each in study.forecasts())),
        Section("Checklist", tuple(checks)),
        Section("Notes", tuple(notes(study))),
    ):
        if section.lines:
            yield section


def table(study: StudyReport, columns: tuple[Column, ...] = COLUMNS) -> Table:
    """Return the table for a terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    chosen = study.recommendation.choice
    for column in columns:
        heading = f"{column.header}\n{column.unit}" if any(c.unit for c in columns) else column.header
        made.add_column(Text(heading), justify="right" if column.numeric else "left", no_wrap=True)
    for c in study.configurations:
        made.add_row(*(Text(plain(column.cell(c))) for column in columns), style="bold" if c is chosen else None)
    return made


def print_report(report: Report, console: Console | None = None) -> None:
    """Print a report to a terminal, standard output by default. A narrow one goes without columns, and says so."""
    from rich.console import Console
    from rich.text import Text

    console = console or Console()

    def show(section: Section) -> None:
        console.print(Text(section.title, style="bold"))
        for line in section.lines:
            console.print(Text(fill(plain(line), console.width, initial_indent="  ", subsequent_indent="  ")))
        if section.code:
            # Not wrapped: this is to be copied.
            console.print(Text(section.code), soft_wrap=True)
        console.print()

    for study in report.studies:
        _print_table(study, console)
        for section in sections(study):
            show(section)
    show(_closing(report))


def print_so_far(report: Report, console: Console | None = None) -> None:
    """Print the tables of a report, and what to take by them: for an experiment that is still running."""
    from rich.console import Console

    console = console or Console()
    for study in report.studies:
        _print_table(study, console)
        console.print(f"So far: {choice_text(study.recommendation)}\n", markup=False)


def _print_table(study: StudyReport, console: Console) -> None:
    from rich.text import Text

    console.print(Text(plain(study.study.title), style="bold underline"))
    columns = COLUMNS
    while console.measure(table(study, columns), options=console.options.update(width=10_000)).maximum > console.width:
        spare = [column for column in columns if column.spare]
        if not spare:
            break
        # What is known of no configuration goes first.
        least = max(spare, key=lambda column: (all(column.cell(c) == UNKNOWN for c in study.configurations), column.spare))
        columns = tuple(column for column in columns if column is not least)
    console.print(table(study, columns))
    if columns != COLUMNS:
        without = ", ".join(column.header for column in COLUMNS if column not in columns)
        console.print(Text(f"Not shown for want of width: {without}\n"))


def to_markdown(report: Report) -> str:
    """Return a report in Markdown (GitHub's flavour, for tables)."""
    lines: list[str] = []

    def add(section: Section, level: str) -> None:
        lines.extend([f"{level} {_escape(section.title)}", "", *(f"- {_escape(line)}" for line in section.lines), ""])
        if section.code:
            lines.extend(["```python", section.code, "```", ""])

    for study in report.studies:
        lines += [f"## {_escape(study.study.title)}", ""]
        lines.append("| " + " | ".join(column.title for column in COLUMNS) + " |")
        lines.append("|" + "|".join("---:" if column.numeric else "---" for column in COLUMNS) + "|")
        lines += ["| " + " | ".join(_escape(column.cell(c)) for column in COLUMNS) + " |" for c in study.configurations]
        lines.append("")
        for section in sections(study):
            add(section, "###")
    add(_closing(report), "##")
    return "\n".join(lines)


def to_json(report: Report) -> str:
    """Return a report in JSON, numbers in full and null for what is not known."""
    document = {
        "provenance": report.provenance,
        "studies": [_study_json(study) for study in report.studies],
        "left_out": [{"name": each.name, "reason": each.reason} for each in report.experiment.left_out],
    }
    text = json.dumps(_without_nan(document), ensure_ascii=False, allow_nan=False, indent=2)
    # Half a surrogate pair is a text for Python and JSON, but can't be written.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _closing(report: Report) -> Section:
    """Return what a report ends with: what was left out, and where it comes from."""
    without = [f"Left out: {line}" for line in left_out(report)]
    nothing = [] if report.studies else ["Nothing to show: no run of this experiment could be read."]
    return Section("Source", (*nothing, *without, *(f"{name}: {plain(text)}" for name, text in report.provenance.items())))


def _escape(text: str) -> str:
    """Return a text that Markdown shows as it is."""
    return "".join(f"\\{character}" if character in "\\`*_[]<>|#" else character for character in plain(text))


def _study_json(study: StudyReport) -> dict[str, Any]:
    laws = study.laws
    return {
        "title": study.study.title,
        "facts": study.study.facts,
        "configurations": [_configuration_json(c) for c in study.configurations],
        "recommendations": {name: _recommendation_json(each) for name, each in study.recommendations.items()},
        "laws": {
            "chosen": laws.chosen.name if laws.chosen else None,
            "limit": laws.limit,
            "fits": [
                {
                    "name": f.name,
                    "formula": f.formula,
                    "parameters": f.parameters,
                    "mean_error": f.mean_error,
                    "max_error": f.max_error,
                }
                for f in laws.fits
            ],
            "axes": [{"name": a.name, "serial_fractions": a.serial_fractions, "limit": a.limit} for a in laws.axes],
            "falls_beyond": [[str(top), str(fallen)] for top, fallen in laws.falls_beyond],
            "predictions": [_forecast_json(study, each) for each in study.forecasts()],
            "notes": laws.notes,
        },
        "checklist": [{"stage": c.stage, "text": c.text, "verdict": c.verdict, "evidence": c.evidence} for c in study.checklist],
        "notes": list(notes(study)),
    }


def _forecast_json(study: StudyReport, forecast: Forecast) -> dict[str, Any]:
    lowest, highest = study.span(forecast.scale)
    return {
        "config": str(forecast.scale),
        "sps": forecast.sps,
        "speedup": forecast.speedup,
        "low": forecast.low,
        "high": forecast.high,
        "lowest": lowest,
        "highest": highest,
        "extrapolated": forecast.extrapolated,
    }


def _configuration_json(configuration: Configuration) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for column in COLUMNS:
        row[column.name] = column.value(configuration)
        if column.error is not None:
            row[f"{column.name}_error"] = column.error(configuration)
    row["between_runs"] = configuration.between_runs
    row["losses"] = configuration.losses
    row["runs"] = [run.name for run in configuration.runs]
    return row


def _recommendation_json(recommendation: Recommendation) -> dict[str, Any]:
    choice, runner_up = recommendation.choice, recommendation.runner_up
    return {
        "asked": goal_text(recommendation.goal),
        "choice": str(choice.scale) if choice else None,
        "verdict": recommendation.verdict,
        "reason": recommendation.reason,
        "runner_up": str(runner_up.scale) if runner_up else None,
        "runner_up_reason": recommendation.runner_up_reason,
        "bottleneck": recommendation.bottleneck,
        "measure_next": [{"config": str(scale), "speedup": speedup} for scale, speedup in recommendation.measure_next],
        "code": recommendation.code,
    }


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_nan(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
