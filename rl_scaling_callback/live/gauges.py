"""A trial's throughput, speedup and efficiency as gauges among Ray's own metrics, which Prometheus collects."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from rl_scaling_callback import rllib
from rl_scaling_callback.core import schema
from rl_scaling_callback.core.scale import Scale

SHOWN: Final = ("sps", "speedup", "efficiency", "steady/efficiency")
"""The keys of the contract that have a gauge: `steady/efficiency` is `scaling_steady_efficiency`, before which Ray puts `ray_`."""

_SET_EVERY_S: Final = 1.0
"""Ray exports its metrics every few seconds (10 by default): faster iterations would set gauges that nobody reads."""

_UNITS: Final = {key.name: key.unit for key in schema.KEYS}


class Gauge(Protocol):
    """What is used of `ray.util.metrics.Gauge`."""

    def set(self, value: float, tags: dict[str, str]) -> None:
        """Take `value` for what is so now."""


class Gauges:
    """The gauges of one trial.

    A gauge is made with its first known value. What is no longer known sets it to NaN, for a gauge can't be unset and its last
    value would go on standing for the present: Ray exports no series then, older releases (2.45) a NaN. Both are gaps.

    Args:
        make: makes a gauge from its name, its description and the keys of its tags (`ray.util.metrics.Gauge`).
        trial: name of the trial's folder; "" outside Tune.
        scale: its scale.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        make: Callable[[str, str, tuple[str, ...]], Gauge],
        trial: str,
        scale: Scale,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make = make
        self._clock = clock
        self._set_at = -math.inf
        self._tags = {
            "trial": _ascii(trial),
            "num_env_runners": str(scale.num_env_runners),
            "num_envs_per_env_runner": str(scale.num_envs_per_env_runner),
        }
        self._gauges: dict[str, Gauge] = {}

    def set(self, result: Mapping[str, Any]) -> None:
        """Show what was injected into `result`, once a second at most."""
        now = self._clock()
        if now - self._set_at < _SET_EVERY_S:
            return
        self._set_at = now
        for name, value in rllib.read_injected(result, SHOWN).items():
            gauge = self._gauges.get(name)
            if gauge is None:
                if math.isnan(value):
                    continue
                gauge = self._gauges[name] = self._made(f"{schema.ROOT}/{name}", _UNITS[name])
            gauge.set(value, self._tags)

    def _made(self, path: str, unit: str) -> Gauge:
        return self._make(path.replace("/", "_"), _ascii(f"{path} [{unit}]"), tuple(self._tags))


def _ascii(text: str) -> str:
    """Return `text` as Ray's metrics take it."""
    return text.replace("×", "x").encode("ascii", "backslashreplace").decode()
