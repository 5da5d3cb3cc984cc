"""Labels code by its content: the same label in every process that runs the same code, a different one if the code differs.

The label of a function or class is its name and a hash of its bytecode, constants, defaults, closure values, and the code and
plain values that it refers to. Variable names, line numbers, comments and docstrings of functions don't count. Code of installed
packages is labelled by name and version, opaque objects by name only.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import json
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import date, time, timedelta, tzinfo
from decimal import Decimal
from fractions import Fraction
from importlib.machinery import ModuleSpec, PathFinder
from inspect import CO_OPTIMIZED
from typing import Any, Final

Describe = Callable[[Any], Any]
"""Converts a value to plain JSON types."""

_CACHED: Final = type(functools.lru_cache(print))
_WRAPPERS: Final = {classmethod: "__func__", staticmethod: "__func__", functools.cached_property: "func", _CACHED: "__wrapped__"}
"""The attribute of each wrapper of code that holds the code."""

_CODE: Final = (
    type,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.ModuleType,
    types.CodeType,
    functools.partial,
    property,
    *_WRAPPERS,
)
_CONSTANTS: Final = (complex, range, slice, Decimal, Fraction, date, time, timedelta, tzinfo)
_CONSTANTS_OF_TORCH: Final = frozenset({"dtype", "device", "layout", "memory_format"})

_IN_FACTS: Final = frozenset({"ray", "torch", "gymnasium", "mujoco", "rl_scaling_callback"})
"""Packages whose versions are workload facts already, or whose code doesn't affect the workload."""

_ADDED: Final = frozenset({"__qualname__", "__firstlineno__", "__static_attributes__"})
"""Names that Python itself sets in a class body, from constants that it may share with the user's code."""


def digest(description: object) -> str:
    """Return an 8-digit hexadecimal hash of a value in plain JSON types."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:8]


def is_code(value: object) -> bool:
    """Return whether a value is code: a function, class, module, or a wrapper of one."""
    return isinstance(value, _CODE)


def is_constant(value: object) -> bool:
    """Return whether a value can't change, and its `repr` says all about it."""
    kind = type(value)
    return isinstance(value, _CONSTANTS) or (kind.__module__ == "torch" and kind.__name__ in _CONSTANTS_OF_TORCH)


def label(code: Any, describe: Describe) -> Any:
    """Return the label of code, `module.name #1a2b3c4d`; without a hash for installed packages.

    Args:
        code: an object for which `is_code` is true.
        describe: describes the values that it refers to, including code.
    """
    if isinstance(code, functools.partial):
        return {"partial": describe(code.func), "args": describe(code.args), "keywords": describe(code.keywords)}
    if isinstance(code, types.MethodType):
        return {"method": describe(code.__func__), "of": describe(code.__self__)}
    if isinstance(code, property):
        return [describe(each) for each in (code.fget, code.fset) if each is not None]
    for wrapper, attribute in _WRAPPERS.items():
        if isinstance(code, wrapper):
            return describe(getattr(code, attribute))
    if isinstance(code, types.CodeType):
        return digest(_of_code(code, describe))
    name = name_of(code)
    if is_library(code):
        return name + _version(_module_of(code))
    if isinstance(code, types.FunctionType):
        return f"{name} #{digest(_of_function(code, describe))}"
    if isinstance(code, type):
        return f"{name} #{digest([_of_class(each, describe) for each in code.__mro__])}"
    return name


def name_of(code: Any) -> str:
    """Return the qualified name of code, including its module."""
    if isinstance(code, types.ModuleType):
        return code.__name__
    return f"{_module_of(code)}.{getattr(code, '__qualname__', type(code).__qualname__)}"


def is_library(code: Any) -> bool:
    """Return whether code belongs to Python or to an installed package."""
    return _is_installed(_module_of(code))


@functools.lru_cache(maxsize=256)
def module_label(module: str) -> str:
    """Return the label of a module without importing it: with a hash of its source."""
    if _is_installed(module):
        return module + _version(module)
    spec = _spec_of(module)
    with suppress(AttributeError, OSError):  # other loaders, and no file
        return f"{module} #{hashlib.sha256(spec.loader.get_data(spec.origin)).hexdigest()[:8]}"  # type: ignore[union-attr]
    return module


