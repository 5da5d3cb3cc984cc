"""Converts arbitrary values to plain floats and JSON types."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import math
import re
from array import array
from collections import deque
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import PurePath
from typing import Any, Final

from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.rllib import content


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


def mapping(value: object) -> Mapping[str, Any]:
    """Return `value` if it is a mapping, else an empty one."""
    return value if isinstance(value, (dict, Mapping)) else {}  # a dict is known without asking the abstract class


ADDRESS: Final = re.compile(r" at 0x[0-9a-fA-F]+")
"""A memory address, which differs between processes."""

_DEEPEST: Final = 60
_MOST: Final = 20_000
"""Maximum number of values to inspect; later ones are described by type only."""

_MANY_NUMBERS: Final = 64
_LONGEST: Final = 4_000
"""Maximum length of a value's JSON [characters]; longer values are hashed."""

_WITHOUT_STATE: Final = frozenset({"ray.actor", "ray._raylet", "torch", "torch.nn.parameter"})
"""Modules whose objects differ in every run: actor handles, tensors."""

_NAMESPACES: Final = frozenset({"types", "argparse"})
"""Standard library modules whose objects hold user data."""


def plain(value: object) -> Any:
    """Convert `value` to plain JSON types, with the same result in every process.

    Code becomes a label with a hash of its content (see `content`), objects their class and state, long arrays and strings a hash.
    Memory addresses, actor handles and the state of random generators are ignored.
    """
    return _shortened(_Describer()(value))


def _shortened(description: Any) -> Any:
    if isinstance(description, (list, dict, str)) and len(json.dumps(description)) > _LONGEST:
        return f"{type(description).__name__} of {len(description)} #{content.digest(description)}"
    return description


class _Describer:
    """Describes a value recursively."""

    def __init__(self) -> None:
        self._open: set[int] = set()
        self._left = _MOST

    def __call__(self, value: Any) -> Any:
        if value is None or type(value) in (bool, int, str):
            return value
        if isinstance(value, enum.Enum):
            return self(value.value)
        if isinstance(value, (bool, int, str, float)):
            return _scalar(value)
        self._left -= 1
        if id(value) in self._open or len(self._open) >= _DEEPEST or self._left < 0:
            return content.name_of(value if isinstance(value, type) else type(value))
        self._open.add(id(value))
        try:
            return self._compound(value)
        except Exception:  # an unknown object may raise on any access
            return content.name_of(type(value))
        finally:
            self._open.discard(id(value))

    def _compound(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): self(item) for key, item in sorted(value.items(), key=lambda pair: str(pair[0]))}
        if isinstance(value, (list, tuple, deque)):
            return _numbers(value) if len(value) > _MANY_NUMBERS and _are_numbers(value) else [self(item) for item in value]
        if isinstance(value, (set, frozenset)):
            return sorted((self(item) for item in value), key=repr)
        if content.is_code(value):
            return content.label(value, self)
        if isinstance(value, PurePath):
            return str(value)
        if isinstance(value, (range, slice, complex)):
            return repr(value)
        if isinstance(value, (bytes, bytearray)):
            return f"{len(value)} bytes #{hashlib.sha256(value).hexdigest()[:8]}"
        module = type(value).__module__
        if module.startswith("gymnasium.spaces") or (module.startswith("numpy") and "dtype" in type(value).__name__.lower()):
            return " ".join(repr(value).split())
        if hasattr(value, "tolist") and module not in _WITHOUT_STATE:  # NumPy scalars and arrays
            return self._of_array(value)
        return self._of_object(value)

    def _of_array(self, value: Any) -> Any:
        if getattr(value, "size", 1) > _MANY_NUMBERS and getattr(getattr(value, "dtype", None), "kind", "O") in "biuf":
            shape = "" if len(value.shape) == 1 else "×".join(map(str, value.shape)) + " "
            return shape + _numbers(value.ravel().astype("float64", copy=False))
        return self(value.tolist())

    def _of_object(self, value: Any) -> Any:
        cls = type(value)
        if cls.__module__ in _WITHOUT_STATE or (content.is_python(cls) and cls.__module__ not in _NAMESPACES):
            return content.name_of(cls)
        # Not asdict(): it makes deep copies, and the members of a spec may not support that.
        fields = [field.name for field in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else []
        names = sorted({*(fields or _slots(cls)), *(() if fields else getattr(value, "__dict__", ()))})
        # Random generators of envs and spaces are created on first use.
        state = {name: self(getattr(value, name, None)) for name in names if not name.startswith(("_np_random", "__"))}
        return {"of": self(cls), **state} if state else self(cls)


def _scalar(value: float | str) -> Any:
    """Convert a float, or a subclass of a number or string such as NumPy's, to JSON's native types."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else repr(float(value))
    return int(value)


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(issubclass(each, Real) for each in set(map(type, values)))


def _numbers(values: Any) -> str:
    """Return the count and a hash of numbers, the same for a list and an array of equal numbers."""
    content_of = values.tobytes() if hasattr(values, "tobytes") else array("d", values).tobytes()
    return f"{len(values)} numbers #{hashlib.sha256(content_of).hexdigest()[:8]}"


def _slots(cls: type) -> list[str]:
    named = (getattr(base, "__slots__", ()) for base in cls.__mro__)
    return [name for slots in named for name in ([slots] if isinstance(slots, str) else slots)]
