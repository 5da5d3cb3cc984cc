"""Interference from other programs: which measurements to leave out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final, Protocol, TypeVar

from rl_scaling_callback.core.scale import Scale

NOTABLE_CORES: Final = 0.25
"""Ray's own processes use fewer cores than this; a program that uses more affects the measurement."""


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
