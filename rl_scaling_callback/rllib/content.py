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
    classmethod,
    staticmethod,
    property,
    functools.cached_property,
    _CACHED,
)
_CONSTANTS: Final = (complex, range, slice, Decimal, Fraction, date, time, timedelta, tzinfo)
_CONSTANTS_OF_TORCH: Final = frozenset({"dtype", "device", "layout", "memory_format"})

_IN_FACTS: Final = frozenset({"ray", "torch", "gymnasium", "mujoco", "rl_scaling_callback"})
"""Packages whose versions are workload facts already, or whose code doesn't affect the workload."""

_ADDED: Final = frozenset({"__qualname__", "__firstlineno__", "__static_attributes__"})
"""Names that Python itself sets in a class body, from constants that it may share with the user's code."""

_LOAD_GLOBAL: Final = dis.opmap["LOAD_GLOBAL"]
_IMPORT_NAME: Final = dis.opmap["IMPORT_NAME"]
_GLOBAL_SHIFT: Final = 1 if sys.version_info >= (3, 11) else 0  # the lowest bit is a flag


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
    if isinstance(code, (classmethod, staticmethod)):
        return describe(code.__func__)
    if isinstance(code, functools.cached_property):
        return describe(code.func)
    if isinstance(code, _CACHED):
        return describe(code.__wrapped__)
    if isinstance(code, types.CodeType):
        return digest(_of_code(code, describe))
    name = name_of(code)
    if is_library(code):
        return name + _version(_module_of(code))
    body: Any = None
    if isinstance(code, types.FunctionType):
        body = _of_function(code, describe)
    elif isinstance(code, type):
        body = [_of_class(each, describe) for each in code.__mro__]
    return name if body is None else f"{name} #{digest(body)}"


def name_of(code: Any) -> str:
    """Return the qualified name of code, including its module."""
    if isinstance(code, types.ModuleType):
        return code.__name__
    return f"{_module_of(code)}.{getattr(code, '__qualname__', type(code).__qualname__)}"


def is_library(code: Any) -> bool:
    """Return whether code belongs to Python or to an installed package."""
    return _is_installed(_module_of(code))


def is_python(code: Any) -> bool:
    """Return whether code belongs to Python itself."""
    return _module_of(code).partition(".")[0] in sys.stdlib_module_names


@functools.lru_cache(maxsize=256)
def module_label(module: str) -> str:
    """Return the label of a module without importing it."""
    if _is_installed(module):
        return module + _version(module)
    spec = _spec_of(module)
    try:
        code = spec.loader.get_code(module)  # type: ignore[union-attr]  # other loaders are caught
    except (AttributeError, ImportError, SyntaxError, OSError):
        code = None
    return module if code is None else f"{module} #{digest(_of_code(code, _describe_constant))}"


def _describe_constant(value: Any) -> Any:
    """Return a constant of an unimported module in plain JSON types."""
    if isinstance(value, types.CodeType):
        return digest(_of_code(value, _describe_constant))
    return sorted(map(repr, value)) if isinstance(value, frozenset) else repr(value)


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
    code = function.__code__
    docstring = function.__doc__
    return {
        "code": _of_code(code, describe, docstring),
        "defaults": describe([function.__defaults__, function.__kwdefaults__]),
        "closure": [describe(value) for value in _cells(function)],
        "globals": {
            name: _of_reference(function.__globals__[name], describe, _codes(code))
            for name in sorted({name for each in _codes(code) for name in _names_at(each, _LOAD_GLOBAL, _GLOBAL_SHIFT)})
            if name in function.__globals__
        },
    }


def _of_code(code: types.CodeType, describe: Describe, docstring: str | None = None) -> Any:
    imported = [module_label(name) for name in _names_at(code, _IMPORT_NAME) if name]
    constants = code.co_consts
    if docstring is not None and constants[:1] == (docstring,):
        constants = (None, *constants[1:])
    elif not code.co_flags & CO_OPTIMIZED and code.co_name != "<module>":
        return [_of_class_body(code, describe), imported]
    return [code.co_code.hex(), code.co_names, [describe(each) for each in constants], imported]


def _of_class_body(code: types.CodeType, describe: Describe) -> Any:
    steps = [(each.opname, each.argval) for each in dis.get_instructions(code)]
    following = [name if operation == "STORE_NAME" else "" for operation, name in steps[1:]] + [""]
    return [[name, describe(value)] for (name, value), target in zip(steps, following, strict=True) if target not in _ADDED]


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


def _names_at(code: types.CodeType, operation: int, shift: int = 0) -> Iterator[str]:
    """Yield the name operands of all instructions with one opcode."""
    operations, arguments = code.co_code[::2], code.co_code[1::2]
    at = operations.find(operation)
    while at >= 0:
        argument, before, bits = arguments[at], at - 1, 8
        while before >= 0 and operations[before] == dis.EXTENDED_ARG:
            argument |= arguments[before] << bits
            before, bits = before - 1, bits + 8
        yield code.co_names[argument >> shift]
        at = operations.find(operation, at + 1)
