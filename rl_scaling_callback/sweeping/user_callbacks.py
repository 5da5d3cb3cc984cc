"""The callbacks of the config that a user gives to a sweep, and of the tuned one."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

from rl_scaling_callback.callback import ScalingCallback


def callbacks_of(config: AlgorithmConfig) -> list[Any]:
    """Return the callbacks that the user has set."""
    given, default = config.callbacks_class, AlgorithmConfig().callbacks_class
    return [each for each in (given if isinstance(given, (list, tuple)) else [given]) if each is not default]


def measures(callback: Any) -> bool:
    """Return whether a callback is a `ScalingCallback`, a subclass of it, or a `functools.partial` of one."""
    made = getattr(callback, "func", callback)
    return isinstance(made, type) and issubclass(made, ScalingCallback)


def learner_threads_of(config: AlgorithmConfig) -> int | None:
    """Return the `learner_threads` of a config's `ScalingCallback`; None if it sets none."""
    ours = next(filter(measures, callbacks_of(config)), None)
    threads: int | None = getattr(ours, "keywords", {}).get("learner_threads")
    return threads


def with_learner_threads(config: AlgorithmConfig, threads: int) -> AlgorithmConfig:
    """Return a copy of a config whose `ScalingCallback`, the user's or a new one after the user's callbacks, sets the threads.

    A subclass that doesn't take `learner_threads` is left alone.
    """
    callbacks = callbacks_of(config)
    ours: Any = next(filter(measures, callbacks), ScalingCallback)
    taken = inspect.signature(ours).parameters.values()
    if not any(each.name == "learner_threads" or each.kind is each.VAR_KEYWORD for each in taken):
        return config.copy(copy_frozen=False)
    place = callbacks.index(ours) if ours in callbacks else len(callbacks)
    callbacks[place : place + 1] = [functools.partial(ours, learner_threads=threads)]
    tuned: Any = config.copy(copy_frozen=False)
    return tuned.callbacks(callbacks)  # type: ignore[no-any-return]
