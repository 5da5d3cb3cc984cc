"""The columns of the table of configurations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rl_scaling_callback.analysis.configurations import Configuration
from rl_scaling_callback.core.text import UNKNOWN, duration, percent, rounded


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table of configurations.

    Attributes:
        name: key in JSON.
        header: title shown to readers.
        unit: unit of the numbers; "" for none.
        value: returns the value of a configuration.
        text: returns the formatted value, without the error.
        error: returns the half-width of the 95 % interval [%]; None for columns without an error.
        spare: drop order in a narrow terminal, highest first; 0 for columns that are always shown.
    """

    name: str
    header: str
    unit: str
    value: Callable[[Configuration], Any]
    text: Callable[[Configuration], str]
    error: Callable[[Configuration], float] | None = None
    spare: int = 0

    @property
    def numeric(self) -> bool:
        """True for columns of numbers, which are right-aligned."""
        return self.name not in {"config", "band", "diagnosis"}

    def cell(self, configuration: Configuration) -> str:
        """Return the text of a cell, with the error if known."""
        text = self.text(configuration)
        error = self.error(configuration) if self.error else math.nan
        return text if math.isnan(error) else f"{text} {percent(error)}"


def _speedup_error(configuration: Configuration) -> float:
    # The baseline's speedup is 1 by definition.
    return math.nan if configuration.is_baseline else configuration.speedup_error


def _sooner_error(configuration: Configuration) -> float:
    return math.nan if configuration.is_baseline else configuration.sooner_error


COLUMNS: Final[tuple[Column, ...]] = (
    Column("config", "config", "", lambda c: str(c.scale), lambda c: str(c.scale)),
    Column("parallelism", "N", "", lambda c: c.scale.parallelism, lambda c: str(c.scale.parallelism)),
    Column("seconds", "time", "s", lambda c: c.seconds, lambda c: duration(c.seconds), spare=1),
    Column("sps", "SPS", "steps/s", lambda c: c.sps, lambda c: rounded(c.sps, 2), lambda c: c.sps_error),
    Column("speedup", "speedup", "×", lambda c: c.speedup, lambda c: rounded(c.speedup, 2), _speedup_error),
    Column("efficiency", "efficiency", "%", lambda c: c.efficiency, lambda c: rounded(c.efficiency, 1)),
    Column("loss", "loss", "% points", lambda c: c.loss, lambda c: rounded(c.loss, 1), spare=5),
    Column("band", "band", "", lambda c: c.band or None, lambda c: c.band or UNKNOWN),
    Column("core_efficiency", "per core", "%", lambda c: c.core_efficiency, lambda c: rounded(c.core_efficiency, 1), spare=4),
    Column("sps_per_cpu", "SPS per CPU", "steps/s", lambda c: c.sps_per_cpu, lambda c: rounded(c.sps_per_cpu, 0), spare=3),
    Column("diagnosis", "main loss", "", lambda c: c.diagnosis or None, lambda c: c.diagnosis.split(";")[0] or UNKNOWN, spare=2),
)
"""The columns of every table, in display order."""

TO_RETURN: Final[tuple[Column, ...]] = (
    Column(
        "seconds_to_return",
        "to return",
        "s",
        lambda c: c.to_return.seconds,
        lambda c: duration(c.to_return.seconds),
        lambda c: c.to_return.error,
        spare=1,
    ),
    Column(
        "steps_to_return",
        "steps to return",
        "",
        lambda c: c.to_return.env_steps,
        lambda c: rounded(c.to_return.env_steps, 0),
        spare=6,
    ),
    Column("sooner", "sooner", "×", lambda c: c.sooner, lambda c: rounded(c.sooner, 2), _sooner_error),
)
"""Those of the time to return."""


def columns_of(configurations: Sequence[Configuration]) -> tuple[Column, ...]:
    """Return the columns to show: those of the time to return only if one of the configurations gets there."""
    return COLUMNS + (TO_RETURN if any(c.to_return.seconds > 0 for c in configurations) else ())
