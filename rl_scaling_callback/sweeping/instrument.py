"""The callbacks that a sweep adds to a config, and what the config's own `ScalingCallback` says."""

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
"""Options of the user's that a sweep goes by. The reference is 1r×1e, and when a trial is measured is the sweep's to say."""


def instrumented(config: AlgorithmConfig, rule: SteadyRule, longest_wait_s: float) -> AlgorithmConfig:
    """Return the config with the callbacks that a sweep needs beside the user's own."""
    callbacks = callbacks_without_measuring(config)
    measure = functools.partial(
        ScalingCallback,
        **own_options(config),
        warmup_iterations=rule.warmup_iterations,
        min_iterations=rule.min_iterations,
        precision=rule.precision,
        max_iterations=rule.max_iterations,
        max_seconds=rule.max_seconds,
    )
    callbacks += [measure, functools.partial(Watchdog, longest_wait_s)]
    return config.copy(copy_frozen=False).callbacks(callbacks)


def callbacks_without_measuring(config: AlgorithmConfig) -> list[Any]:
    """Return the config's callbacks but `ScalingCallback`."""
    return [each for each in _callbacks(config) if not _is_measuring(each)]


def own_options(config: AlgorithmConfig) -> Mapping[str, Any]:
    """Return what the config's own `ScalingCallback` was told of lasting baselines and of the workload's name."""
    told = [getattr(each, "keywords", {}) for each in _callbacks(config) if _is_measuring(each)]
    return {name: value for options in told for name, value in options.items() if name in _KEPT}


def _callbacks(config: AlgorithmConfig) -> list[Any]:
    given = config.callbacks_class
    return list(given) if isinstance(given, (list, tuple)) else [given]


def _is_measuring(callback: Any) -> bool:
    return getattr(callback, "func", callback) is ScalingCallback
