"""95 % intervals for repeated measurements: the meaning of ± throughout the report.

The variance of one run's ln SPS is v = k · (s² + w²), where s² is the usual variance between runs and w² that of the mean of its
iterations. If runs were repeated, k is estimated from their deviations from each configuration's mean, pooled over configurations
and shrunk towards 1 with a prior worth a few degrees of freedom. Without repeats k is 1. A mean of m runs has the variance v/m, and
so has the mean of m further runs: their difference is within t · √(2v/m) at 95 %. A ratio to a baseline adds the variance of the
baseline.

Source: Smyth, Stat. Appl. Genet. Mol. Biol. 3(1), 2004 (moderated t); Hahn and Meeker, "Statistical Intervals", 1991, §4.4
(interval for the mean of further observations).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.special import stdtrit

from rl_scaling_callback.analysis.runs import Run
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.steady import Steady

USUAL_STD: Final = 0.092
"""Standard deviation of ln SPS between runs of one configuration on shared virtual machines, in excess of the noise within runs.

Calibrated on the three grids under tests/data/grids (237 runs of 60 configurations), less the mean of each round through a grid;
for the individual grids it is 0.083, 0.093 and 0.104. `tests/benchmarks/coverage.py` computes these values.
"""

USUAL_LEVEL: Final = 0.07
"""Standard deviation of the means of those rounds. All configurations share it, so it cancels in their ratios."""

USUAL_DOF: Final = 10.0
"""Degrees of freedom of both priors, so that a few more repeats outweigh them.

Smyth's estimator for the three grids, from how much more the variances of whole runs differ between them (0.094², 0.095² and
0.146²) than expected by chance.
"""


@dataclass(frozen=True, slots=True)
class Noise:
    """The variation between runs of one configuration; by default the usual one, as long as no run was repeated.

    Attributes:
        factor: k, relative to the usual variance.
        dof: its degrees of freedom.
        from_repeats: True if it was estimated from repeated runs.
        swept: True if the error of a run is already that of its throughput relative to the others, as estimated by a sweep.
    """

    factor: float = 1.0
    dof: float = USUAL_DOF
    from_repeats: bool = False
    swept: bool = False

    @classmethod
    def of(cls, groups: Iterable[Sequence[Run]]) -> Noise:
        """Return the noise estimated from the runs of each configuration."""
        squares, dof = 0.0, 0
        for same in groups:
            steady = [run.steady for run in same if run.steady.sps > 0]
            if len(steady) < 2:
                continue
            weights = np.array([1 / _usual(each) for each in steady])
            logs = np.log([each.sps for each in steady])
            squares += float(weights @ (logs - np.average(logs, weights=weights)) ** 2)
            dof += len(steady) - 1
        return cls((USUAL_DOF + squares) / (USUAL_DOF + dof), USUAL_DOF + dof, from_repeats=dof > 0)

    @property
    def level(self) -> float:
        """Variance of ln SPS that all configurations share, so that it cancels in ratios: machines are faster at some times."""
        return self.factor * USUAL_LEVEL**2

    def variance(self, steady: Steady) -> float:
        """Return the variance of ln SPS of one run; NaN if it can be estimated neither from iterations nor from repeats."""
        if self.swept:
            return 0.5 * variance_of(steady.error, self.dof)  # the error is that of a repeat
        is_known = steady.iterations > 0 and (self.from_repeats or within(steady) >= 0)
        return self.factor * _usual(steady) if is_known else NAN

    def error(self, variance: float) -> float:
        """Return the half-width [%] of the 95 % interval for a repeat of a figure, given the variance of its logarithm."""
        return as_percent(float(stdtrit(self.dof, 0.975)) * math.sqrt(2 * variance))


SWEPT: Final = Noise(dof=math.inf, from_repeats=True, swept=True)
"""The noise of figures estimated from the rounds of a sweep."""


def as_percent(half_width: float) -> float:
    """Return the half-width [%] of an interval that is symmetric on a log scale, where it is given; NaN beyond a factor of e^20."""
    return 100 * math.expm1(half_width) if half_width < 20 else NAN


def variance_of(error: float, dof: float = math.inf) -> float:
    """Return the variance of the logarithm of a figure whose 95 % interval has the half-width `error` [%]."""
    return (math.log1p(error / 100) / float(stdtrit(dof, 0.975))) ** 2


def within(steady: Steady) -> float:
    """Return the variance of ln SPS within a run, from its iterations; NaN if unknown."""
    return variance_of(steady.error, steady.iterations - 1) if steady.iterations > 1 else NAN


def _usual(steady: Steady) -> float:
    of_iterations = within(steady)
    return USUAL_STD**2 + (0.0 if math.isnan(of_iterations) else of_iterations)
