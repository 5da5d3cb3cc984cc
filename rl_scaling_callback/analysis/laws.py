"""Scaling laws: what configurations that were not measured would bring, with intervals, and where scaling ends.

Source: method, "Scaling laws".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from rl_scaling_callback.formulas import NAN
from rl_scaling_callback.scale import Scale


@dataclass(frozen=True, slots=True)
class Measured:
    """What the laws are fitted to: one configuration.

    Attributes:
        scale: its scale.
        seconds: time for an equal amount of work in all configurations [s]: an iteration, or any number of env steps.
        error: half-width of the 95 % interval of `seconds` [%]; NaN where not known.
    """

    scale: Scale
    seconds: float
    error: float = NAN


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a law says of a configuration; the interval is one of 95 % for a new measurement of it.

    Attributes:
        scale: the configuration.
        seconds: time for the same work as in `Measured` [s].
        low: lower end of the interval of `seconds`; NaN where it can't be given.
        high: upper end.
        extrapolated: True beyond 2× what was measured, along env runners, envs per runner or N.
    """

    scale: Scale
    seconds: float
    low: float
    high: float
    extrapolated: bool


class Fit(Protocol):
    """A fitted law."""

    @property
    def name(self) -> str:
        """Its short name, such as `"L"`."""

    @property
    def formula(self) -> str:
        """What it says, in a line of text: `"T = a + (b + c/e)/r · (1 + κ√(2 ln r))"`."""

    @property
    def parameters(self) -> Mapping[str, float]:
        """Its fitted parameters by name."""

    @property
    def mean_error(self) -> float:
        """Mean leave-one-out error [%]; NaN where it can't be had."""

    @property
    def max_error(self) -> float:
        """Largest leave-one-out error [%]."""

    def predict(self, scale: Scale) -> Prediction:
        """Return what it says of a configuration."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Amdahl's law along one axis: envs of one runner, or runners of one env each.

    Attributes:
        name: `"env runners"` or `"envs per runner"`.
        serial_fractions: Karp–Flatt's serial fraction at each N measured on the axis, by N.
        serial_fraction: that of the largest N.
        limit: Amdahl's limit of the speedup, 1 / s [×]; NaN where there is none.
    """

    name: str
    serial_fractions: Mapping[int, float]
    serial_fraction: float
    limit: float


@dataclass(frozen=True, slots=True)
class Laws:
    """All that the measured configurations support.

    Attributes:
        fits: the laws that could be fitted, best leave-one-out error first.
        chosen: the law to predict with; None where there are too few configurations.
        axes: Amdahl along each axis that was measured.
        limit: lowest and highest limit of the speedup over laws and axes [×]; NaN where there is none.
        falls_beyond: the scales beyond which measured throughput falls although N grows, with the scale where it has fallen.
        notes: what a reader must know, a sentence each: too few configurations for a law, throughput that falls, and so on.
    """

    fits: tuple[Fit, ...]
    chosen: Fit | None
    axes: tuple[Axis, ...]
    limit: tuple[float, float]
    falls_beyond: tuple[tuple[Scale, Scale], ...] = ()
    notes: tuple[str, ...] = ()


def fit_laws(measured: Sequence[Measured], cores: float = NAN) -> Laws:
    """Return the laws fitted to measured configurations, of which one is 1r×1e or not.

    Args:
        measured: one entry a configuration.
        cores: logical cores that the env runners share; NaN where not known.
    """
    raise NotImplementedError
