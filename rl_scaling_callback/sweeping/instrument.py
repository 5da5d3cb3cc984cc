"""Adds a sweep's callbacks to a config, keeping options of the config's own `ScalingCallback`."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from rl_scaling_callback.callback import ScalingCallback
from rl_scaling_callback.core.steady import SteadyRule
from rl_scaling_callback.sweeping.watchdog import Watchdog

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

_KEPT: Final = ("baseline_dir", "workload")
"""User options that a sweep keeps. It always uses 1r×1e as the reference and its own rule for the steady state."""

_LONGEST_MINIMUM_S: Final = 2.0
"""Longest minimum duration of an iteration. It only affects reporting, and the default of APPO and IMPALA, 10 s, makes a trial
last over a minute. Two seconds contain many samples and updates."""


def instrumented(config: AlgorithmConfig, rule: SteadyRule, longest_wait_s: float) -> AlgorithmConfig:
    """Return the config with a sweep's callbacks added to the user's."""
    callbacks = callbacks_without_measuring(config)
    measure = functools.partial(
        ScalingCallback,
        **own_options(config),
        steady=rule,
    )
    callbacks += [measure, functools.partial(Watchdog, longest_wait_s)]
    copy = config.copy(copy_frozen=False).callbacks(callbacks)
    if (copy.min_time_s_per_iteration or 0.0) > _LONGEST_MINIMUM_S:
        copy.reporting(min_time_s_per_iteration=_LONGEST_MINIMUM_S)
    return copy


def callbacks_without_measuring(config: AlgorithmConfig) -> list[Any]:
    """Return the config's callbacks except `ScalingCallback`."""
    return [each for each in _callbacks(config) if not _is_measuring(each)]


def own_options(config: AlgorithmConfig) -> Mapping[str, Any]:
    """Return the options of the config's own `ScalingCallback` that a sweep keeps."""
    told = [getattr(each, "keywords", {}) for each in _callbacks(config) if _is_measuring(each)]
    return {name: value for options in told for name, value in options.items() if name in _KEPT}


def _callbacks(config: AlgorithmConfig) -> list[Any]:
    given = config.callbacks_class
    return list(given) if isinstance(given, (list, tuple)) else [given]


def _is_measuring(callback: Any) -> bool:
    return getattr(callback, "func", callback) is ScalingCallback
