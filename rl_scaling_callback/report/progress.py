"""Progress of a sweep, one line per round."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.text import percent, rounded


class Row(NamedTuple):
    """A configuration in a sweep: speedup [×], half-width of its 95 % interval [%], and why it is no longer measured, if so."""

    scale: Scale
    speedup: float
    error: float
    state: str


class ProgressView(NamedTuple):
    """The state of a sweep: its configurations, the best one so far, the number of rounds, and the maximum time left [s]."""

    rows: Sequence[Row]
    choice: Scale
    rounds: int
    seconds_left: float


def progress_text(view: ProgressView) -> str:
    """Return `"Round 3: 2r×8e leads, 3.41× ± 12 %; 5 of 12 configurations left, at most 8 s left"`."""
    best = next(row for row in view.rows if row.scale == view.choice)
    speedup = rounded(best.speedup, 2, "×") + (f" {percent(best.error)}" if best.error > 0 else "")
    running = sum(row.state == "" for row in view.rows)
    time = f", at most {view.seconds_left:.0f} s left" if view.seconds_left < math.inf else ""
    return f"Round {view.rounds}: {best.scale} leads, {speedup}; {running} of {len(view.rows)} configurations left{time}"
