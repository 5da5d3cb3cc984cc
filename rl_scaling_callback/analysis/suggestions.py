"""Which configurations are worth measuring next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from rl_scaling_callback.analysis.configurations import Configuration
from rl_scaling_callback.analysis.goals import Goal, may_meet
from rl_scaling_callback.analysis.laws import Laws, Prediction
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.scale import Scale

_MOST: Final = 3
"""Maximum number of suggestions: a batch worth measuring before the law is refitted."""


def worth_measuring(known: Sequence[Configuration], choice: Configuration, goal: Goal, laws: Laws | None) -> tuple[Prediction, ...]:
    """Return predictions for up to three configurations that are likely better than the choice, best first.

    They lie between and beyond the measured ones, as far as the chosen law predicts without extrapolating, are predicted to meet
    the goal and need no more CPUs than available. Without a law that predicts throughput, they are the choice doubled along each
    axis on which nothing larger was measured, with NaN speedups.

    Args:
        known: the measured configurations.
        choice: the recommended one.
        goal: the goal.
        laws: the laws fitted to the measurements.
    """
    measured = {each.scale for each in known}
    if laws is None or laws.chosen is None or math.isnan(laws.work.env_steps):
        promising = [Prediction(scale) for scale in _doubled(choice.scale, measured)]
    else:
        # If the choice misses the goal, anything that meets it is better. A gain within the law's error is not worth measuring.
        to_beat = choice.sps * (1 + laws.chosen.mean_error / 100) if may_meet(choice, goal) else 0.0
        predictions = [laws.chosen.predict(scale) for scale in _between_and_beyond(measured)]
        promising = [each for each in predictions if not each.extrapolated and each.sps > to_beat]
        promising.sort(key=lambda each: -each.sps)
    # Assume as many CPUs per env runner as in the choice.
    runners = choice.scale.num_env_runners
    for_a_runner = (choice.cpus - 1) / runners if runners else 1.0
    most_cpus = _most_cpus(known)

    def fits(prediction: Prediction) -> bool:
        cpus = 1 + for_a_runner * prediction.scale.num_env_runners
        figures = {"efficiency": prediction.efficiency, "speedup": prediction.speedup, "cpus": cpus}
        return cpus <= most_cpus and not any(limit.reach(figures.get(limit.figure, NAN)) < 1 for limit in goal.limits)

    return tuple(each for each in promising if fits(each))[:_MOST]


def _most_cpus(known: Sequence[Configuration]) -> float:
    """Return the CPUs available to a trial: the cores, or the most that a trial has used; infinite if unknown."""
    cores = [run.cores for each in known for run in each.runs if run.cores > 0]
    return max([*cores, *(each.cpus for each in known)]) if cores else math.inf


def _doubled(scale: Scale, measured: set[Scale]) -> list[Scale]:
    """Return the doublings of a scale along each axis on which nothing larger was measured."""
    runners, envs = scale.num_env_runners, scale.num_envs_per_env_runner
    doubled = []
    if runners == max(each.num_env_runners for each in measured):
        doubled.append(Scale(max(1, 2 * runners), envs))
    if envs == max(each.num_envs_per_env_runner for each in measured):
        doubled.append(Scale(runners, 2 * envs))
    return doubled


def _between_and_beyond(measured: set[Scale]) -> list[Scale]:
    """Return the scales of the measured grid, refined and doubled, that were not measured."""
    runners = _refined({each.num_env_runners for each in measured})
    envs = _refined({each.num_envs_per_env_runner for each in measured})
    return [scale for r in runners for e in envs if (scale := Scale(r, e)) not in measured]


def _refined(counts: set[int]) -> list[int]:
    """Return counts with their doubles and the middles between neighbours."""
    middles = {(low + high) // 2 for low, high in pairwise(sorted(counts))}
    return sorted(counts | middles | {max(1, 2 * each) for each in counts})
