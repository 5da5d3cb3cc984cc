"""Measurements that other programs got in the way of: which to leave out, and which to do again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final, Protocol, TypeVar

from rl_scaling_callback.core.scale import Scale

NOTABLE_CORES: Final = 0.25
"""Ray's own processes take less than this; a program that takes more changes what a trial measures."""


class Measurement(Protocol):
    """One of a configuration."""

    @property
    def scale(self) -> Scale:
        """The configuration."""

    @property
    def others(self) -> float:
        """Cores that other programs kept busy; NaN where not known."""


M = TypeVar("M", bound=Measurement)


def undisturbed(measurements: Sequence[M]) -> list[M]:
    """Return the measurements without those of which there is one of the same configuration that others disturbed notably less."""
    least = {scale: _least(same) for scale, same in _by_scale(measurements).items()}
    return [each for each in measurements if not each.others > least[each.scale] + NOTABLE_CORES]


def worth_repeating(measurements: Sequence[M]) -> Scale | None:
    """Return a configuration that others disturbed notably more than the least disturbed one; None where there is none.

    What slows all trials alike says little about their differences. A configuration that was disturbed twice is not repeated again:
    the other program is there to stay, or the trial's own envs start it.
    """
    groups = _by_scale(measurements)
    limit = _least(measurements) + NOTABLE_CORES
    disturbed = [same for same in groups.values() if _least(same) > limit]
    if any(len(same) > 1 for same in disturbed):
        return None
    return next((same[0].scale for same in disturbed), None)


def _by_scale(measurements: Sequence[M]) -> dict[Scale, list[M]]:
    groups: dict[Scale, list[M]] = defaultdict(list)
    for each in measurements:
        groups[each.scale].append(each)
    return groups


def _least(measurements: Sequence[Measurement]) -> float:
    return min((each.others for each in measurements if each.others == each.others), default=float("nan"))
