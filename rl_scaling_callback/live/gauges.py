"""Exports a trial's throughput, speedup and efficiency as gauges through Ray's metrics, for Prometheus."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from rl_scaling_callback.core import schema
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.rllib.results import read_injected

SHOWN: Final = ("sps", "speedup", "efficiency", "steady/efficiency")
"""The schema keys with a gauge. `steady/efficiency` becomes `scaling_steady_efficiency`, which Ray prefixes with `ray_`."""

_SET_EVERY_S: Final = 1.0
"""Ray exports its metrics every few seconds (10 by default), so setting gauges more often would be wasted."""

_UNITS: Final = {key.name: key.unit for key in schema.KEYS}


class Gauge(Protocol):
    """The interface of `ray.util.metrics.Gauge` used here."""

    def set(self, value: float, tags: dict[str, str]) -> None:
        """Set the current value."""


class Gauges:
    """The gauges of one trial.

    A gauge is created with its first known value. It can't be unset, so a value that becomes unknown sets it to NaN instead of
    leaving a stale one. Ray then exports no series, older releases (2.45) a NaN; both show as gaps.

    Args:
        make: creates a gauge from its name, description and tag keys (`ray.util.metrics.Gauge`).
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
        """Update the gauges with the values injected into `result`, at most once a second."""
        now = self._clock()
        if now - self._set_at < _SET_EVERY_S:
            return
        self._set_at = now
        for name, value in read_injected(result, SHOWN).items():
            gauge = self._gauges.get(name)
            if gauge is None:
                if math.isnan(value):
                    continue
                gauge = self._gauges[name] = self._made(f"{schema.ROOT}/{name}", _UNITS[name])
            gauge.set(value, self._tags)

    def _made(self, path: str, unit: str) -> Gauge:
        return self._make(path.replace("/", "_"), _ascii(f"{path} [{unit}]"), tuple(self._tags))


def _ascii(text: str) -> str:
    """Return `text` in ASCII, as Ray's metrics require."""
    return text.replace("×", "x").encode("ascii", "backslashreplace").decode()
