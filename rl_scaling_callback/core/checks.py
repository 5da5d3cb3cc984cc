"""Checks of user input. Each error names the value and what is allowed."""

from __future__ import annotations

import math
from numbers import Integral, Real


def _fail(name: str, value: object, allowed: str) -> None:
    raise ValueError(f"{name} is {value!r}; allowed are {allowed}")


def at_least(name: str, value: object, lowest: int) -> None:
    """Raise `ValueError` unless `value` is a whole number of at least `lowest`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < lowest:
        _fail(name, value, f"whole numbers from {lowest} up")


def finite(name: str, value: object) -> None:
    """Raise `ValueError` unless `value` is a finite number."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        _fail(name, value, "finite numbers")


def positive(name: str, value: object) -> None:
    """Raise `ValueError` unless `value` is a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value) or value <= 0:
        _fail(name, value, "finite numbers above 0")


def non_empty(name: str, value: object) -> None:
    """Raise `ValueError` unless `value` is a non-empty string."""
    if not isinstance(value, str) or not value.strip():
        _fail(name, value, "non-empty strings")
