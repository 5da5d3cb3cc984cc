"""The formulas of parallel RL training: plain floats in, plain floats out.

Functions return NaN if their value is undefined or an input is unknown. They never return infinity and never raise, since a
missing number must not end a training run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Final

NAN: Final = math.nan

BANDS: Final[tuple[tuple[float, str], ...]] = (
    (100.0, "perfect"),
    (80.0, "excellent"),
    (60.0, "good"),
    (40.0, "fair"),
    (-math.inf, "inefficient"),
)
"""Lower bound of efficiency [%] and the name of each band, best first."""

_LARGEST_STEP_DIFFERENCE: Final = 0.1


def mean_of_known(values: Iterable[float]) -> float:
    """Return the mean of the values that are not NaN; NaN if there are none."""
    known = [value for value in values if value == value]
    return math.fsum([value / len(known) for value in known]) if known else NAN


def ratio(numerator: float, denominator: float) -> float:
    """Return numerator / denominator, or NaN if that is not finite."""
    if denominator == 0:
        return NAN
    quotient = numerator / denominator
    return quotient if math.isfinite(quotient) else NAN


def interval(value: float, error: float) -> tuple[float, float]:
    """Return the interval with half-width `error` [%], symmetric on a log scale; of zero width if that is NaN."""
    width = 1.0 if math.isnan(error) else 1 + error / 100
    return value / width, value * width


def steps_per_second(env_steps: float, seconds: float) -> float:
    """Return SPS [steps/s], env steps / seconds; NaN unless both are > 0.

    An iteration without env steps has no throughput to compare: 0 would rank as the worst possible configuration.
    """
    return ratio(env_steps, seconds) if env_steps > 0 and seconds > 0 else NAN


def same_steps(here: float, there: float) -> bool:
    """Return whether two trials collect about the same number of env steps per iteration, as a fair comparison requires.

    RLlib rounds fragments up, so configurations differ by a few percent. Up to 10 % is tolerated.
    """
    return abs(ratio(here, there) - 1) <= _LARGEST_STEP_DIFFERENCE


def speedup(sps: float, baseline_sps: float) -> float:
    """Return the speedup [×] = SPS_parallel / SPS_baseline; NaN unless the baseline is > 0."""
    return ratio(sps, baseline_sps) if baseline_sps > 0 else NAN


def efficiency(speedup: float, n: float) -> float:
    """Return the parallel efficiency [%] = speedup / N × 100; NaN unless N > 0."""
    return ratio(speedup, n) * 100 if n > 0 else NAN


def gap(speedup: float, n: float) -> float:
    """Return the gap [×] = N − speedup between ideal and actual speedup."""
    return n - speedup


def loss(efficiency: float) -> float:
    """Return the loss [% points] = 100 − efficiency; negative where scaling is superlinear."""
    return 100 - efficiency


def band(efficiency: float) -> str:
    """Return the band's name for an efficiency [%], or "" when the efficiency is NaN."""
    for lowest, name in BANDS:
        if efficiency >= lowest:
            return name
    return ""


def serial_fraction(speedup: float, n: float) -> float:
    """Return the experimentally determined serial fraction s = (1/S − 1/N) / (1 − 1/N).

    NaN at N = 1, where it is not defined, and unless the speedup is > 0. Negative where scaling is superlinear.

    Source: Karp and Flatt, "Measuring parallel processor performance", CACM 33(5), 1990.
    """
    if n <= 1 or not speedup > 0:
        return NAN
    return ratio(ratio(1, speedup) - 1 / n, 1 - 1 / n)


def amdahl_speedup(serial_fraction: float, n: float) -> float:
    """Return Amdahl's largest speedup [×] on N processors, 1 / (s + (1 − s) / N); NaN unless N > 0.

    Source: Amdahl, AFIPS 1967.
    """
    return ratio(1, serial_fraction + (1 - serial_fraction) / n) if n > 0 else NAN


def amdahl_limit(serial_fraction: float) -> float:
    """Return Amdahl's limit [×] for N → ∞, 1 / s; NaN unless s > 0, as there is no limit then."""
    return ratio(1, serial_fraction) if serial_fraction > 0 else NAN


def core_efficiency(speedup: float, num_env_runners: int, cores: float) -> float:
    """Return speedup / min(runners, cores) × 100 [%]: efficiency against the CPU cores that can be busy at once.

    The sub-envs of an env runner step one after another, so N overstates the parallelism. This measure doesn't.
    """
    return efficiency(speedup, min(max(1, num_env_runners), cores)) if cores > 0 else NAN
