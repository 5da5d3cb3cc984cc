"""The report in a terminal."""

from __future__ import annotations

from textwrap import fill, wrap
from typing import TYPE_CHECKING, Final

from rl_scaling_callback.report.report import Report, StudyReport
from rl_scaling_callback.report.wording import (
    COLUMNS,
    UNKNOWN,
    Column,
    Section,
    choice_text,
    closing,
    decision,
    left_out,
    other_goals,
    plain,
    sections,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_LINES: Final = 40
"""Of a screen, which a decision fits on."""
_MOST_ROWS: Final = 12
_AROUND_ROWS: Final = 6


def table(study: StudyReport, columns: tuple[Column, ...] = COLUMNS, most: int | None = None) -> Table:
    """Return the table for a terminal: of all configurations, or of the choice, the reference and the fastest ones."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    chosen = study.recommendation.choice
    for column in columns:
        heading = f"{column.header}\n{column.unit}" if any(c.unit for c in columns) else column.header
        made.add_column(Text(heading), justify="right" if column.numeric else "left", no_wrap=True)
    first = sorted(study.configurations, key=lambda c: (c is not chosen, not c.is_baseline, -c.sps))[:most]
    for c in (each for each in study.configurations if each in first):
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


def print_decision(report: Report, page: str = "", console: Console | None = None) -> None:
    """Print what a sweep found, the decision last. All there is to say is on the page.

    Args:
        report: of the sweep.
        page: where its page is; "" for nowhere.
        console: standard output by default.
    """
    from rich.console import Console
    from rich.text import Text

    console = console or Console()
    room = _LINES

    def show(text: str, most: int = 2) -> None:
        nonlocal room
        lines = wrap(plain(text), console.width, subsequent_indent="  ", max_lines=most, placeholder=" …")
        room -= len(lines)
        console.print(Text("\n".join(lines)))

    for study in report.studies:
        shown = _print_table(study, console, _MOST_ROWS)
        room -= shown + _AROUND_ROWS
        if len(study.configurations) > shown:
            show(f"{len(study.configurations) - shown} more configurations are on the page.")
    without = list(left_out(report))
    if without:
        show(f"Left out: {without[0]}")
    if len(without) > 1:
        show(f"{len(without) - 1} more are left out.")
    if page:
        console.print(Text(f"Everything else: {page}"), soft_wrap=True)
        room -= 1
    for study in report.studies:
        for line in other_goals(study):
            show(line)
        asked = study.recommendation
        if asked.bottleneck:
            show(f"Bottleneck: {asked.bottleneck}")
        console.print()
        what, why = decision(asked)
        show(what)
        show(why, max(3, room - 1 - len(asked.code.splitlines())))
        if asked.code:
            console.print(Text(asked.code), soft_wrap=True)


def _print_table(study: StudyReport, console: Console, most: int | None = None) -> int:
    """Print the table with its title, and return its number of rows."""
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
    made = table(study, columns, most)
    console.print(made)
    if columns != COLUMNS and most is None:
        without = ", ".join(column.header for column in COLUMNS if column not in columns)
        console.print(Text(f"Columns left out to fit the terminal: {without}\n"))
    return made.row_count
