"""Progress of a sweep: a live table in a terminal, otherwise one line per round."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.text import percent, rounded

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


@dataclass(frozen=True, slots=True)
class Row:
    """A configuration in a sweep.

    Attributes:
        scale: the configuration.
        speedup: speedup [×].
        error: half-width of its 95 % interval [%].
        state: "" while it is being measured; otherwise why it no longer is.
    """

    scale: Scale
    speedup: float
    error: float
    state: str


@dataclass(frozen=True, slots=True)
class ProgressView:
    """The state of a sweep.

    Attributes:
        rows: its configurations.
        choice: the best one so far.
        rounds: number of rounds so far.
        seconds_left: maximum time left [s]; infinite without a limit.
    """

    rows: Sequence[Row]
    choice: Scale
    rounds: int
    seconds_left: float


@contextmanager
def following(console: Console) -> Iterator[Callable[[ProgressView], None]]:
    """Yield a function that displays the progress of a sweep."""
    if not console.is_terminal:
        yield lambda view: console.print(_line(view), highlight=False, markup=False, soft_wrap=True)
        return

    from rich.live import Live

    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield lambda view: live.update(_table(view), refresh=True)


def _line(view: ProgressView) -> str:
    best = next(row for row in view.rows if row.scale == view.choice)
    measured = sum(row.state == "" for row in view.rows)
    left = f"{measured} of {len(view.rows)} configurations left{_time(view)}"
    return f"Round {view.rounds}: {best.scale} leads, {_speedup(best)}; {left}"


def _time(view: ProgressView) -> str:
    return f", at most {view.seconds_left:.0f} s left" if view.seconds_left < math.inf else ""


def _speedup(row: Row) -> str:
    return rounded(row.speedup, 2, "×") + (f" {percent(row.error)}" if row.error > 0 else "")


def _table(view: ProgressView) -> Table:
    from rich import box
    from rich.table import Table

    title = f"Round {view.rounds}{_time(view)}"
    table = Table("config", "speedup", "", title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for row in sorted(view.rows, key=lambda row: (row.scale.parallelism, row.scale)):
        leads = row.scale == view.choice
        style = "bold" if leads else "dim" if row.state else ""
        table.add_row(str(row.scale), _speedup(row), "leads" if leads else row.state, style=style)
    return table
