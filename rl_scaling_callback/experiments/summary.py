"""Summarises the iterations of a run, for folders and tables alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from rl_scaling_callback.analysis.returns import lasting
from rl_scaling_callback.analysis.runs import Iteration, Run
from rl_scaling_callback.core.attribution import RECORDED
from rl_scaling_callback.core.formulas import NAN, mean_of_known
from rl_scaling_callback.core.steady import SteadyRule, SteadyWindow

_MAX_SAMPLES: Final = 300
"""Maximum number of iterations of a run to keep for figures."""

_FIRST_SAMPLES: Final = 50
"""Number of iterations to keep at the start, which includes warm-up; later ones are thinned."""


def summarise(iterations: Sequence[Iteration], rule: SteadyRule, *, learns_after: float = 0.0, **known: Any) -> Run:
    """Return the summary of a run.

    Args:
        iterations: its iterations in order.
        rule: the rule for warm-up and steady state.
        learns_after: env steps sampled before learning starts.
        known: further fields of `Run`, such as name, scale and notes.
    """
    window = SteadyWindow(rule, learns_after=learns_after)
    # If one iteration lacks parts, their sums are unknown.
    unknown = dict.fromkeys(RECORDED, NAN) if any(each.parts for each in iterations) else {}
    measured: list[Iteration] = []
    samples: list[Iteration] = []
    kept = _kept(len(iterations))
    lowest = lasting([each.episode_return for each in iterations])
    for index, each in enumerate(iterations):
        parts = unknown if each.parts is None else dict(zip(RECORDED, each.parts, strict=True))
        if window.add(each.env_steps, each.seconds, parts, since_restore=each.since_restore):
            measured.append(each)
        if index in kept and each.env_steps >= 0 and each.seconds > 0:
            samples.append(each._replace(lasting_return=lowest[index]))
    return Run(
        steady=window.read(),
        cpu_utilisation=mean_of_known(each.cpu_utilisation for each in measured),
        ram_utilisation=max(_known(each.ram_utilisation for each in measured), default=NAN),
        vram_utilisation=max(_known(each.vram_utilisation for each in measured), default=NAN),
        exclusive=min(_known(each.exclusive for each in measured), default=NAN),
        others=mean_of_known(each.others for each in measured),
        samples=tuple(samples),
        **known,
    )


def _kept(count: int) -> set[int]:
    """Return the indices of the iterations to keep for figures: the first ones, and the rest evenly spaced up to the last."""
    rest = _MAX_SAMPLES - _FIRST_SAMPLES
    evenly = ((count - _FIRST_SAMPLES) * step // rest + _FIRST_SAMPLES - 1 for step in range(1, rest + 1))
    return {*range(_FIRST_SAMPLES), *evenly} if count > _MAX_SAMPLES else {*range(count)}


def _known(values: Iterable[float]) -> list[float]:
    return [value for value in values if value == value]
