"""Scaling laws: predictions with intervals for configurations that were not measured, and the limits of scaling.

With r env runners and e envs per runner, a law is the time per env step T as a sum of terms with coefficients ≥ 0, which are found
by nonnegative least squares of the relative errors T̂/T − 1. Among the laws, the leave-one-out error decides, and the intervals
follow from it.

Source: Amdahl, AFIPS 1967; Gunther, "Guerrilla Capacity Planning", 2007 (throughput that falls); Venkataraman et al. (Ernest), NSDI
2016 (laws linear in their coefficients); Hastie, Tibshirani and Friedman, "The Elements of Statistical Learning", 2009, §7.10
(one-standard-error rule).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Final, NamedTuple

import numpy as np
from scipy.optimize import nnls
from scipy.special import stdtrit

from rl_scaling_callback.analysis.configurations import Configuration
from rl_scaling_callback.analysis.runs import Run, as_percent
from rl_scaling_callback.core import formulas
from rl_scaling_callback.core.estimates import Array
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.scale import REFERENCE_SCALE, Scale
from rl_scaling_callback.core.steady import Steady

MIN_CONFIGURATIONS: Final = 4
"""Minimum number of configurations to fit a law, with different numbers of env runners."""

_MIN_FOR_FOUR_TERMS: Final = 6
"""The same for laws of four terms, with three different numbers of env runners."""

MAX_LAW_ERROR: Final = 20.0
"""Maximum mean leave-one-out error [%] of a law used for predictions, as in Ernest."""

_NEGLIGIBLE: Final = 0.05
"""Difference between mean leave-one-out errors [% points] that is too small to matter."""


class Law(NamedTuple):
    """A law: what it describes, its formula, and its fourth term as a function of r and e, None if it has three."""

    name: str
    formula: str
    fourth: Callable[[Array, Array], Array] | None = None

    def terms(self, r: Array, e: Array) -> Array:
        """Return its terms, shape (…, terms): serial time, time that env runners share, time that envs share, and the fourth."""
        more = [] if self.fourth is None else [self.fourth(r, e)]
        return np.stack([np.ones_like(r), 1 / r, 1 / (r * e), *more], axis=-1)


LAWS: Final = (
    Law("Amdahl on two levels", "T = a + b/r + c/(re)"),
    # The slowest of r env runners takes longer than their mean by about √(2 ln r) standard deviations.
    Law("stragglers", "T = a + b/r + (c + d√(2 ln r))/(re)", lambda r, e: np.sqrt(2 * np.log(r)) / (r * e)),
    # Env runners slow each other down on cores and memory that they share.
    Law("contention", "T = a + b/r + c/(re) + d(r − 1)/e", lambda r, e: (r - 1) / e),
)
"""The candidates, simplest first."""


class Fit(NamedTuple):
    """A law fitted to measured configurations.

    Attributes:
        law: the law.
        coefficients: its coefficients by the letter in its formula [µs per env step].
        errors: leave-one-out error of each configuration [%].
        width: half-width of the 95 % interval of ln T for a new measurement; NaN if unknown.
        cores: logical cores, beyond which more env runners are taken to gain nothing, as none were measured; infinite otherwise.
        reference: the baseline, or else a configuration that was compared with it; None if there is none.
    """

    law: Law
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
        terms = self.law.terms(np.array(float(r)), np.array(float(e)))
        sps = formulas.ratio(1e6, float(terms @ [*self.coefficients.values()]))
        predicted = Configuration(scale=scale, steady=Steady(sps), sps_error=as_percent(self.width), cpus=scale.cpus)
        if (reference := self.reference) is None:
            return predicted
        of_baseline = math.log1p(reference.relative_error / 100) if reference.is_baseline and reference.relative_error > 0 else 0.0
        error = as_percent(math.hypot(self.width, of_baseline))
        speedup = formulas.speedup(sps, reference.baseline_sps)
        return replace(predicted, speedup=speedup, speedup_error=error, unit=reference.unit)


class Laws(NamedTuple):
    """The scaling laws fitted to the measured configurations.

    Attributes:
        fits: the fitted laws, lowest leave-one-out error first.
        chosen: the law used for predictions; None if there are too few configurations or no law fits them.
        axes: Karp–Flatt's serial fraction by N along each measured axis: env runners of one env, envs of one runner.
    """

    fits: tuple[Fit, ...]
    chosen: Fit | None
    axes: Mapping[str, Mapping[int, float]]


def fit_laws(found: Sequence[Configuration], given: Run | None = None) -> Laws:
    """Return the laws fitted to the configurations of a study, with or without 1r×1e; those of unknown throughput are ignored.

    Args:
        found: the configurations.
        given: the baseline from outside the experiment.
    """
    measured = {each.scale: each.sps for each in found}
    if given is not None:
        measured.setdefault(given.scale, given.steady.sps)
    known = {scale: sps for scale, sps in sorted(measured.items()) if sps > 0}
    fits = sorted(_fits(known, found), key=lambda fit: fit.mean_error)
    axes = {"env runners": _serial_fractions(known, lambda scale: scale.num_envs_per_env_runner == 1)}
    axes["envs per runner"] = _serial_fractions(known, lambda scale: scale.num_env_runners <= 1)
    return Laws(tuple(fits), _choose(fits), {name: fractions for name, fractions in axes.items() if fractions})


def axis_limit(serial_fractions: Mapping[int, float]) -> float:
    """Return Amdahl's limit of the speedup along an axis, 1 / s at its largest N [×]; NaN if there is none."""
    return formulas.amdahl_limit(serial_fractions[max(serial_fractions)])


