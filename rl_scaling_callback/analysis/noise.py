"""Where a repeat of a measurement would fall, at 95 %: the one meaning of ± in a report.

The variance of one run's ln SPS is that between runs and that of the mean of its iterations, v = k · (s² + w²). Where runs were
repeated, they tell k: it is estimated from the deviations from each configuration's mean, pooled over configurations, and moderated
by what is usual, as if that had been seen with a few degrees of freedom. Without repeats k is 1. A mean of m runs has the variance
v/m, and so has the mean of m further runs: their difference is within t · √(2v/m) at 95 %. The ratio to a baseline adds that of the
baseline.

Source: Smyth, Stat. Appl. Genet. Mol. Biol. 3(1), 2004 (moderated t); Hahn and Meeker, "Statistical Intervals", 1991, §4.4
(interval for the mean of further observations).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

import numpy as np
from scipy.special import stdtrit

from rl_scaling_callback.analysis.runs import Run, SpeedCorrection
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.steady import Steady

USUAL_STD: Final = 0.092
"""Standard deviation of ln SPS between runs of one configuration, beside what their iterations tell; on shared virtual machines.

The value with which deviations in the three grids under tests/data/grids (237 runs of 60 configurations), less the mean of each
round through a grid, are as large as expected; for each grid alone it is 0.083, 0.093 and 0.104. All of these values are found by
`tests/benchmarks/coverage.py`.
"""

USUAL_LEVEL: Final = 0.07
"""Standard deviation of the means of those rounds: all configurations share it, and so none of their ratios has it."""

USUAL_DOF: Final = 10.0
"""Degrees of freedom that both count for, so that a few more repeats outweigh them.

Smyth's estimator for the three grids, from how much more the variances of whole runs differ between them (0.094, 0.095 and 0.146
squared) than chance explains.
"""

USUAL_LEFT: Final = 0.25
"""Share of the variance that the correction for the machine's speed leaves; on the same grids."""


@dataclass(frozen=True, slots=True)
class Noise:
    """By how much runs of one configuration differ.

    Attributes:
        factor: k, the share of the usual variance; that of the correction for the machine's speed is included.
        dof: degrees of freedom that it is known with.
        from_repeats: True where repeated runs told it.
        probed: True where the error of a run is already that of a repeat of its speedup: probes tell it, not iterations.
        level: variance of ln SPS that all configurations share, and so none of their ratios has: another time, the machine has
            another mean speed, for which figures stand that were corrected for its speed in each run.
    """

    factor: float = 1.0
    dof: float = USUAL_DOF
    from_repeats: bool = False
    probed: bool = False
    level: float = USUAL_LEVEL**2

    @classmethod
    def of(cls, groups: Iterable[Sequence[Run]], correction: SpeedCorrection | None = None) -> Noise:
        """Return what the runs of each configuration tell.

        Args:
            groups: the runs of each configuration.
            correction: what they were corrected for.
        """
        left = 1.0
        if correction is not None:
            left = (correction.corrected / correction.measured) ** 2 if correction.is_estimated else USUAL_LEFT
        squares, dof = 0.0, 0
        known = [runs for same in groups if (runs := [run for run in same if run.steady.sps > 0])]
        rounds = [len(runs) for runs in known]
        for runs in known:
            if len(runs) < 2:
                continue
            weights = np.array([1 / (left * _usual(run.steady)) for run in runs])
            logs = np.log([run.steady.sps for run in runs])
            squares += float(weights @ (logs - np.average(logs, weights=weights)) ** 2)
            dof += len(runs) - 1
        # A slope that was estimated from the runs takes one degree of freedom.
        dof -= correction is not None and correction.is_estimated
        moderated = (USUAL_DOF + squares) / (USUAL_DOF + dof)
        # Of the machine's part, which corrected figures lack, each round of runs has one if the machine drifts slowly.
        machine = (1 - left) * USUAL_STD**2 / fmean(rounds or [1])
        level = moderated * (USUAL_LEVEL**2 + machine)
        return cls(left * moderated, USUAL_DOF + dof, dof > 0, level=level)

    def variance(self, steady: Steady) -> float:
        """Return the variance of ln SPS of one run; NaN where neither its iterations nor repeats tell of it."""
        if self.probed:
            return 0.5 * (math.log1p(steady.error / 100) / float(stdtrit(self.dof, 0.975))) ** 2
        if steady.iterations == 0 or (math.isnan(within(steady)) and not self.from_repeats):
            return NAN
        return self.factor * _usual(steady)

    def error(self, variance: float) -> float:
        """Return the half-width [%] of the 95 % interval in which a repeat of a figure with this variance of its logarithm falls.

        On a log scale the upper end lies further away than the lower one. NaN beyond e^20: the number says nothing then.
        """
        half_width = float(stdtrit(self.dof, 0.975)) * math.sqrt(2 * variance)
        return 100 * math.expm1(half_width) if half_width < 20 else NAN


USUAL: Final = Noise()
"""What is known before any run was repeated."""

PROBED: Final = Noise(dof=math.inf, from_repeats=True, probed=True)
"""What rounds of probes tell."""


def within(steady: Steady) -> float:
    """Return the variance of ln SPS that the iterations of a run tell; NaN where they don't."""
    dof = steady.iterations - 1
    if not (dof >= 1 and math.isfinite(steady.error)):
        return NAN
    return (math.log1p(steady.error / 100) / float(stdtrit(dof, 0.975))) ** 2


def _usual(steady: Steady) -> float:
    of_iterations = within(steady)
    return USUAL_STD**2 + (0.0 if math.isnan(of_iterations) else of_iterations)
