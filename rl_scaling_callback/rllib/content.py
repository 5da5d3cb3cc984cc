"""Identifies values and code by content: the same description in every process, another one if the content differs.

Numbers appear as they are, strings and bytes as fingerprints, because configs may contain passwords and keys. Arrays and tensors
appear as a hash, and other objects as what `pickle` would need to make them again.

A function or class appears as its name and a hash of its bytecode, constants, defaults and closure values, and of the code and
values that it refers to. Variable names, line numbers, comments and docstrings don't count. Code of installed packages appears as
its name and version.

What differs in every run is left out: memory addresses, actor handles, random generators, and the parameters of models.
"""

from __future__ import annotations

import copyreg
import dis
import enum
import functools
import hashlib
import json
import math
import sys
import types
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any, Final

import numpy as np

_MAX_DEPTH: Final = 60
_MAX_VALUES: Final = 20_000
"""Maximum number of objects and containers to inspect; later ones are described by type only."""

_MAX_LENGTH: Final = 4_000
"""Maximum length of a value's JSON [characters]; longer values are hashed."""

_CODE_IN: Final[Mapping[type, tuple[str, ...]]] = {
    classmethod: ("__func__",),
    staticmethod: ("__func__",),
    property: ("fget", "fset"),
    functools.cached_property: ("func",),
    type(functools.lru_cache(print)): ("__wrapped__",),
}
"""The attributes of each wrapper of code that hold the code."""

_CODE: Final = (type, types.FunctionType, types.ModuleType, types.CodeType, *_CODE_IN)

_ONE_RUN: Final = ("random.", "numpy.random.", "torch._C.Generator", "ray.actor.", "ray._raylet.")
"""Starts of the names of classes whose objects differ in every run: random generators, and Ray's actor and object references."""

_NOT_STATE: Final = ("_np_random", "__")
"""Starts of attributes that don't count: random generators of envs and spaces, which are created on first use."""

_IN_FACTS: Final = frozenset({"ray", "torch", "gymnasium", "mujoco", "rl_scaling_callback"})
"""Packages whose versions are workload facts already, or whose code doesn't affect the workload."""

_ADDED: Final = frozenset({"__doc__", "__qualname__", "__firstlineno__", "__static_attributes__"})
"""Names in a class body that Python itself sets."""


def plain(value: object) -> Any:
    """Convert `value` to plain JSON types that identify its content; long ones are hashed."""
    description = _Describer()(value)
    if isinstance(description, (list, dict, str)) and len(json.dumps(description)) > _MAX_LENGTH:
        return f"{type(description).__name__} of {len(description)} #{digest(description)}"
    return description


def fingerprint(text: str | bytes | bytearray) -> str:
    """Return `#` and 4 hexadecimal digits: enough to tell two values apart, too few to recover one.

    A hash of 16 bits fits every 65,536th guess, so that testing a billion passwords leaves some 15,000 candidates. Only a
    secret with few possibilities, such as a PIN, can't be kept this way.
    """
    return f"#{hashlib.sha256(text.encode('utf-8', 'surrogatepass') if isinstance(text, str) else text).hexdigest()[:4]}"


