"""Converts arbitrary values to plain floats and JSON types."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import math
import re
import sys
from collections import deque
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, Final
from uuid import UUID

import numpy as np

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

_MAX_DEPTH: Final = 60
_MAX_VALUES: Final = 20_000
"""Maximum number of values to inspect; later ones are described by type only."""

_CHEAP_TO_CONVERT: Final = 1 << 16
"""Maximum size of an array that is converted to a list, so that it equals a list of the same numbers."""

_CHUNK: Final = 1 << 22
"""Bytes of an array to copy at a time if it is not contiguous."""

_MAX_LENGTH: Final = 4_000
"""Maximum length of a value's JSON [characters]; longer values are hashed."""

_WITHOUT_STATE: Final = frozenset({"ray.actor", "ray._raylet"})
"""Modules whose objects differ in every run: actor handles."""

_NAMESPACES: Final = frozenset({"types", "argparse"})
"""Standard library modules whose objects hold user data."""


def plain(value: object) -> Any:
    """Convert `value` to plain JSON types, with the same result in every process.

    Strings and bytes become fingerprints, because configs may contain passwords and keys. Code becomes a label with a hash of its
    content (see `content`), objects their class and state, large arrays and tables a hash. Memory addresses, actor handles,
    parameters of models and the state of random generators are ignored.
    """
    description = _Describer()(value)
    if isinstance(description, (list, dict, str)) and len(json.dumps(description)) > _MAX_LENGTH:
        return f"{type(description).__name__} of {len(description)} #{content.digest(description)}"
    return description


def fingerprint(text: str | bytes | bytearray) -> str:
    """Return `#` and 4 hexadecimal digits: enough to tell two values apart, too few to recover one.

    A hash of 16 bits fits every 65,536th guess, so that testing a billion passwords leaves some 15,000 candidates. Only a
    secret with few possibilities, such as a PIN, can't be kept this way.
    """
    return f"#{hashlib.sha256(text.encode('utf-8', 'surrogatepass') if isinstance(text, str) else text).hexdigest()[:4]}"


class _Describer:
    """Describes a value recursively."""

    def __init__(self) -> None:
        self._open: set[int] = set()
        self._left = _MAX_VALUES

    def __call__(self, value: Any) -> Any:
        if value is None or type(value) in (bool, int):
            return value
        if isinstance(value, enum.Enum):
            return self(value.value)  # as in a config that was restored
        if isinstance(value, (str, bytes, bytearray)):
            return fingerprint(value)
        if isinstance(value, float):  # or a subclass, such as NumPy's
            return float(value) if math.isfinite(value) else repr(float(value))
        if isinstance(value, int):
            return int(value)
        self._left -= 1
        if id(value) in self._open or len(self._open) >= _MAX_DEPTH or self._left < 0:
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
            return [self(item) for item in value]
        if isinstance(value, (set, frozenset)):
            return sorted((self(item) for item in value), key=repr)
        if content.is_code(value):
            return content.label(value, self)
        if content.is_constant(value):
            return repr(value)
        if isinstance(value, (PurePath, UUID, re.Pattern)):
            return self(str(value))
        module = type(value).__module__
        if module.startswith("gymnasium.spaces") or (module.startswith("numpy") and "dtype" in type(value).__name__.lower()):
            return " ".join(repr(value).split())
        if module.startswith("torch"):
            return self._of_torch(value)
        if module.startswith("pandas"):
            return self._of_pandas(value)
        if hasattr(value, "tolist") and module not in _WITHOUT_STATE:  # NumPy scalars and arrays
            return self._of_array(value)
        return self._of_object(value)

    def _of_array(self, value: Any) -> Any:
        array = np.asarray(value)
        return self(array.tolist()) if array.dtype.kind == "O" or array.size <= _CHEAP_TO_CONVERT else _hashed(array)

    def _of_torch(self, value: Any) -> Any:
        torch = sys.modules["torch"]
        if not isinstance(value, torch.Tensor):
            return self._of_object(value)
        kind = f"{value.dtype} on {value.device.type}"
        if isinstance(value, torch.nn.Parameter):  # drawn at random
            return f"parameter of {list(value.shape)} {kind}"
        tensor = value.detach().cpu()
        try:
            array = tensor.numpy()
        except TypeError:  # bfloat16 and the like
            array = tensor.view({1: torch.uint8, 2: torch.int16}[tensor.element_size()]).numpy()
        return f"{kind}: {_hashed(array)}"

    def _of_pandas(self, value: Any) -> Any:
        pandas = sys.modules["pandas"]
        if isinstance(value, (pandas.Series, pandas.Index)):
            value = value.to_frame()
        if not isinstance(value, pandas.DataFrame):
            return self._of_object(value)
        columns = [f"{name}: {kind}" for name, kind in value.dtypes.items()]
        return {"columns": columns, "rows": _hashed(pandas.util.hash_pandas_object(value).to_numpy())}

    def _of_object(self, value: Any) -> Any:
        cls = type(value)
        module = cls.__module__
        is_python = module.partition(".")[0] in sys.stdlib_module_names
        if module in _WITHOUT_STATE or (is_python and module not in _NAMESPACES):
            return content.name_of(cls)
        # Not asdict(): it makes deep copies, and the members of a spec may not support that.
        fields = [field.name for field in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else []
        names = sorted({*(fields or _slots(cls)), *(() if fields else getattr(value, "__dict__", ()))})
        # Random generators of envs and spaces are created on first use.
        state = {name: self(getattr(value, name, None)) for name in names if not name.startswith(("_np_random", "__"))}
        return {"of": self(cls), **state} if state else self(cls)


def _hashed(array: Any) -> str:
    """Return the shape, type and hash of an array, the same in any memory layout."""
    hashed = hashlib.sha256()
    if array.flags.c_contiguous:
        hashed.update(array.reshape(-1).view(np.uint8))
    else:
        length = max(1, _CHUNK // array.dtype.itemsize)
        for start in range(0, array.size, length):
            hashed.update(array.flat[start : start + length].view(np.uint8))
    return f"{'×'.join(map(str, array.shape))} {array.dtype} #{hashed.hexdigest()[:8]}".strip()


def _slots(cls: type) -> list[str]:
    named = (getattr(base, "__slots__", ()) for base in cls.__mro__)
    return [name for slots in named for name in ([slots] if isinstance(slots, str) else slots)]
