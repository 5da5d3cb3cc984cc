"""A mean that a few disturbed measurements don't move, with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from scipy.special import stdtrit

from rl_scaling_callback.core.formulas import NAN

TRIM: Final = 0.2
"""Share that is cut off at each end: a fifth is Wilcox's recommendation, a compromise between efficiency and robustness."""


class Estimate(NamedTuple):
    """A mean, its standard error and the half-width of its 95 % interval; NaN where not known."""

    mean: float
    error: float
    half_width: float


def trimmed_mean(values: Sequence[float]) -> Estimate:
    """Return the trimmed mean of values, with Tukey and McLaughlin's interval.

    With g values cut off at each end, the interval is Student's t with n − 2g − 1 degrees of freedom on the Winsorised standard
    deviation, s / ((1 − 2g/n)·√n). Below five values nothing is cut off, and it is the usual t-interval.

    Args:
        values: any number of independent measurements; the half-width is NaN below two, the mean as well below one.

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
    winsorised = np.clip(ordered, ordered[cut], ordered[n - cut - 1])
    error = float(winsorised.std(ddof=1)) / ((1 - 2 * cut / n) * n**0.5)
    return Estimate(mean, error, float(stdtrit(n - 2 * cut - 1, 0.975)) * error)
