"""The report in a terminal: one screen that ends with the decision by default, everything with `verbose`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Final

from rl_scaling_callback.analysis.configurations import Configuration
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.text import UNKNOWN, counted, printable
from rl_scaling_callback.report.columns import COLUMNS, Column, columns_of
from rl_scaling_callback.report.decisions import choice_text, code_text, verdict_text
from rl_scaling_callback.report.report import Report
from rl_scaling_callback.report.sections import left_out, reasons, sections
from rl_scaling_callback.report.study import StudyReport

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_MOST_LINES: Final = 40
"""Target length of the report of one study, in lines, unless `verbose`."""
_FEWEST_ROWS: Final = 5
_MOST_LEFT_OUT: Final = 3
_MOST_STUDIES: Final = 4


def table(study: StudyReport, columns: Sequence[Column] | None = None, scales: Collection[Scale] | None = None) -> Table:
    """Return the table of configurations for a terminal.

    Args:
        study: the study.
        columns: the columns to show; None for all.
        scales: the configurations to show; None for all.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    chosen = study.recommendation.choice
    columns = columns_of(study.configurations) if columns is None else columns
    for column in columns:
        heading = f"{column.header}\n{column.unit}" if any(c.unit for c in columns) else column.header
        made.add_column(Text(heading), justify="right" if column.numeric else "left", no_wrap=True)
    for c in study.configurations:
        if scales is None or c.scale in scales:
            made.add_row(*(Text(printable(column.cell(c))) for column in columns), style="bold" if c is chosen else None)
    return made


def print_report(report: Report, console: Console | None = None, *, verbose: bool = False) -> None:
    """Print a report to a terminal: for each study the table, followed by the decision.

    Args:
        report: the report to print.
        console: the console to print to; standard output by default. Columns that don't fit are dropped, with a note.
        verbose: whether to print all configurations, laws, predictions, the checklist and notes as well. By default, one study
            takes about 40 lines of 80 columns, or more if its recommendation has many caveats.
    """
    from rich.console import Console

    console = console or Console()
    lacking = [f"Left out: {line}" for line in left_out(report.experiment.left_out)]
    if len(lacking) > _MOST_LEFT_OUT and not verbose:
        lacking[_MOST_LEFT_OUT:] = [f"Left out: {len(lacking) - _MOST_LEFT_OUT} more (--verbose lists them)"]
    if not report.studies:
        lacking.insert(0, "Nothing to show: no run of this experiment could be read.")
    provenance = [f"{name}: {text}" for name, text in report.provenance.items()] if verbose or not report.studies else []
    source = _wrapped([*report.experiment.notes, *lacking, *provenance], console)
    _print([*source, ""] if source else [], console)
    # Those with the most configurations come first.
    several = [study for study in report.studies if len(study.configurations) != 1]
    whole = report.studies if verbose or len(report.studies) == 1 else several[:_MOST_STUDIES]
    for study in whole:
        asked = study.recommendation
        why, verdict = _wrapped(reasons(study), console), _wrapped([verdict_text(asked)], console)
        # Title, table header with its blank lines, and notes on dropped columns and rows.
        taken = 10 + len(why) + (asked.choice is not None) + len(verdict) + len(source)
        _print_table(study, console, len(study.configurations) if verbose else max(_FEWEST_ROWS, _MOST_LINES - taken))
        for section in sections(study) if verbose else ():
            _print([section.title], console, style="bold")
            _print([*_wrapped(section.lines, console, indent="  "), ""], console)
        _print(why, console)
        _print(filter(None, [code_text(asked)]), console)
        _print(verdict, console, style="bold")
        console.print()
    if len(whole) < len(report.studies):
        _print(["Other studies (--verbose shows their tables)" if whole else "Nothing to compare"], console, style="bold underline")
        _print(_wrapped((_in_one_line(study) for study in report.studies if study not in whole), console), console)
        console.print()


def _in_one_line(study: StudyReport) -> str:
    if len(study.configurations) != 1:
        return f"{study.study.title}: {verdict_text(study.recommendation)}"
    (only,) = study.configurations
    sps = next(column for column in COLUMNS if column.name == "sps")
    return f"{study.study.title}: only {only.scale}, {sps.cell(only)} {sps.unit}"


def print_so_far(report: Report, console: Console | None = None) -> None:
    """Print the tables and the current recommendation of an experiment that is still running."""
    from rich.console import Console

    console = console or Console()
    for study in report.studies:
        _print_table(study, console, len(study.configurations))
        console.print(f"So far: {choice_text(study.recommendation)}\n", markup=False)


def _wrapped(texts: Iterable[str], console: Console, indent: str = "") -> list[str]:
    return [
        line
        for text in texts
        for line in wrap(printable(text), console.width, initial_indent=indent, subsequent_indent=f"{indent}  ")
    ]


def _print(lines: Iterable[str], console: Console, style: str = "") -> None:
    from rich.text import Text

    # Code is not wrapped, so that it can be copied.
    for line in lines:
        console.print(Text(line, style), soft_wrap=True)


def _shown(study: StudyReport, most: int) -> set[Scale]:
    """Return the scales of at most `most` rows: the choice, those it is compared with, and the fastest of the others."""
    asked = study.recommendation
    first = [asked.choice, asked.runner_up, *(c for c in study.configurations if c.is_baseline), *asked.peers]
    fastest: Sequence[Configuration] = sorted(study.configurations, key=lambda c: -c.sps if c.sps > 0 else 0.0)
    return set([*dict.fromkeys(c.scale for c in [*first, *fastest] if c)][:most])


def _print_table(study: StudyReport, console: Console, most_rows: int) -> None:
    _print([printable(study.study.title)], console, style="bold underline")
    _print(_wrapped(study.remarks, console), console)
    every = columns = columns_of(study.configurations)
    scales = _shown(study, most_rows)
    while console.measure(table(study, columns), options=console.options.update(width=10_000)).maximum > console.width:
        spare = [column for column in columns if column.spare]
        if not spare:
            break
        # Columns without any value are dropped first.
        least = max(spare, key=lambda column: (all(column.cell(c) == UNKNOWN for c in study.configurations), column.spare))
        columns = tuple(column for column in columns if column is not least)
    console.print(table(study, columns, scales))
    without = [column.header for column in every if column not in columns]
    more = len(study.configurations) - len(scales)
    notes = [f"Columns left out to fit the terminal: {', '.join(without)}"] if without else []
    notes += [f"{counted(more, 'more configuration')} (--verbose shows them)"] if more > 0 else []
    _print([*_wrapped(notes, console), ""] if notes else [], console)
