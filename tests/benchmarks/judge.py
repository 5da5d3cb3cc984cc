"""Judges a choice by the throughput of every configuration."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rl_scaling_callback.analysis.choice import Goal
from rl_scaling_callback.core.scale import Scale

SINGLE = Scale(1, 1)
HIT = 0.05
"""A choice is a hit if its regret is at most this."""


def shortfall(sps: Mapping[Scale, float], scale: Scale, goal: Goal) -> float:
    """Return the sum of ln(threshold / figure) over the thresholds that a configuration misses."""
    speedup = sps[scale] / sps[SINGLE]
    found = ((goal.min_speedup, speedup), (goal.min_efficiency, 100 * speedup / scale.parallelism))
    return sum(max(0.0, math.log(least / value)) for least, value in found if least is not None)


def best(sps: Mapping[Scale, float], goal: Goal) -> Scale:
    """Return the fastest configuration that meets the goal, or else the closest to it."""
    return max(sps, key=lambda scale: (-shortfall(sps, scale, goal), sps[scale]))


def regret(sps: Mapping[Scale, float], choice: Scale, goal: Goal) -> float:
    """Return how much slower than the best a choice is, or how much further from the goal if it misses it."""
    target = best(sps, goal)
    missing, least = shortfall(sps, choice, goal), shortfall(sps, target, goal)
    # If nothing meets the goal, only the distance from it counts.
    slower = 1 - sps[choice] / sps[target] if least == 0 else 0.0
    return max(0.0, slower, 1 - math.exp(least - missing))
