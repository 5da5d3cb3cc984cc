"""Interference from other trials and programs: which measurements it affected, and which to leave out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from rl_scaling_callback.analysis.runs import Run
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import NOTABLE_CORES

_MIN_OVERLAP_S: Final = 1.0
"""Overlaps up to this long [s] are ignored: results are logged with their time to the second."""


def overlapping(trials: Sequence[tuple[str, Sequence[tuple[float, float]]]]) -> set[int]:
    """Return the indices of the trials that ran at the same time as another one on their host.

    Args:
        trials: the host of each, "" if unknown, and when it ran: begin and end of each spell without a break [s].
    """
    found: set[int] = set()
    latest: dict[str, tuple[float, int]] = {}
    spells = sorted((begin, end, host, index) for index, (host, ran) in enumerate(trials) if host for begin, end in ran)
    for begin, end, host, index in spells:
        last, other = latest.get(host, (begin, index))
        if other != index and min(last, end) - begin > _MIN_OVERLAP_S:
            found |= {index, other}
        if host not in latest or end > last:
            latest[host] = end, index
    return found


def undisturbed(runs: Sequence[Run]) -> list[Run]:
    """Return the runs without those that have a counterpart at the same scale with notably less interference."""
    least: dict[Scale, float] = {}
    for run in runs:
        if not math.isnan(run.others):
            least[run.scale] = min(run.others, least.get(run.scale, math.inf))
    return [run for run in runs if not run.others > least.get(run.scale, math.inf) + NOTABLE_CORES]
