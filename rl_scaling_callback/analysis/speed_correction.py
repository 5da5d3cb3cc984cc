"""Corrects throughput for the machine's speed in each run, estimated from the learner's update.

On shared and virtual machines the throughput of one configuration varies between runs by 10 % or more. The time of the learner's
update varies with it, although it does the same work in every configuration. This common variation is due to the machine and is
removed by an analysis of covariance: within each configuration, ln T of the runs is regressed on ln of the learner's time.

Source: Fisher, "Statistical Methods for Research Workers", 4th ed., 1932, §49.1; Lavenberg and Welch, Management Science 27(3),
1981 (control variates).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Literal, get_args

import numpy as np
from scipy.special import stdtrit

from rl_scaling_callback.analysis.fitting import Array
from rl_scaling_callback.analysis.runs import Run, SpeedCorrection, Study, log_counts
from rl_scaling_callback.core.comparison import same_steps
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.steady import Steady

Correction = Literal["repeated", "always", "never"]
CORRECTIONS: Final[tuple[Correction, ...]] = get_args(Correction)
"""When to correct: if repeated runs show by how much; always; never."""

USUAL_SLOPE: Final = 0.95
"""By how many percent a run is slower per percent of its learner's slowdown: 0.92 to 1.00 on three grids (tests/data/grids)."""

_LARGEST_DIFFERENCE: Final = math.log(2)
"""A learner that takes half or twice as long as in other runs does not reflect the machine's speed, which varies by 12 to 16 %."""

_LEAST_DOF: Final = 6
"""Minimum number of degrees of freedom, from repeated runs, to estimate the slope."""

_SURE: Final = 0.99
"""Confidence at which the slope must be above 0, one-sided."""

_STEEPEST: Final = 1.5
"""At most, a run slows down as much as its learner; a slope far above 1 has another cause."""


def correct_speed(study: Study, correction: Correction = "repeated") -> Study:
    """Return the study with its runs corrected to equal machine speed.

    It is unchanged if the learner's time is unknown or its work differs between runs. If repeated runs determine the slope, a trend
    of the learner's time over env runners or envs is attributed to the configurations. Otherwise the usual slope is applied if the
    correction is `always`.

    Args:
        study: runs of one workload.
        correction: one of `CORRECTIONS`.

    Raises:
        ValueError: if the correction is not one of them.
    """
    check_correction(correction)
    runs = study.runs
    learn_s = np.array([learner_seconds(run.steady) for run in runs])
    steps = [run.steady.env_steps / run.steady.iterations for run in runs if run.steady.iterations]
    # Updates on batches of different sizes are different work.
    comparable = all(same_steps(each, steps[0]) for each in steps)
    if correction == "never" or not (len(runs) > 1 and study.exclusive_phases and np.all(learn_s > 0) and comparable):
        return study
    logs = np.log(learn_s)
    trend = np.column_stack((np.ones(len(runs)), _log_counts(runs)))
    inverse = np.linalg.pinv(trend).astype(np.float64)
    slowness = logs - trend @ (inverse @ logs)
    found = _estimate_correction(runs, slowness, inverse)
    if found is None and correction == "always":
        slowness = _slowness(learn_s)
        found = SpeedCorrection(USUAL_SLOPE) if slowness.any() else None
    if found is None:
        return study
    factors = np.exp(-found.slope * slowness)
    corrected = tuple(
        replace(run, steady=_times(run.steady, factor), baseline_sps=run.baseline_sps / factor)
        for run, factor in zip(runs, factors.tolist(), strict=True)
    )
    return replace(study, runs=corrected, correction=found)


def _slowness(learn_s: Array) -> Array:
    """Return how much slower the machine was in each run than on average, as ln, from the learner's times; shape (n,).

    0 if its learner's time does not reflect the machine's speed, such as that of an update that was held up.
    """
    logs = np.log(learn_s)
    usual = np.abs(logs - np.median(logs)) < _LARGEST_DIFFERENCE
    return np.where(usual, logs - logs[usual].mean(), 0.0) if usual.any() else np.zeros(len(logs))


def check_correction(correction: str) -> None:
    """Raise `ValueError` unless it is one of `CORRECTIONS`."""
    if correction not in CORRECTIONS:
        raise ValueError(f"correction is {correction!r}; allowed are {', '.join(CORRECTIONS)}")


def learner_seconds(steady: Steady) -> float:
    """Return the time of the learner's update per env step [s]; NaN if unknown."""
    learn_s = steady.parts.get("learn", NAN)
    return learn_s / steady.env_steps if steady.env_steps > 0 else NAN


def _log_counts(runs: Sequence[Run]) -> Array:
    """Return ln of env runners and of envs per runner, shape (n, 2)."""
    return np.array([log_counts(run.scale) for run in runs])


def _estimate_correction(runs: Sequence[Run], slowness: Array, inverse: Array) -> SpeedCorrection | None:
    """Return the correction if its slope within configurations is significantly above 0; otherwise None.

    Args:
        runs: the runs.
        slowness: ln of each run's learner time with the trend removed, shape (n,).
        inverse: pseudo-inverse of the trend's design matrix, shape (3, n).
    """
    groups: dict[object, list[int]] = defaultdict(list)
    for index, run in enumerate(runs):
        groups[run.scale].append(index)
    dof = len(runs) - len(groups)
    if dof < _LEAST_DOF:
        return None
    x, y = slowness.copy(), -np.log([run.steady.sps for run in runs])
    for same in groups.values():
        x[same] -= x[same].mean()
        y[same] -= y[same].mean()
    if not x @ x > 0:
        return None
    slope = float(x @ y / (x @ x))
    left = y - slope * x
    variance = float(left @ left) / (dof - 1)
    if not float(stdtrit(dof - 1, _SURE)) * math.sqrt(variance / float(x @ x)) < slope < _STEEPEST:
        return None
    # A trend attributed to the configurations may still be due to the machine, by chance.
    by_chance = slope**2 * float(slowness @ slowness) / (len(runs) - len(inverse)) * (inverse @ inverse.T)
    centre = _log_counts(runs).mean(axis=0)
    return SpeedCorrection(
        slope=slope,
        measured=math.sqrt(float(y @ y) / dof),
        corrected=math.sqrt(variance),
        centre=(float(centre[0]), float(centre[1])),
        trend=(float(by_chance[1, 1]), float(by_chance[1, 2]), float(by_chance[2, 2])),
    )


def _times(steady: Steady, factor: float) -> Steady:
    """Return a window whose iterations took `factor` times as long."""
    return replace(
        steady,
        sps=steady.sps / factor,
        seconds=steady.seconds * factor,
        parts={name: seconds * factor for name, seconds in steady.parts.items()},
    )
