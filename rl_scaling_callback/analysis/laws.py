"""The scaling law, which predicts configurations that were not measured, with intervals; and the limits of scaling along an axis.

With r env runners and e envs per runner, the time per env step is T = a + b/r + (c + d√(2 ln r))/(re) + f(r − 1)/e: serial time,
time that env runners share, time that envs share, stragglers (the slowest of r env runners takes longer than their mean by about
√(2 ln r) standard deviations), and contention for cores and memory. Coefficients ≥ 0 are found by nonnegative least squares of the
relative errors T̂/T − 1, which leaves out terms that the data don't need. The intervals follow from the leave-one-out errors.

Source: Amdahl, AFIPS 1967; Gunther, "Guerrilla Capacity Planning", 2007 (throughput that falls); Venkataraman et al. (Ernest), NSDI
2016 (laws linear in their coefficients).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Final, NamedTuple

import numpy as np
from scipy.optimize import nnls

from rl_scaling_callback.analysis.configurations import Configuration
from rl_scaling_callback.analysis.runs import Run
from rl_scaling_callback.core import formulas
from rl_scaling_callback.core.estimates import Array, as_percent, student_t
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.scale import REFERENCE_SCALE, Scale
from rl_scaling_callback.core.steady import Steady

FORMULA: Final = "T = a + b/r + (c + d√(2 ln r))/(re) + f(r − 1)/e"

MIN_CONFIGURATIONS: Final = 4
"""Minimum number of configurations to fit the law, with different numbers of env runners."""

MAX_LAW_ERROR: Final = 20.0
"""Maximum mean leave-one-out error [%] of a law used for predictions, as in Ernest."""


class Law(NamedTuple):
    """The law fitted to measured configurations.

    Attributes:
        coefficients: its coefficients by the letter in `FORMULA` [µs per env step].
        errors: leave-one-out error of each configuration [%].
        width: half-width of the 95 % interval of ln T for a new measurement; NaN if unknown.
        cores: logical cores, beyond which more env runners are taken to gain nothing, as none were measured; infinite otherwise.
        reference: the baseline, or else a configuration that was compared with it; None if there is none.
    """

    coefficients: Mapping[str, float]
    errors: Sequence[float]
    width: float
    cores: float
    reference: Configuration | None

    @property
    def mean_error(self) -> float:
        """Mean leave-one-out error [%]."""
        return float(np.mean(self.errors))

    def predict(self, scale: Scale) -> Configuration:
        """Return the configuration as predicted, with the half-widths of the 95 % intervals for a measurement of it."""
        r, e = min(scale.samplers, self.cores), scale.num_envs_per_env_runner
        terms = _terms(np.array(float(r)), np.array(float(e)))
        sps = formulas.ratio(1e6, float(terms @ [*self.coefficients.values()]))
        predicted = Configuration(scale=scale, steady=Steady(sps), sps_error=as_percent(self.width), cpus=scale.cpus)
        if (reference := self.reference) is None:
            return predicted
        of_baseline = math.log1p(reference.relative_error / 100) if reference.is_baseline and reference.relative_error > 0 else 0.0
        error = as_percent(math.hypot(self.width, of_baseline))
        speedup = formulas.speedup(sps, reference.baseline_sps)
        return replace(predicted, speedup=speedup, speedup_error=error, unit=reference.unit)


def fit_law(found: Sequence[Configuration], given: Run | None = None) -> Law | None:
    """Return the law fitted to the configurations of a study; None if they are too few, or it predicts them badly.

    Args:
        found: the configurations, with or without 1r×1e; those of unknown throughput are ignored.
        given: the baseline from outside the experiment.
    """
    known = _throughputs(found, given)
    t = np.array([1e6 / sps for sps in known.values()])
    r = np.array([float(scale.samplers) for scale in known])
    e = np.array([float(scale.num_envs_per_env_runner) for scale in known])
    if len(known) < MIN_CONFIGURATIONS or len(np.unique(r)) == 1:
        return None
    left_out = np.array([row @ _coefficients(*np.delete((r, e, t), i, axis=1)) for i, row in enumerate(_terms(r, e))])
    logs = np.log(np.maximum(left_out / t, 1e-9))
    width = student_t(len(t) - 1) * math.sqrt(float(np.mean(logs**2)))
    # From the median error, which is that of a difference between two measurements, with twice the variance.
    errors = [math.log1p(each.relative_error / 100) for each in found if 0 <= each.relative_error < math.inf]
    noise = median(errors or [0.0]) / math.sqrt(2)
    cores = max((run.cores for each in found for run in each.runs if run.cores > 0), default=NAN)
    compared = sorted((each for each in found if each.speedup > 0), key=lambda each: not each.is_baseline)
    law = Law(
        coefficients=dict(zip("abcdf", _coefficients(r, e, t).tolist(), strict=True)),
        errors=(100 * np.abs(left_out / t - 1)).tolist(),
        width=max(width, noise),
        cores=cores if r.max() <= cores else math.inf,
        reference=compared[0] if compared else None,
    )
    return law if law.mean_error <= MAX_LAW_ERROR else None


def axes(found: Sequence[Configuration], given: Run | None = None) -> dict[str, float]:
    """Return Karp–Flatt's serial fraction along each measured axis, at its largest N: env runners of one env, envs of one runner.

    Without 1r×1e, there are none. For the arguments, see `fit_law`.
    """
    known = _throughputs(found, given)
    on_axis = {
        "env runners": [scale for scale in known if scale.num_envs_per_env_runner == 1],
        "envs per runner": [scale for scale in known if scale.samplers == 1],
    }
    largest = {
        name: max(scales, key=lambda scale: (scale.parallelism, scale.num_env_runners), default=REFERENCE_SCALE)
        for name, scales in on_axis.items()
    }
    return {
        name: formulas.serial_fraction(formulas.speedup(known[scale], known[REFERENCE_SCALE]), scale.parallelism)
        for name, scale in largest.items()
        if scale.parallelism > 1 and REFERENCE_SCALE in known
    }


def _throughputs(found: Sequence[Configuration], given: Run | None) -> dict[Scale, float]:
    """Return the known throughputs of the configurations and the given baseline [steps/s]."""
    measured = {each.scale: each.sps for each in found}
    if given is not None:
        measured.setdefault(given.scale, given.steady.sps)
    return {scale: sps for scale, sps in sorted(measured.items()) if sps > 0}


def _terms(r: Array, e: Array) -> Array:
    """Return the terms of the law, shape (…, terms)."""
    return np.stack([np.ones_like(r), 1 / r, 1 / (r * e), np.sqrt(2 * np.log(r)) / (r * e), (r - 1) / e], axis=-1)


def _coefficients(r: Array, e: Array, t: Array) -> Array:
    """Return the coefficients that minimise the relative errors of t, shape (terms,)."""
    rows = _terms(r, e) / t[:, None]
    if len(np.unique(r)) < 3:  # They can't tell contention, which grows with r, from stragglers.
        rows[:, -1] = 0
    # Normalise columns: terms such as r − 1 and 1/N may differ by many orders of magnitude.
    lengths = np.linalg.norm(rows, axis=0)
    lengths[lengths == 0] = 1
    values: Array = nnls(rows / lengths, np.ones_like(t))[0] / lengths
    return values
