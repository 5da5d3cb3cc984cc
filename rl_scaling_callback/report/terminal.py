"""The report in a terminal: one screen that ends with the decision by default, everything with `verbose`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Final

from rl_scaling_callback.core.text import printable
from rl_scaling_callback.report.decisions import code_text, decision_lines, verdict_text
from rl_scaling_callback.report.report import Report
from rl_scaling_callback.report.sections import left_out, remarks, sections
from rl_scaling_callback.report.study import Column, StudyReport, columns_of

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_MAX_LEFT_OUT: Final = 3
_MAX_STUDIES: Final = 4


def print_report(report: Report, console: Console | None = None, *, verbose: bool = False) -> None:
    """Print a report, ending with the recommendation.

    Args:
        report: the report.
        console: where to print; standard output by default. Columns that don't fit are dropped, with a note.
        verbose: whether to print notes, losses by cause, the checklist, the scaling law and facts as well.
    """
    from rich.console import Console

    console = console or Console()
    lacking = [f"Left out: {line}" for line in left_out(report.experiment.left_out)]
    if len(lacking) > _MAX_LEFT_OUT and not verbose:
        lacking[_MAX_LEFT_OUT:] = [f"Left out: {len(lacking) - _MAX_LEFT_OUT} more (--verbose lists them)"]
    if not report.studies:
        lacking.insert(0, "Nothing to show: no run of this experiment could be read.")
    provenance = [f"{name}: {text}" for name, text in report.provenance.items()] if verbose or not report.studies else []
    if about := [*report.experiment.notes, *lacking, *provenance]:
        _print(console, about)
        console.print()
    whole = len(report.studies) if verbose else _MAX_STUDIES  # those with the most configurations come first
    for study in report.studies[:whole]:
        _print_table(study, console)
        for title, lines in sections(study).items() if verbose else ():
            _print(console, [title], style="bold")
            _print(console, lines, indent="  ")
            console.print()
        _print(console, decision_lines(study))
        if code := code_text(study.recommendation):
            console.print(code, markup=False, highlight=False, soft_wrap=True)  # not wrapped, so that it can be copied
        _print(console, [verdict_text(study.recommendation)], style="bold")
        console.print()
    if others := report.studies[whole:]:
        _print(console, ["Other studies (--verbose shows their tables)"], style="bold underline")
        _print(console, [f"{study.study.title}: {verdict_text(study.recommendation)}" for study in others])
        console.print()


def _print(console: Console, texts: Iterable[str], indent: str = "", style: str = "") -> None:
    """Print paragraphs, wrapped with a hanging indent."""
    from rich.text import Text

    for text in texts:
        for line in wrap(printable(text), console.width, initial_indent=indent, subsequent_indent=f"{indent}  "):
            console.print(Text(line, style), soft_wrap=True)


def _print_table(study: StudyReport, console: Console) -> None:
    _print(console, [study.study.title], style="bold underline")
    _print(console, remarks(study))
    every = columns = columns_of(study.configurations)
    while console.measure(_table(study, columns), options=console.options.update(width=10_000)).maximum > console.width:
        spare = [column for column in columns if column.spare]
        if not spare:
            break
        least = max(spare, key=lambda column: column.spare)
        columns = tuple(column for column in columns if column is not least)
    console.print(_table(study, columns))
    if without := ", ".join(column.header for column in every if column not in columns):
        _print(console, [f"Columns left out to fit the terminal: {without}"])
        console.print()


def _table(study: StudyReport, columns: Sequence[Column]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in columns:
        heading = f"{column.header}\n{column.unit}" if any(c.unit for c in columns) else column.header
        made.add_column(Text(heading), justify="left" if column.decimals is None else "right", no_wrap=True)
    for c in study.configurations:
        style = "bold" if c is study.recommendation.choice else None
        made.add_row(*(Text(printable(column.cell(c))) for column in columns), style=style)
    return made
