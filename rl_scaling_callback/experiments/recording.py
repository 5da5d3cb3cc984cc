"""From the iterations of a run to its record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from rl_scaling_callback.analysis.runs import Run, Sample
from rl_scaling_callback.core.attribution import RECORDED
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.steady import SteadyRule, SteadyWindow

_MOST_SAMPLES: Final = 300
_FIRST_SAMPLES: Final = 50


class Entry(NamedTuple):
    """One iteration of a run, as logged. There may be a million: a named tuple is made several times faster than a dataclass.

    Attributes:
        iteration: its number, from 1.
        env_steps: env steps sampled in it; NaN where not known.
        seconds: its duration, evaluation left out where known; NaN where not known.
        parts: seconds of each of `attribution.RECORDED`; None where they were not measured.
        since_restore: its number since the trial was started or restored; NaN where not known.
        exclusive: 1.0 when no other trial ran beside it, 0.0 when one did, NaN where not known.
        others: cores that other programs kept busy; NaN where not known.
        healthy: env runners that RLlib held for healthy; NaN where not known.
        cpu_utilisation: of its node [%]; NaN where not known.
        ram_utilisation: of its node [%]; NaN where not known.
        vram_utilisation: of its fullest GPU [%]; NaN where not known.
        episode_return: mean return of the episodes that ended in it; NaN where not known.
        lifetime_steps: env steps sampled up to its end; NaN where not known.
    """

    iteration: int
    env_steps: float
    seconds: float
    parts: tuple[float, ...] | None = None
    since_restore: float = NAN
    exclusive: float = NAN
    others: float = NAN
    healthy: float = NAN
    cpu_utilisation: float = NAN
    ram_utilisation: float = NAN
    vram_utilisation: float = NAN
    episode_return: float = NAN
    lifetime_steps: float = NAN


def sum_up(entries: Sequence[Entry], rule: SteadyRule, *, learns_after: float = 0.0, **known: Any) -> Run:
    """Return the record of a run.

    Args:
        entries: its iterations in order.
        rule: when it counts as warm and steady.
        learns_after: env steps that are sampled before learning starts.
        known: further fields of `Run`: its name, scale, note and so on.
    """
    window = SteadyWindow(rule, learns_after=learns_after)
    # One iteration without parts makes their sums unknown: a smaller sum would be wrong.
    unknown = dict.fromkeys(RECORDED, NAN) if any(entry.parts for entry in entries) else {}
    measured: list[Entry] = []
    samples: list[Sample] = []
    kept = _kept(len(entries))
    for index, entry in enumerate(entries):
        parts = unknown if entry.parts is None else dict(zip(RECORDED, entry.parts, strict=True))
        counts = window.add(entry.env_steps, entry.seconds, parts, since_restore=entry.since_restore)
        if counts:
            measured.append(entry)
        if index in kept and entry.env_steps >= 0 and entry.seconds > 0:
            samples.append(
                Sample(entry.iteration, entry.env_steps, entry.seconds, counts, entry.episode_return, entry.lifetime_steps)
            )
    return Run(
        steady=window.read(),
        cpu_utilisation=_mean([entry.cpu_utilisation for entry in measured]),
        ram_utilisation=max(_known([entry.ram_utilisation for entry in measured]), default=NAN),
        vram_utilisation=max(_known([entry.vram_utilisation for entry in measured]), default=NAN),
        exclusive=min(_known([entry.exclusive for entry in measured]), default=NAN),
        others=_mean([entry.others for entry in measured]),
        samples=tuple(samples),
        **known,
    )


def _kept(count: int) -> set[int]:
    """Return the indices of the iterations to keep for pictures: all of few; of many the first, and the rest evenly to the last."""
    if count <= _MOST_SAMPLES:
        return set(range(count))
    rest = _MOST_SAMPLES - _FIRST_SAMPLES
    evenly = ((count - _FIRST_SAMPLES) * step // rest + _FIRST_SAMPLES - 1 for step in range(1, rest + 1))
    return {*range(_FIRST_SAMPLES), *evenly}


def _known(values: Sequence[float]) -> list[float]:
    return [value for value in values if value == value]


def _mean(values: Sequence[float]) -> float:
    known = _known(values)
    return sum(known) / len(known) if known else NAN
