"""Scaling laws: predictions with intervals for configurations that were not measured, and the limits of scaling."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from statistics import median
from typing import Final

import numpy as np
from scipy.special import ndtri

from rl_scaling_callback.analysis.fitting import Array, Observations, Solution, catalogue, leave_one_out, solve
from rl_scaling_callback.core import formulas
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.scale import Scale

FEWEST: Final = 4
"""Minimum number of configurations to fit a law."""

_FAR: Final = 2.0
"""Predictions beyond this many times the measured range are called extrapolated."""

_SECONDS: Final = (1e-9, 1e12)
"""Plausible times [s]; others are ignored."""

_TYPICAL_ERROR: Final = 10.0
"""Error of a throughput [%] if unknown: speed on a shared machine drifts by 10 to 15 % within a minute."""

_LEAST_FALL: Final = 0.01
"""Smallest fall of ln throughput to report, whatever the noise."""

_RISING: Final = 1e-3
"""A law whose time still falls by more than this share beyond 2^20 runners or envs has no limit."""

_NO_DIFFERENCE: Final = 0.05
"""Difference between mean leave-one-out errors [% points] that is too small to matter."""

LARGEST_ERROR: Final = 20.0
"""Largest mean leave-one-out error [%] of a law used for predictions, as in Venkataraman et al. (Ernest, NSDI 2016)."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A data point that the laws are fitted to: one configuration.

    Attributes:
        scale: its scale.
        seconds: time for the same amount of work in all configurations [s]: an iteration, or any number of env steps.
        error: half-width [%] of the 95 % interval for a repeated measurement; NaN if unknown.
    """

    scale: Scale
    seconds: float
    error: float = NAN


@dataclass(frozen=True, slots=True)
class Work:
    """The work done in the seconds of `Measured`, so that laws can predict throughput and speedup.

    Attributes:
        env_steps: env steps done in them; NaN if unknown.
        baseline_sps: throughput that speedups are relative to [steps/s]; NaN without a baseline.
        baseline_error: half-width of its 95 % interval [%]; 0 if unknown.
        unit: N at which the speedup of perfect scaling is 1×.
    """

    env_steps: float = NAN
    baseline_sps: float = NAN
    baseline_error: float = 0.0
    unit: float = 1.0

    def sps(self, seconds: float) -> float:
        """Return the throughput [steps/s]."""
        return formulas.steps_per_second(self.env_steps, seconds)

    def speedup(self, seconds: float) -> float:
        """Return the speedup [×]."""
        return formulas.speedup(self.sps(seconds), self.baseline_sps)


@dataclass(frozen=True, slots=True)
class Prediction:
    """The predicted performance of a configuration, with 95 % intervals for a new measurement.

    Attributes:
        scale: the configuration.
        seconds: time for the same work as in `Measured` [s]; NaN without a prediction.
        low: lower end of the interval of `seconds`; NaN if unavailable.
        high: upper end.
        extrapolated: True beyond 2× the measured range of env runners, envs per runner or N.
        work: the work done in the seconds.
    """

    scale: Scale
    seconds: float = NAN
    low: float = NAN
    high: float = NAN
    extrapolated: bool = False
    work: Work = Work()

    @property
    def sps(self) -> float:
        """Throughput [steps/s]; NaN if the work is unknown."""
        return self.work.sps(self.seconds)

    @property
    def speedup(self) -> float:
        """Speedup [×]; NaN without a baseline."""
        return self.work.speedup(self.seconds)

    @property
    def efficiency(self) -> float:
        """Parallel efficiency [%]; NaN without a baseline."""
        return formulas.efficiency(self.speedup, self.scale.parallelism / self.work.unit)

    @property
    def speedups(self) -> tuple[float, float]:
        """The interval of `speedup` for a new measurement of both this configuration and the baseline [×]; NaN if unknown."""
        own = math.log1p(self.work.baseline_error / 100)
        low, high = (math.hypot(math.log(end / self.seconds), own) for end in (self.high, self.low))
        return self.speedup * math.exp(-low), self.speedup * math.exp(high)


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """A fitted law.

    Attributes:
        name: its short name, such as `"L"`.
        formula: its formula: `"T = a + (b + c/e)/r · (1 + κ√(2 ln r))"`.
        parameters: its fitted parameters by name.
        mean_error: mean leave-one-out error [%].
        max_error: largest leave-one-out error [%].
        error_margin: standard error of `mean_error` [%].
        solution: the law with its parameters.
        most: largest env runners, envs per runner and N measured.
        least_noise: half-width of the 95 % interval of ln T around a perfect law, from the errors of the measurements.
        rivals: laws that the data can't distinguish from it: within one standard error of the lowest leave-one-out error, like it.
        work: the work done in its seconds.
    """

    name: str
    formula: str
    parameters: Mapping[str, float]
    mean_error: float
    max_error: float
    error_margin: float
    solution: Solution
    most: tuple[int, int, int]
    least_noise: float = 0.0
    rivals: tuple[Solution, ...] = ()
    work: Work = Work()

    def predict(self, scale: Scale) -> Prediction:
        """Return its prediction for a configuration; NaN if it has none.

        The interval spans those of the rivals: which law is right is part of the uncertainty.
        """
        counts = (max(1, scale.num_env_runners), scale.num_envs_per_env_runner, scale.parallelism)
        r, e = np.array([counts[0]], dtype=float), np.array([counts[1]], dtype=float)
        seconds = float(self.solution.seconds(r, e)[0])
        extrapolated = any(count > _FAR * most for count, most in zip(counts, self.most, strict=True))
        if not (math.isfinite(seconds) and seconds > 0):
            return Prediction(scale, extrapolated=extrapolated, work=self.work)
        lows, highs = zip(*(solution.interval(r, e, self.least_noise) for solution in (self.solution, *self.rivals)), strict=True)
        # Rivals without an interval are ignored: min and max keep their first value when compared with NaN.
        return Prediction(scale, seconds, min(lows), max(highs), extrapolated, self.work)


@dataclass(frozen=True, slots=True)
class Axis:
    """Amdahl's law along one axis: envs of one runner, or runners of one env each.

    Attributes:
        name: `"env runners"` or `"envs per runner"`.
        serial_fractions: Karp–Flatt's serial fraction at each N measured on the axis, by N.
        serial_fraction: the serial fraction at the largest N.
        limit: Amdahl's limit of the speedup, 1 / s [×]; NaN if there is none.
    """

    name: str
    serial_fractions: Mapping[int, float]
    serial_fraction: float
    limit: float


@dataclass(frozen=True, slots=True)
class Laws:
    """The scaling laws fitted to the measured configurations.

    Attributes:
        fits: the fitted laws, lowest leave-one-out error first.
        chosen: the law used for predictions; None if there are too few configurations or no law fits them.
        axes: Amdahl's law along each measured axis.
        limit: lowest and highest limit of the speedup over laws and axes [×]; NaN if there is none.
        falls_beyond: pairs of scales: the one with the highest throughput, and a larger one that is slower.
        fitted_to: the scales used for fitting.
        left_out: number of configurations left out because their time is unknown.
        work: the work done in the seconds of the laws.
    """

    fits: tuple[Fit, ...]
    chosen: Fit | None
    axes: tuple[Axis, ...]
    limit: tuple[float, float]
    falls_beyond: tuple[tuple[Scale, Scale], ...] = ()
    fitted_to: tuple[Scale, ...] = ()
    left_out: int = 0
    work: Work = Work()

    def span(self, scale: Scale) -> tuple[float, float]:
        """Return the range of speedups covered by the 95 % intervals of all fitted laws, including poor fits [×].

        Which law is right is uncertain, and laws diverge outside the measured range. NaN if none has an interval, or without a
        baseline.
        """
        predictions = [fit.predict(scale) for fit in self.fits]
        known = [each for each in predictions if not math.isnan(each.low)]
        slowest, fastest = max((each.high for each in known), default=NAN), min((each.low for each in known), default=NAN)
        return self.work.speedup(slowest), self.work.speedup(fastest)


def fit_laws(measured: Sequence[Measured], cores: float = NAN, work: Work = Work()) -> Laws:
    """Return the laws fitted to measured configurations, with or without 1r×1e.

    Args:
        measured: one entry per configuration.
        cores: logical cores that the env runners share; NaN if unknown.
        work: the work done in the seconds of each entry; if unknown, throughput can't be predicted.

    Raises:
        ValueError: if a scale is given twice.
    """
    repeated = [str(scale) for scale, times in Counter(one.scale for one in measured).items() if times > 1]
    if repeated:
        raise ValueError(
            f"measured has {', '.join(repeated)} more than once; allowed is one entry per scale: combine its runs first"
        )
    known = sorted((one for one in measured if _SECONDS[0] <= one.seconds <= _SECONDS[1]), key=lambda one: one.scale)
    fits = _fits(known, cores if cores >= 1 else NAN, work)
    chosen = _choose(fits)
    axes = _axes(known)
    return Laws(
        fits=fits,
        chosen=chosen,
        axes=axes,
        limit=_limit(known, fits, axes),
        falls_beyond=_falls(known, chosen.solution.noise if chosen else NAN),
        fitted_to=tuple(one.scale for one in known),
        left_out=len(measured) - len(known),
        work=work,
    )


def _fits(known: Sequence[Measured], cores: float, work: Work) -> tuple[Fit, ...]:
    if len(known) < FEWEST:
        return ()
    data = Observations(
        r=np.array([max(1, one.scale.num_env_runners) for one in known], dtype=float),
        e=np.array([one.scale.num_envs_per_env_runner for one in known], dtype=float),
        t=np.array([one.seconds for one in known], dtype=float),
        weights=_weights(known),
    )
    most = (int(data.r.max()), int(data.e.max()), max(one.scale.parallelism for one in known))
    noise, fits = _noise(known), []
    for law in catalogue(most[0], cores):
        if law.supported(data.r, data.e):
            errors = leave_one_out(law, data)
            solution = solve(law, data)
            fits.append(
                Fit(
                    name=law.name,
                    formula=law.formula,
                    parameters=solution.parameters,
                    mean_error=float(errors.mean()),
                    max_error=float(errors.max()),
                    error_margin=float(errors.std(ddof=1)) / math.sqrt(len(errors)),
                    solution=solution,
                    most=most,
                    least_noise=noise,
                    work=work,
                )
            )
    fits.sort(key=lambda fit: fit.mean_error)
    near = _near(fits)
    return tuple(
        replace(fit, rivals=tuple(other.solution for other in near if other is not fit)) if fit in near else fit for fit in fits
    )


def _noise(known: Sequence[Measured]) -> float:
    """Return the half-width of the 95 % interval of ln T around its mean, from the median error; 0 if unknown.

    Errors are those of the difference between two measurements, which has twice the variance.
    """
    return median([math.log1p(one.error / 100) for one in known if _is_error(one.error)] or [0.0]) / math.sqrt(2)


def _weights(known: Sequence[Measured]) -> Array:
    """Return 1 / standard deviation of each, relative to that of a configuration with the median error."""
    errors = [one.error if _is_error(one.error) else NAN for one in known]
    typical = median([error for error in errors if error > 0] or [NAN])
    if math.isnan(typical):
        return np.ones(len(known))
    # Errors of 0 and unknown ones are replaced by the typical error, so that they get no extra weight.
    filled = np.log1p([error / 100 if error > 0 else typical / 100 for error in errors])
    # Weights above 1000 are implausible and could overflow.
    weights: Array = np.minimum(math.log1p(typical / 100) / filled, 1e3)
    return weights


def _is_error(error: float) -> bool:
    return 0 <= error < math.inf


def _near(fits: Sequence[Fit]) -> list[Fit]:
    """Return the fits within one standard error of the lowest leave-one-out error, best first."""
    return [fit for fit in fits if fit.mean_error <= fits[0].mean_error + fits[0].error_margin + _NO_DIFFERENCE]


def _choose(fits: Sequence[Fit]) -> Fit | None:
    """Return the simplest law within one standard error of the lowest leave-one-out error; None if no law predicts well."""
    return min(
        (fit for fit in _near(fits) if fit.mean_error <= LARGEST_ERROR),
        key=lambda fit: (fit.solution.law.size, fit.mean_error),
        default=None,
    )


def _axes(known: Sequence[Measured]) -> tuple[Axis, ...]:
    seconds = {one.scale: one.seconds for one in known}
    one_by_one = seconds.get(Scale(1, 1), NAN)
    lines: dict[str, Callable[[Scale], bool]] = {
        "env runners": lambda scale: scale.num_envs_per_env_runner == 1,
        "envs per runner": lambda scale: scale.num_env_runners == 1,
    }
    axes = []
    for name, on_it in lines.items():
        fractions = {
            scale.parallelism: formulas.serial_fraction(formulas.ratio(one_by_one, each), scale.parallelism)
            for scale, each in seconds.items()
            if on_it(scale) and scale.parallelism > 1
        }
        if fractions and not math.isnan(one_by_one):
            last = fractions[max(fractions)]
            axes.append(Axis(name, fractions, last, formulas.amdahl_limit(last)))
    return tuple(axes)


def _limit(known: Sequence[Measured], fits: Sequence[Fit], axes: Sequence[Axis]) -> tuple[float, float]:
    one_by_one = next((one.seconds for one in known if one.scale == Scale(1, 1)), NAN)
    limits = [axis.limit for axis in axes] + [_limit_of(fit.solution, one_by_one) for fit in fits]
    limits = [limit for limit in limits if not math.isnan(limit)]
    if not limits:
        return NAN, NAN
    # A limit below a measured speedup is disproved.
    best = formulas.ratio(one_by_one, min(one.seconds for one in known))
    standing = [limit for limit in limits if not limit < best] or [best]
    return min(standing), max(standing)


def _limit_of(solution: Solution, one_by_one: float) -> float:
    """Return the largest speedup that a law predicts at any scale; NaN if it grows without bound."""
    counts = np.concatenate((np.arange(1.0, 64.0), 2.0 ** np.arange(6, 41)))
    r, e = (grid.ravel() for grid in np.meshgrid(counts, counts))
    seconds = solution.seconds(r, e)
    here = one_by_one if one_by_one > 0 else seconds[0]
    nearer = seconds[(r <= 2**20) & (e <= 2**20)].min()
    still_rising = seconds.min() < (1 - _RISING) * nearer
    return NAN if still_rising or not nearer > 0 else formulas.ratio(here, float(seconds.min()))


def _falls(known: Sequence[Measured], noise: float) -> tuple[tuple[Scale, Scale], ...]:
    """Return, for each line of the grid, the fastest scale and the first larger one that is significantly slower.

    Unknown errors are taken to be the noise around the chosen law, capped at the typical error so that a law that fits poorly
    can't hide a fall. The significance level is 5 % for all comparisons together (Bonferroni).

    Args:
        known: the configurations, by scale.
        noise: half-width of the 95 % interval of ln T around the chosen law; NaN if unknown.
    """
    lines = [*_lines(known, lambda scale: scale.num_envs_per_env_runner), *_lines(known, lambda scale: scale.num_env_runners)]
    comparisons = sum(math.comb(len(line), 2) for line in lines)
    if comparisons == 0:
        return ()
    unknown = min(100 * noise, _TYPICAL_ERROR) if noise >= 0 else _TYPICAL_ERROR
    level = -float(ndtri(0.05 / comparisons)) / 1.96

    def margin(one: Measured) -> float:
        return level * math.log1p((one.error if _is_error(one.error) else unknown) / 100)

    falls = []
    for line in lines:
        peak = min(line, key=lambda one: one.seconds)
        lower = (
            one.scale
            for one in line
            if one.scale.parallelism > peak.scale.parallelism
            and math.log(one.seconds / peak.seconds) > max(_LEAST_FALL, math.hypot(margin(peak), margin(one)))
        )
        falls += [(peak.scale, scale) for scale in islice(lower, 1)]
    return tuple(falls)


def _lines(known: Sequence[Measured], constant: Callable[[Scale], int]) -> list[list[Measured]]:
    """Return the configurations grouped into lines along which the count returned by `constant` stays the same."""
    lines: dict[int, list[Measured]] = {}
    for one in known:
        lines.setdefault(constant(one.scale), []).append(one)
    return list(lines.values())
