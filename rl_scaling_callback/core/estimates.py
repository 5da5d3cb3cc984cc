"""A robust mean, with its confidence interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from rl_scaling_callback.core.formulas import NAN

Array = npt.NDArray[np.float64]

TRIM: Final = 0.2
"""Share trimmed from each end. Wilcox recommends 20 % as a compromise between efficiency and robustness."""


def student_t(dof: float) -> float:
    """Return the 97.5 % quantile of Student's t with `dof` degrees of freedom; NaN with none.

    A standard error times this is the half-width of a 95 % interval.
    """
    return float(stdtrit(dof, 0.975))


def as_percent(half_width: float) -> float:
    """Return the half-width [%] of an interval that is symmetric on a log scale, where it is given; NaN beyond a factor of e^20."""
    return 100 * math.expm1(half_width) if half_width < 20 else NAN


class Estimate(NamedTuple):
    """A mean, its standard error and the half-width of its 95 % interval; NaN if unknown."""

    mean: float
    error: float
    half_width: float


def trimmed_mean(values: Sequence[float]) -> Estimate:
    """Return the trimmed mean of values, with Tukey and McLaughlin's interval.

    With g values trimmed from each end, the interval is Student's t with n − 2g − 1 degrees of freedom on the standard error
    s / ((1 − 2g/n)·√n), where s is the Winsorised standard deviation. With fewer than five values nothing is trimmed, and this is
    the usual t-interval.

    Args:
        values: independent measurements, any number of them. With one value only the mean is known; with none everything is NaN.

    Source: Tukey and McLaughlin, Sankhyā A 25, 1963; Wilcox, Introduction to Robust Estimation and Hypothesis Testing, 2012.
    """
    n = len(values)
    if n == 0:
        return Estimate(NAN, NAN, NAN)
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    cut = int(TRIM * n)
    mean = float(ordered[cut : n - cut].mean())
    if n == 1:
        return Estimate(mean, NAN, NAN)
    error = float(_winsorised(ordered).std(ddof=1)) / ((1 - 2 * cut / n) * n**0.5)
    return Estimate(mean, error, student_t(n - 2 * cut - 1) * error)


def without_outliers(values: Sequence[float]) -> Array:
    """Return the values with Winsorised outliers, spread so that their standard error is that of `trimmed_mean`."""
    clipped, kept = _winsorised(np.asarray(values, dtype=np.float64)), 1 - 2 * int(TRIM * len(values)) / len(values)
    mean = clipped.mean()
    spread: Array = mean + (clipped - mean) / kept
    return spread


def _winsorised(values: Array) -> Array:
    ordered, cut = np.sort(values), int(TRIM * len(values))
    return np.clip(values, ordered[cut], ordered[len(values) - cut - 1])
