"""Checks of user input. Each raises a `ValueError` that names the value and what is allowed."""

from __future__ import annotations

import math
from numbers import Integral, Real


def at_least(name: str, value: object, lowest: int) -> None:
    """Allow whole numbers from `lowest` up."""
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    _require(is_whole and value >= lowest, name, value, f"whole numbers from {lowest} up")  # type: ignore[operator]


def positive(name: str, value: object) -> None:
    """Allow finite numbers above 0."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    _require(is_number and 0 < value < math.inf, name, value, "finite numbers above 0")  # type: ignore[operator]


def non_empty(name: str, value: object) -> None:
    """Allow non-empty strings."""
    _require(isinstance(value, str) and bool(value.strip()), name, value, "non-empty strings")


def _require(is_allowed: bool, name: str, value: object, allowed: str) -> None:
    if not is_allowed:
        raise ValueError(f"{name} is {value!r}; allowed are {allowed}")
