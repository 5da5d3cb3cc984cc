"""What is believed of the throughput of configurations, before any was measured and after some were.

Before: surfaces drawn from what parallel sampling is known to do. The time of an iteration is a learner's part that stays, and
a sampling part that env runners share as long as there are cores, and of which envs per runner share the cost of a vector step.
After: the draws that the measurements make likely, taken as Gaussian and conditioned on the measurements. So few measurements
suffice, and what the family of surfaces can't express the Gaussian still follows.

Source: Alipourfard et al., "CherryPick", NSDI 2017, for Bayesian search; Del Moral et al., J. R. Statist.
Soc. B 68(3), 2006, for tempered weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from scipy.linalg import block_diag
from scipy.special import ndtri
from scipy.stats import qmc

from rl_scaling_callback.analysis.fitting import Array
from rl_scaling_callback.core.scale import Scale

_DRAWS_LOG2: Final = 13
# Effective number of weighted draws that a covariance needs.
_ENOUGH: Final = 100.0
_HALVINGS: Final = 10
# Standard deviation of the baseline's ln SPS before it is measured: anything goes.
_UNKNOWN: Final = 100.0
# What the sampling time of real surfaces differs by from the family: along with neighbours within some doublings, and by itself.
_SMOOTH: Final = 0.06
_ROUGH: Final = 0.05
_DOUBLINGS: Final = 1.5


@dataclass(frozen=True, slots=True, eq=False)
class Belief:
    """A Gaussian belief of what configurations bring.

    The last two entries are the limit, which a configuration without any time for sampling would reach, and ln SPS of the baseline.

    Attributes:
        mean: ln speedup of each configuration, and the last two entries.
        covariance: of them.
    """

    mean: Array
    covariance: Array

    def measuring(self, index: int, variance: float) -> Array:
        """Return how far the mean moves when ln SPS of a configuration turns out one standard deviation above what is expected.

        Args:
            index: of the configuration.
            variance: of the measured ln SPS.
        """
        shared = self.covariance[:, index] + self.covariance[:, -1]
        moved: Array = shared / math.sqrt(shared[index] + shared[-1] + variance)
        return moved


def believe(scales: Sequence[Scale], cores: float, observed: Array, values: Array, variances: Array) -> Belief:
    """Return the belief after observations.

    Args:
        scales: the configurations.
        cores: logical cores that the env runners share; NaN where not known.
        observed: a row for each observation: the weights of the belief's entries in it.
        values: what was observed of these weighted sums.
        variances: of `values`.
    """
    surfaces = _surfaces(tuple(scales), cores)
    precision = np.diag(1 / variances)
    # The baseline's SPS is whatever suits a draw best: that takes one direction out of what the observations say of the draws.
    baseline = precision @ observed[:, -1]
    of_baseline = np.outer(baseline, baseline) / (baseline @ observed[:, -1])
    power, weights = _likely(values - surfaces @ observed[:, :-1].T, precision - of_baseline)
    mean = weights @ surfaces
    apart = surfaces - mean
    covariance = block_diag((apart * weights[:, None]).T @ apart, _UNKNOWN**2)
    mean = np.append(mean, 0.0)
    # The weights have used this power of the likelihood; the rest of it conditions the Gaussian.
    noise = np.linalg.inv(precision - power * (precision - of_baseline))
    shared = covariance @ observed.T
    gain = np.linalg.solve(observed @ shared + noise, shared.T).T
    return Belief(mean + gain @ (values - observed @ mean), covariance - gain @ shared.T)


def _likely(apart: Array, precision: Array) -> tuple[float, Array]:
    """Return the largest power of the likelihood that leaves draws enough, and their weights under it.

    Args:
        apart: by how much what was observed differs from a draw, a row for each draw.
        precision: inverse covariance of the differences.
    """
    logs = -0.5 * np.sum(apart @ precision * apart, axis=1)
    logs -= logs.max()

    def weights(power: float) -> Array:
        likelihoods: Array = np.exp(power * logs)
        shares: Array = likelihoods / likelihoods.sum()
        return shares

    low, high = 0.0, 0.95
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if 1 / np.sum(weights(middle) ** 2) >= _ENOUGH else (low, middle)
    return low, weights(low)


@lru_cache(maxsize=32)
def _surfaces(scales: tuple[Scale, ...], cores: float) -> Array:
    """Return ln speedup of the configurations and its limit, a row for each draw.

    With the baseline's time as 1, T = a + (b + c/e)/p · (1 + κ√(2 ln r)) · (1 + o·(r/C − 1)⁺) + h·(r − 1): a, b, c and κ as in law
    L of the method; p is r, bounded softly by the C runners that the cores carry; o for runners beyond them that get in each
    other's way; h for what each runner adds to the driver's work.
    """
    r = np.array([max(1, scale.num_env_runners) for scale in scales], dtype=float)
    e = np.array([scale.num_envs_per_env_runner for scale in scales], dtype=float)
    uniform = qmc.Sobol(7 + len(scales), seed=0).random_base2(_DRAWS_LOG2)
    fixed, split, spread, runners, crowding, driver, softness = uniform.T[:7, :, None]
    a = 0.01 + 0.98 * fixed**2
    c = (1 - a) * np.sqrt(split)
    b = 1 - a - c
    # An env runner that waits for its env, or for the driver, takes less than a core; one whose libraries use threads takes more.
    carried = np.maximum(1, cores / (0.25 * 6**runners)) if cores > 0 else 2.0 * 32**runners
    sharpness = 2 + 4 * softness
    p = (r**-sharpness + carried**-sharpness) ** (-1 / sharpness) * (1 + carried**-sharpness) ** (1 / sharpness)
    crowded = 1 + 0.3 * crowding**2 * np.maximum(0, r / carried - 1)
    straggling = 1 + 0.4 * spread**2 * np.sqrt(2 * np.log(r))
    position = np.log2(np.stack((r, e)))
    distances = np.sum((position[:, :, None] - position[:, None, :]) ** 2, axis=0) / _DOUBLINGS**2
    smooth = _SMOOTH**2 * np.exp(-distances / 2) + _ROUGH**2 * np.eye(len(scales))
    residual = ndtri(np.clip(uniform[:, 7:], 1e-6, 1 - 1e-6)) @ np.linalg.cholesky(smooth).T
    residual[:, (r == 1) & (e == 1)] = 0
    sampling = (b + c / e) / p * straggling * crowded * np.exp(residual)
    surfaces: Array = -np.log(np.column_stack((a + sampling + 0.03 * driver**3 * (r - 1), a)))
    return surfaces