def _module_of(code: Any) -> str:
    if isinstance(code, types.ModuleType):
        return code.__name__
    module = getattr(code, "__module__", None) or getattr(getattr(code, "__objclass__", None), "__module__", None)
    return module if isinstance(module, str) else "builtins"


@functools.lru_cache(maxsize=4096)
def _is_installed(module: str) -> bool:
    top = module.partition(".")[0]
    # Code from the user's script is in __main__ in Ray's workers too, where __main__ itself is Ray's script.
    if top in ("__main__", "__mp_main__"):
        return False
    if top in sys.stdlib_module_names or top in _IN_FACTS:
        return True
    spec = _spec_of(top)
    places = [] if spec is None else [spec.origin or "", *(spec.submodule_search_locations or ())]
    return any(part in place for place in places for part in ("site-packages", "dist-packages"))


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


def _version(module: str) -> str:
    top = module.partition(".")[0]
    version = None if top in _IN_FACTS else getattr(sys.modules.get(top), "__version__", None)
    return f" {version}" if isinstance(version, str) and top not in sys.stdlib_module_names else ""


def _of_class(cls: type, describe: Describe) -> Any:
    if is_library(cls):
        return name_of(cls)
    # Skip what Python adds, such as __dict__ and __firstlineno__, and _abc_impl, which cloudpickle drops.
    own = {
        name: value
        for name, value in vars(cls).items()
        if not name.startswith("_abc_") and (is_code(value) or not (name.startswith("__") and name.endswith("__")))
    }
    return {name: _of_reference(value, describe) for name, value in sorted(own.items())}


def _of_function(function: types.FunctionType, describe: Describe) -> Any:
    codes = _codes(function.__code__)
    names = sorted({name for each in codes for name in _names_at(each, "LOAD_GLOBAL")} & function.__globals__.keys())
    return {
        "code": _of_code(function.__code__, describe, function.__doc__),
        "defaults": describe([function.__defaults__, function.__kwdefaults__]),
        "closure": [describe(value) for value in _cells(function)],
        "globals": {name: _of_reference(function.__globals__[name], describe, codes) for name in names},
    }


def _of_code(code: types.CodeType, describe: Describe, docstring: str | None = None) -> Any:
    imported = [module_label(name) for name in _names_at(code, "IMPORT_NAME") if name]
    constants = code.co_consts
    if docstring is not None and constants[:1] == (docstring,):
        constants = (None, *constants[1:])
    elif not code.co_flags & CO_OPTIMIZED:  # a class body
        steps = [(each.opname, each.argval) for each in dis.get_instructions(code)]
        targets = [name if operation == "STORE_NAME" else "" for operation, name in steps[1:]] + [""]
        body = [[name, describe(value)] for (name, value), target in zip(steps, targets, strict=True) if target not in _ADDED]
        return [body, imported]
    return [code.co_code.hex(), code.co_names, [describe(each) for each in constants], imported]


def _of_reference(value: Any, describe: Describe, users: tuple[types.CodeType, ...] = ()) -> Any:
    """Describe a value that code refers to by name; for objects, whose state may change at run time, only the type."""
    if isinstance(value, types.ModuleType) and not is_library(value):
        used = {name for user in users for name in user.co_names} & vars(value).keys()
        return {name: _of_reference(vars(value)[name], describe) for name in sorted(used)}
    plain = (bool, int, float, str, bytes, list, tuple, dict, set, frozenset)
    if value is None or is_code(value) or is_constant(value) or isinstance(value, plain):
        return describe(value)
    return name_of(type(value))


def _cells(function: types.FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # empty cell
            yield cell.cell_contents


def _codes(code: types.CodeType) -> tuple[types.CodeType, ...]:
    """Return a code object and all code objects nested in it."""
    inner = (each for each in code.co_consts if isinstance(each, types.CodeType))
    return (code, *(each for nested in inner for each in _codes(nested)))


@functools.lru_cache(maxsize=4096)
def _names_at(code: types.CodeType, operation: str) -> tuple[str, ...]:
    """Return the names that the instructions of one kind refer to."""
    return tuple(each.argval for each in dis.get_instructions(code) if each.opname == operation)