def digest(description: object) -> str:
    """Return an 8-digit hexadecimal hash of a value in plain JSON types."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:8]


def name_of(code: Any) -> str:
    """Return the qualified name of a function, class or module."""
    if isinstance(code, types.ModuleType):
        return code.__name__
    return f"{_module_of(code)}.{getattr(code, '__qualname__', type(code).__qualname__)}"


@functools.lru_cache(maxsize=256)
def module_label(module: str) -> str:
    """Return the label of a module without importing it: its name and a hash of its source."""
    if (version := _installed(module)) is not None:
        return module + version
    spec = _spec_of(module)
    with suppress(AttributeError, OSError):  # other loaders, and no file
        return f"{module} #{hashlib.sha256(spec.loader.get_data(spec.origin)).hexdigest()[:8]}"  # type: ignore[union-attr]
    return module


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
            return name_of(value if isinstance(value, type) else type(value))
        self._open.add(id(value))
        try:
            return self._compound(value)
        except Exception:  # an unknown object may raise on any access
            return name_of(type(value))
        finally:
            self._open.discard(id(value))

    def _compound(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): self(item) for key, item in sorted(value.items(), key=lambda pair: str(pair[0]))}
        if isinstance(value, (list, tuple, deque)):
            return [self(item) for item in value]
        if isinstance(value, (set, frozenset)):
            return sorted((self(item) for item in value), key=repr)
        if isinstance(value, _CODE):
            return self._code(value)
        if isinstance(value, np.ndarray):
            return self(value.tolist()) if value.dtype.hasobject or value.dtype.kind in "SU" else _hashed(value)
        if isinstance(value, np.generic):
            return self(value.item())
        if isinstance(value, getattr(sys.modules.get("torch"), "Tensor", ())):
            return _of_tensor(value)
        return self._object(value)

    def _object(self, value: Any) -> Any:
        cls = type(value)
        is_python = cls.__module__.partition(".")[0] in sys.stdlib_module_names
        if name_of(cls).startswith(_ONE_RUN) or (is_python and (_is_opaque(cls) or isinstance(value, Iterator))):
            return name_of(cls)
        reduce = copyreg.dispatch_table.get(cls)
        reduced = value.__reduce_ex__(2) if reduce is None else reduce(value)
        if isinstance(reduced, str):  # a constant, such as torch.float32, or a function in C
            return f"{_module_of(value)}.{reduced}{_installed(_module_of(value)) or ''}"
        make, args, state = (*reduced, None)[:3]
        if make is copyreg.__newobj__:  # type: ignore[attr-defined]
            make, *args = args
        if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):  # with __slots__
            state = {**(state[0] or {}), **state[1]}
        content = {"args": args} if args else {}
        content |= state if isinstance(state, dict) else {} if state is None else {"state": state}
        described = self({name: item for name, item in content.items() if not str(name).startswith(_NOT_STATE)})
        return {"of": self(make), **described} if described else self(make)

    def _code(self, code: Any) -> Any:
        """Return the label of code, `module.name #1a2b3c4d`; without a hash for installed packages."""
        for wrapper, attributes in _CODE_IN.items():
            if isinstance(code, wrapper):
                return [self(getattr(code, attribute)) for attribute in attributes]
        if isinstance(code, types.CodeType):
            return digest(self._instructions(code))
        name = name_of(code)
        if (version := _installed(_module_of(code))) is not None:
            return name + version
        if isinstance(code, types.FunctionType):
            return f"{name} #{digest(self._function(code))}"
        if isinstance(code, type):
            return f"{name} #{digest([self._class(each) for each in code.__mro__])}"
        return name

    def _class(self, cls: type) -> Any:
        if _installed(_module_of(cls)) is not None:
            return name_of(cls)
        # Skip what Python adds, such as __dict__ and __firstlineno__, and _abc_impl, which cloudpickle drops.
        own = {
            name: value
            for name, value in vars(cls).items()
            if not name.startswith("_abc_") and (isinstance(value, _CODE) or not (name.startswith("__") and name.endswith("__")))
        }
        return {name: self._reference(value) for name, value in sorted(own.items())}

    def _function(self, function: types.FunctionType) -> Any:
        codes = _codes(function.__code__)
        loaded = {step.argval for each in codes for step in dis.get_instructions(each) if step.opname == "LOAD_GLOBAL"}
        known = function.__globals__
        return {
            "code": self._instructions(function.__code__),
            "defaults": self([function.__defaults__, function.__kwdefaults__]),
            "closure": [self(cell.cell_contents) for cell in function.__closure__ or () if cell != types.CellType()],  # not empty
            "globals": {name: self._reference(known[name], codes) for name in sorted(loaded & known.keys())},
        }

    def _instructions(self, code: types.CodeType) -> Any:
        steps = [*dis.get_instructions(code)]
        stored = {place for place, step in enumerate(steps) if step.opname == "STORE_NAME" and step.argval in _ADDED}
        return [[step.opname, self._operand(step)] for place, step in enumerate(steps) if not {place, place + 1} & stored]

    def _operand(self, step: dis.Instruction) -> Any:
        if step.opname == "IMPORT_NAME":
            return module_label(step.argval)
        if step.opcode in dis.hasconst:
            return self(step.argval)
        return step.argval if step.opcode in dis.hasname else step.arg

    def _reference(self, value: Any, users: tuple[types.CodeType, ...] = ()) -> Any:
        """Describe a value that code refers to by name; opaque objects, whose state may change at run time, by type only."""
        if isinstance(value, types.ModuleType) and _installed(value.__name__) is None:
            used = {name for user in users for name in user.co_names} & vars(value).keys()
            return {name: self._reference(vars(value)[name]) for name in sorted(used)}
        return self(value) if isinstance(value, _CODE) or not _is_opaque(type(value)) else name_of(type(value))


def _is_opaque(cls: Any) -> bool:
    """Return whether objects of a class are equal only to themselves, and don't say how to make them again."""
    return bool(cls.__hash__ is object.__hash__ and cls.__reduce__ is object.__reduce__)


def _hashed(array: Any) -> str:
    """Return the shape, type and hash of an array, the same in any memory layout."""
    hashed = hashlib.sha256(array.tobytes())  # a copy in C order
    return f"{'×'.join(map(str, array.shape))} {array.dtype} #{hashed.hexdigest()[:8]}".strip()


def _of_tensor(tensor: Any) -> str:
    torch = sys.modules["torch"]
    kind = f"{list(tensor.shape)} {tensor.dtype} on {tensor.device.type}"
    if isinstance(tensor, torch.nn.Parameter):  # drawn at random
        return f"parameter of {kind}"
    return f"{kind}: {_hashed(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())}"


def _module_of(code: Any) -> str:
    module = code.__name__ if isinstance(code, types.ModuleType) else getattr(code, "__module__", None)
    return module if isinstance(module, str) else "builtins"


@functools.lru_cache(maxsize=4096)
def _installed(module: str) -> str | None:
    """Return the version of the package that a module belongs to, after a space if it counts; None for the user's own code."""
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names or top in _IN_FACTS:
        return ""
    # Code from the user's script is in __main__ in Ray's workers too, where __main__ itself is Ray's script.
    spec = None if top in ("__main__", "__mp_main__") else _spec_of(top)
    places = [] if spec is None else [spec.origin or "", *(spec.submodule_search_locations or ())]
    if any(part in place for place in places for part in ("site-packages", "dist-packages")):
        return f" {getattr(sys.modules.get(top), '__version__', '')}".rstrip()
    return None


def _spec_of(module: str) -> ModuleSpec | None:
    """Return the spec of a module without importing it or its parent packages."""
    spec, path, name = None, None, ""
    for part in module.split("."):
        name = f"{name}.{part}".lstrip(".")
        try:
            spec = PathFinder.find_spec(name, path)
        except (ImportError, ValueError):
            return None
        if spec is None:
            return None
        path = spec.submodule_search_locations
    return spec


def _codes(code: types.CodeType) -> tuple[types.CodeType, ...]:
    """Return a code object and all code objects nested in it."""
    inner = (each for each in code.co_consts if isinstance(each, types.CodeType))
    return (code, *(each for nested in inner for each in _codes(nested)))
