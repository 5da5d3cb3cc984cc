"""Converts arbitrary values to plain floats and mappings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rl_scaling_callback.core.formulas import NAN


def number(value: object) -> float:
    """Return a finite real number as a plain float; NaN for anything else, such as booleans, strings, None and infinities."""
    if type(value) is float:
        return value if math.isfinite(value) else NAN
    if isinstance(value, bool) or value is None or isinstance(value, (str, bytes)):
        return NAN
    try:
        converted = float(value)  # type: ignore[arg-type]  # NumPy scalars and the like
    except (TypeError, ValueError, OverflowError):
        return NAN
    return converted if math.isfinite(converted) else NAN


def amount(config: Mapping[str, Any], name: str) -> float:
    """Return a number above 0 by its name; 0 for anything else."""
    return max(0.0, number(config.get(name)))  # max(0, NaN) is 0


def mapping(value: object) -> Mapping[str, Any]:
    """Return `value` if it is a mapping, else an empty one."""
    return value if isinstance(value, (dict, Mapping)) else {}  # a dict is known without asking the abstract class
