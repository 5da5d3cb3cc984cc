"""The scaling laws and how they are fitted to env runners r, envs per runner e and seconds T.

A law is a sum of terms with coefficients ≥ 0; its terms may share one nonlinear parameter, the shape. For a given shape, the
coefficients are found by nonnegative least squares of the relative errors T̂/T − 1; the shape is found by a search over its range.
This needs no starting values.

Source: Amdahl, AFIPS 1967; Gunther, "Guerrilla Capacity Planning", 2007 (USL); Golub and Pereyra, SIAM J. Numer. Anal. 10(2), 1973
(separating coefficients from shape).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar, nnls
from scipy.special import stdtrit

from rl_scaling_callback.core.formulas import NAN

Array = npt.NDArray[np.float64]
Terms = Callable[[Array, Array, float], tuple[Array, ...]]

_SHAPES_TRIED: Final = 13
"""Number of shapes tried, evenly spaced over the range; the neighbourhood of the best one is then searched."""

_EXACT: Final = 1e-9
"""Scatter of ln T below which a law counts as exact, since it is rounding noise."""

_WIDEST: Final = 20.0
"""Half-width of ln T beyond which an interval is not computed: a factor of e^20 is meaningless."""

_LONGEST: Final = 1e100
"""Predicted seconds beyond which an interval is not computed, to avoid overflow."""


class Observations(NamedTuple):
    """The data to fit: arrays of shape (n,), one entry per configuration.

    Attributes:
        r: env runners, at least 1.
        e: envs per runner.
        t: seconds.
        weights: inverse standard deviation of ln t, relative to that of a configuration with the typical error.
    """

    r: Array
    e: Array
    t: Array
    weights: Array

    def where(self, chosen: Any) -> Observations:
        """Return the observations selected by an index or a mask."""
        return Observations(*(each[chosen] for each in self))


@dataclass(frozen=True, slots=True)
class Law:
    """The functional form of a law.

    Attributes:
        name: its short name.
        formula: its formula as text.
        coefficients: names of the coefficients, one per term.
        terms: returns the terms for r, e and the shape.
        shape: name of the shape; "" if there is none.
        shapes: lowest and highest shape.
        two_level: True if r and e have separate effects, so that both must vary in the data.
    """

    name: str
    formula: str
    coefficients: tuple[str, ...]
    terms: Terms
    shape: str = ""
    shapes: tuple[float, float] = (NAN, NAN)
    two_level: bool = True

    @property
    def size(self) -> int:
        """Number of its parameters."""
        return len(self.coefficients) + bool(self.shape)

    def supported(self, r: Array, e: Array) -> bool:
        """Return whether there are enough configurations: 4 for up to three parameters, otherwise two more than parameters.

        Laws with more than three parameters also need three different runner counts.
        """
        runner_counts, env_counts = len(np.unique(r)), len(np.unique(e))
        if self.size <= 3:
            return len(r) >= 4 and (not self.two_level or min(runner_counts, env_counts) >= 2)
        return len(r) >= self.size + 2 and (not self.two_level or (runner_counts >= 3 and env_counts >= 2))


def _straggling(r: Array, spread: float) -> Array:
    # The expected maximum of r Gaussians is about √(2 ln r) standard deviations above their mean.
    factor: Array = 1 + spread * np.sqrt(2 * np.log(r))
    return factor


def catalogue(most_runners: float, cores: float) -> tuple[Law, ...]:
    """Return the candidate laws.

    If the number of cores is known, A and L gain nothing from more runners than cores. If more were measured, the laws without this
    bound remain candidates, since runners that wait for an env don't need a core each.

    Args:
        most_runners: largest number of env runners measured.
        cores: logical cores that the env runners share; NaN if unknown.
    """
    laws = [
        Law("Amdahl", "T = a + b/N", ("a", "b"), lambda r, e, _: (np.ones_like(r), 1 / (r * e)), two_level=False),
        Law(
            "USL",
            "T = t · (1/N + σ(1 − 1/N) + κ(N − 1))",
            ("t", "σ·t", "κ·t"),
            lambda r, e, _: (1 / (r * e), 1 - 1 / (r * e), r * e - 1),
            two_level=False,
        ),
        Law(
            "S",
            "T = a + (b + c/e) · max(1/r, u)",
            ("a", "b", "c"),
            lambda r, e, u: (np.ones_like(r), np.maximum(1 / r, u), np.maximum(1 / r, u) / e),
            shape="u",
            shapes=(0.0, 1.0),
        ),
        Law(
            "U",
            "T = a + b/r + c/(re) + d/e + (f + g/e)(r − 1)",
            ("a", "b", "c", "d", "f", "g"),
            lambda r, e, _: (np.ones_like(r), 1 / r, 1 / (r * e), 1 / e, r - 1, (r - 1) / e),
        ),
    ]
    if not most_runners <= cores < math.inf:
        laws += _bounded(math.inf, "", "r")
    if 0 < cores < math.inf:
        laws += _bounded(cores, "" if cores >= most_runners else "C", f"min(r, {cores:g})")
    return tuple(laws)


def _bounded(cores: float, suffix: str, runners: str) -> list[Law]:
    def two_level_amdahl(r: Array, e: Array, _: float) -> tuple[Array, ...]:
        busy = np.minimum(r, cores)
        return np.ones_like(r), 1 / busy, 1 / (busy * e)

    def with_stragglers(r: Array, e: Array, spread: float) -> tuple[Array, ...]:
        each = _straggling(r, spread) / np.minimum(r, cores)
        return np.ones_like(r), each, each / e

    return [
        Law(f"A{suffix}", f"T = a + (b + c/e)/{runners}", ("a", "b", "c"), two_level_amdahl),
        Law(
            f"L{suffix}",
            f"T = a + (b + c/e)/{runners} · (1 + κ√(2 ln r))",
            ("a", "b", "c"),
            with_stragglers,
            shape="κ",
            shapes=(0.0, 2.0),
        ),
    ]


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """A law with its parameters.

    Attributes:
        law: the law.
        values: its coefficients.
        shape: its shape; NaN if it has none.
        scatter: standard deviation of ln T around the law, for a configuration with the typical error; NaN unless there are more
            configurations than parameters.
        dof: degrees of freedom of the scatter.
        covariance: covariance matrix of the free parameters (not at a bound), divided by the squared scatter.
    """

    law: Law
    values: Array
    shape: float
    scatter: float
    dof: int
    covariance: Array

    @property
    def parameters(self) -> dict[str, float]:
        """The parameters by name."""
        named = dict(zip(self.law.coefficients, map(float, self.values), strict=True))
        return {**named, self.law.shape: self.shape} if self.law.shape else named

    def seconds(self, r: Array, e: Array) -> Array:
        """Return T."""
        return _seconds(self.law, self.values, self.shape, r, e)

    @property
    def noise(self) -> float:
        """Half-width of the 95 % interval of ln T around the law, assuming exact parameters."""
        return self.scatter * float(stdtrit(self.dof, 0.975)) if self.dof > 0 else NAN

    def interval(self, r: Array, e: Array, least_noise: float = 0.0) -> tuple[float, float]:
        """Return the 95 % interval for a new measurement of one configuration [s], from noise and parameter uncertainty.

        NaN if the law fits all configurations exactly, or if the interval is too wide to be useful.

        Args:
            r: env runners, shape (1,).
            e: envs per runner, shape (1,).
            least_noise: lower bound of the noise, as a half-width of ln T; few residuals may underestimate it by chance.
        """
        seconds = self.seconds(r, e)
        noise = max(self.noise, least_noise)
        if not (noise > _EXACT and self.dof > 0 and 0 < seconds[0] < _LONGEST):
            return NAN, NAN
        gradient = _gradient(self.law, self.values, self.shape, r, e, seconds)[0]
        width = noise * math.sqrt(1 + float(gradient @ self.covariance @ gradient))
        return (float(seconds[0]) * math.exp(-width), float(seconds[0]) * math.exp(width)) if width < _WIDEST else (NAN, NAN)


def solve(law: Law, data: Observations) -> Solution:
    """Return the law fitted to measured seconds."""
    values, shape = _solve(law, data)
    r, e, t, weights = data
    dof = len(t) - law.size
    # Relative to the measurements, as in the fit, so that it stays finite whatever the law predicts.
    weighted = _gradient(law, values, shape, r, e, t) * weights[:, None]
    residuals = weights * (_seconds(law, values, shape, r, e) / t - 1)
    scatter = math.sqrt(float(residuals @ residuals) / dof) if dof > 0 else NAN
    covariance: Array = np.linalg.pinv(weighted.T @ weighted).astype(np.float64)
    return Solution(law, values, shape, scatter, dof, covariance)


def leave_one_out(law: Law, data: Observations) -> Array:
    """Return the error for each configuration of the law fitted to all others [%]; shape (n,)."""
    errors = np.empty_like(data.t)
    for i in range(len(errors)):
        values, shape = _solve(law, data.where(np.arange(len(errors)) != i))
        one = data.where(slice(i, i + 1))
        errors[i] = 100 * abs(_seconds(law, values, shape, one.r, one.e)[0] / one.t[0] - 1)
    return errors


def _solve(law: Law, data: Observations) -> tuple[Array, float]:
    if not law.shape:
        return _coefficients(law, NAN, data)[0], NAN

    def misfit(shape: float) -> float:
        return _coefficients(law, shape, data)[1]

    tried = np.linspace(*law.shapes, _SHAPES_TRIED)
    misfits = [misfit(shape) for shape in tried]
    best = int(np.argmin(misfits))
    around = (tried[max(best - 1, 0)], tried[min(best + 1, _SHAPES_TRIED - 1)])
    refined = minimize_scalar(misfit, bounds=around, method="bounded", options={"xatol": 1e-4 * (law.shapes[1] - law.shapes[0])})
    # The bounded search never evaluates the ends of its range, where a shape without effect lies.
    shape = float(refined.x if refined.fun < misfits[best] else tried[best])
    return _coefficients(law, shape, data)[0], shape


def _coefficients(law: Law, shape: float, data: Observations) -> tuple[Array, float]:
    """Return the coefficients for a shape, and the root of the weighted residual sum of squares."""
    terms = np.stack(law.terms(data.r, data.e, shape), axis=1)
    rows = terms * (data.weights / data.t)[:, None]
    # Normalise columns: terms such as N and 1/N may differ by many orders of magnitude.
    lengths = np.linalg.norm(rows, axis=0)
    lengths[lengths == 0] = 1
    values, left = nnls(rows / lengths, data.weights)
    return values / lengths, float(left)


def _seconds(law: Law, values: Array, shape: float, r: Array, e: Array) -> Array:
    total: Array = np.stack(law.terms(r, e, shape), axis=1) @ values
    return total


def _gradient(law: Law, values: Array, shape: float, r: Array, e: Array, t: Array) -> Array:
    """Return the derivatives of ln T with respect to the free parameters, shape (n, parameters), with T taken as `t`."""
    terms = np.stack(law.terms(r, e, shape), axis=1)
    columns = list((terms[:, values > 0] / t[:, None]).T)
    step = 1e-5 * (law.shapes[1] - law.shapes[0])
    if law.shape and law.shapes[0] + step < shape < law.shapes[1] - step:
        ahead, behind = (_seconds(law, values, shape + move, r, e) for move in (step, -step))
        columns.append((ahead - behind) / (2 * step * t))
    return np.stack(columns, axis=1)
