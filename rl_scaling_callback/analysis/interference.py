"""Interference from other trials and programs: which measurements it affected, and which to leave out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final, Protocol, TypeVar

from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import NOTABLE_CORES

_OVERLAP_S: Final = 1.0
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
        if other != index and min(last, end) - begin > _OVERLAP_S:
            found |= {index, other}
        if host not in latest or end > last:
            latest[host] = end, index
    return found


class Measurement(Protocol):
    """A measurement of a configuration."""

    @property
    def scale(self) -> Scale:
        """The configuration."""

    @property
    def others(self) -> float:
        """Cores that other programs kept busy; NaN if unknown."""


M = TypeVar("M", bound=Measurement)


def undisturbed(measurements: Sequence[M]) -> list[M]:
    """Return the measurements without those that have a counterpart at the same scale with notably less interference."""
    least = {scale: _least(same) for scale, same in _by_scale(measurements).items()}
    return [each for each in measurements if not each.others > least[each.scale] + NOTABLE_CORES]


def _by_scale(measurements: Sequence[M]) -> dict[Scale, list[M]]:
    groups: dict[Scale, list[M]] = defaultdict(list)
    for each in measurements:
        groups[each.scale].append(each)
    return groups


def _least(measurements: Sequence[Measurement]) -> float:
    return min((each.others for each in measurements if each.others == each.others), default=float("nan"))
