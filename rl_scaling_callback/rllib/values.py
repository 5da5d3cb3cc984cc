"""Values of any kind as plain numbers and JSON types; what can't be read is NaN."""

from __future__ import annotations

import dataclasses
import enum
import math
import re
from collections.abc import Mapping
from typing import Any, Final

from rl_scaling_callback.core.formulas import NAN


def number(value: object) -> float:
    """Return a real number as a plain float, NaN for anything else: booleans, texts, None, infinities."""
    if type(value) is float:
        return value if math.isfinite(value) else NAN
    if isinstance(value, bool) or value is None or isinstance(value, (str, bytes)):
        return NAN
    try:
        converted = float(value)  # type: ignore[arg-type]  # NumPy scalars and the like: float() is the judge
    except (TypeError, ValueError, OverflowError):
        return NAN
    return converted if math.isfinite(converted) else NAN


def mapping(value: object) -> Mapping[str, Any]:
    """Return `value` if it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


ADDRESS: Final = re.compile(r" at 0x[0-9a-fA-F]+")
"""An address in memory, which each process has its own of."""

_DEEPEST: Final = 12


def plain(value: object, depth: int = 0) -> Any:
    """Return `value` in plain JSON types, the same in every process: classes and functions by name, no memory addresses."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, enum.Enum):
        return plain(value.value, depth + 1)
    if depth >= _DEEPEST:
        return f"({type(value).__qualname__})"
    if isinstance(value, Mapping):
        return {str(key): plain(item, depth + 1) for key, item in sorted(value.items(), key=lambda pair: str(pair[0]))}
    if isinstance(value, (list, tuple)):
        return [plain(item, depth + 1) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((plain(item, depth + 1) for item in value), key=repr)
    if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        return f"{value.__module__}.{value.__qualname__}"
    if dataclasses.is_dataclass(value):
        # Not asdict(): it copies deeply, and what a spec holds may not be copied.
        return {field.name: plain(getattr(value, field.name, None), depth + 1) for field in dataclasses.fields(value)}
    if hasattr(value, "tolist"):  # NumPy scalars and arrays
        return plain(value.tolist(), depth + 1)
    return ADDRESS.sub("", repr(value))
