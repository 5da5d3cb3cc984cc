"""Time to return: how much sooner a faster configuration learns.

A configuration with a higher throughput may need more env steps: its time to a return is env steps to that return / SPS.

A run stays at a return R from the first iteration on whose mean return, and that of all later ones, is at least R. A curve that
overshoots and falls back has not learned R, so its first crossing doesn't count. R is the highest return at which more than half of
each configuration's runs stay for the last quarter of their time or longer. At a higher one, noise along a plateau would decide
when and whether a run stays; and a single run that collapses must not decide it.

Source: Qiao et al., "Pollux", OSDI 2021 (goodput); Coleman et al., SIGOPS Operating Systems Review 53(1), 2019 (time to accuracy).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Context
from statistics import fmean, median_low, variance
from typing import Final

from rl_scaling_callback.analysis.runs import Iteration, Noise, Run
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.scale import Scale

MIN_RETURNS: Final = 5
"""Minimum number of iterations with a return on each side of a comparison of learning."""

END_OF_RUN: Final = 0.25
"""The share of a run, at its end, over which learning is compared."""

_ROUND_DOWN: Final = Context(prec=3, rounding=ROUND_FLOOR)
"""For R, so that runs stay at the number that readers see."""


@dataclass(frozen=True, slots=True)
class TimeToReturn:
    """The training until a configuration's return stays at a target: geometric means over its runs, NaN if not all of them do.

    Training time is the sum of `time_this_iter_s`, without evaluation if its time is known. Starting, checkpoints, pauses, probes
    and iterations that were repeated after a restore are not part of it; what was trained before the first result that was kept is.

    Attributes:
        target: the return R; NaN if the returns of the study's configurations can't be compared.
        seconds: training time [s], to one iteration.
        env_steps: env steps; NaN if unknown.
        error: half-width of the 95 % interval of `seconds` for a repeat with as many runs and other seeds [%]; NaN if no
            configuration has several runs. Runs of all configurations are taken to vary alike, on a log scale.
        sooner: the baseline's `seconds` / `seconds` [×]; NaN without runs of the baseline.
        sooner_error: the same for `sooner`, if the baseline is repeated as well; 0 for the baseline itself.
    """

    target: float = NAN
    seconds: float = NAN
    env_steps: float = NAN
    error: float = NAN
    sooner: float = NAN
    sooner_error: float = NAN

    @property
    def name(self) -> str:
        """The target for readers: `"return 1,000"`."""
        return f"return {self.target:,.10g}"


INCOMPARABLE: Final = TimeToReturn()
"""The time to return where returns can't be compared."""


def lasting(returns: Sequence[float]) -> list[float]:
    """Return for each iteration the lowest mean return from there on; NaN where the iteration's own is unknown."""
    lowest, found = math.inf, []
    for value in reversed(returns):
        is_known = math.isfinite(value)
        lowest = min(lowest, value) if is_known else lowest
        found.append(lowest if is_known else NAN)
    return found[::-1]


def times_to_return(groups: Mapping[Scale, Sequence[Run]], baseline: Scale | None) -> dict[Scale, TimeToReturn]:
    """Return the time to return of each configuration; empty if their returns can't be compared.

    They can if there are several configurations, each run has enough returns and a known training time, and no run stays at the
    target from its first return on.

    Args:
        groups: the runs of each configuration.
        baseline: the configuration that is the baseline; None if there is none.
    """
    curves = {scale: [_curve(run) for run in runs] for scale, runs in groups.items()}
    every = [curve for several in curves.values() for curve in several]
    if len(groups) < 2 or not all(len(curve) >= MIN_RETURNS for curve in every):
        return {}
    target = _highest(curves.values())
    if any(curve[0].lasting_return >= target for curve in every):
        return {}
    found = {scale: [reached(curve, target) for curve in several] for scale, several in curves.items()}
    seconds = {scale: [math.log(each.elapsed) if each else NAN for each in several] for scale, several in found.items()}
    repeats = [times for times in seconds.values() if len(times) > 1 and not any(map(math.isnan, times))]
    dof = sum(len(times) - 1 for times in repeats)
    spread = sum((len(times) - 1) * variance(times) for times in repeats) / dof if dof else NAN
    noise, theirs = Noise(dof=dof or NAN), seconds.get(baseline, [NAN]) if baseline else [NAN]

    def time_of(scale: Scale) -> TimeToReturn:
        mean, runs = fmean(seconds[scale]), len(seconds[scale])
        if math.isnan(mean):
            return TimeToReturn(target)
        return TimeToReturn(
            target=target,
            seconds=math.exp(mean),
            env_steps=math.exp(fmean(_log(each.lifetime_steps) for each in found[scale] if each)),
            error=noise.error(spread / runs),
            sooner=math.exp(fmean(theirs) - mean),
            sooner_error=0.0 if scale == baseline else noise.error(spread / runs + spread / len(theirs) + 0 * fmean(theirs)),
        )

    return {scale: time_of(scale) for scale in groups}


def _curve(run: Run) -> list[Iteration]:
    """Return the iterations of a run with known returns, or none if its training time is unknown."""
    known = [each for each in run.samples if math.isfinite(each.lasting_return)]
    return known if all(each.elapsed > 0 for each in run.samples) else []


def _highest(configurations: Iterable[Sequence[Sequence[Iteration]]]) -> float:
    """Return the highest return at which more than half of the curves of each configuration stay for their last quarter."""
    stay = [
        [next(each.lasting_return for each in curve if each.elapsed >= (1 - END_OF_RUN) * curve[-1].elapsed) for curve in curves]
        for curves in configurations
    ]
    return float(_ROUND_DOWN.create_decimal(repr(min(map(median_low, stay)))))


def reached(curve: Sequence[Iteration], target: float) -> Iteration | None:
    """Return the iteration from which on a run stays at a return; None if it doesn't."""
    return next((each for each in curve if each.lasting_return >= target), None)


def _log(value: float) -> float:
    return math.log(value) if value > 0 else NAN