def _serial_fractions(known: Mapping[Scale, float], is_on_axis: Callable[[Scale], bool]) -> dict[int, float]:
    """Return Karp–Flatt's serial fractions by N along an axis; empty without 1r×1e."""
    speeds = {scale.parallelism: sps for scale, sps in known.items() if is_on_axis(scale)} if REFERENCE_SCALE in known else {}
    speedups = {n: formulas.speedup(sps, known[REFERENCE_SCALE]) for n, sps in speeds.items() if n > 1}
    return {n: formulas.serial_fraction(speedup, n) for n, speedup in speedups.items()}


def _fits(known: Mapping[Scale, float], found: Sequence[Configuration]) -> list[Fit]:
    t = np.array([1e6 / sps for sps in known.values()])
    r = np.array([float(scale.samplers) for scale in known])
    e = np.array([float(scale.num_envs_per_env_runner) for scale in known])
    if len(known) < MIN_CONFIGURATIONS or len(np.unique(r)) == 1:
        return []
    cores = max((run.cores for each in found for run in each.runs if run.cores > 0), default=NAN)
    compared = sorted((each for each in found if each.speedup > 0), key=lambda each: not each.is_baseline)
    enough = len(known) >= _MIN_FOR_FOUR_TERMS and len(np.unique(r)) >= 3
    # From the median error, which is that of a difference between two measurements, with twice the variance.
    errors = [math.log1p(each.relative_error / 100) for each in found if 0 <= each.relative_error < math.inf]
    noise = median(errors or [0.0]) / math.sqrt(2)
    fits = []
    for law in LAWS:
        if law.fourth is not None and not enough:
            continue
        terms = law.terms(r, e)
        left_out = np.array([terms[i] @ _coefficients(np.delete(terms, i, 0), np.delete(t, i)) for i in range(len(t))])
        logs = np.log(np.maximum(left_out / t, 1e-9))
        width = float(stdtrit(len(t) - 1, 0.975)) * math.sqrt(float(np.mean(logs**2)))
        fits.append(
            Fit(
                law=law,
                coefficients=dict(zip("abcd", _coefficients(terms, t).tolist(), strict=False)),
                errors=(100 * np.abs(left_out / t - 1)).tolist(),
                width=max(width, noise),
                cores=cores if r.max() <= cores else math.inf,
                reference=compared[0] if compared else None,
            )
        )
    return fits


def _coefficients(terms: Array, t: Array) -> Array:
    """Return the coefficients that minimise the relative errors of t, shape (terms,)."""
    rows = terms / t[:, None]
    # Normalise columns: terms such as r − 1 and 1/N may differ by many orders of magnitude.
    lengths = np.linalg.norm(rows, axis=0)
    lengths[lengths == 0] = 1
    values: Array = nnls(rows / lengths, np.ones_like(t))[0] / lengths
    return values


def _choose(fits: Sequence[Fit]) -> Fit | None:
    """Return the simplest law within one standard error of the lowest leave-one-out error; None if no law predicts well."""
    if not fits:
        return None
    best = fits[0]
    margin = float(np.std(best.errors, ddof=1)) / math.sqrt(len(best.errors)) + _NEGLIGIBLE
    near = [fit for fit in fits if fit.mean_error <= min(best.mean_error + margin, MAX_LAW_ERROR)]
    return min(near, key=lambda fit: (len(fit.coefficients), fit.mean_error), default=None)
