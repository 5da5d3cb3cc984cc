"""The report in a terminal."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING

from rl_scaling_callback.report.report import Report, StudyReport
from rl_scaling_callback.report.wording import COLUMNS, UNKNOWN, Column, Section, choice_text, closing, plain, sections

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


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
    show(closing(report))


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
        console.print(Text(f"Columns left out to fit the terminal: {without}\n"))
