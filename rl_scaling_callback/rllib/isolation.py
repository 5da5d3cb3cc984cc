"""What keeps twins from affecting training: shared objects are found, global state is restored, calls end in time."""

from __future__ import annotations

import copy
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np

_LARGE_BYTES: Final = 2**20


class SharedData(dict[str, Any]):
    """An `env_config` whose deep copies share its large arrays, because RLlib copies the config in each env runner.

    The arrays of the copies are read-only, so that an env of a probe can't change what the envs in training see.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> SharedData:
        for array in _large_arrays(self, set()):
            memo[id(array)] = shared = array.view()
            shared.flags.writeable = False
        memo[id(self)] = copied = SharedData()  # it may contain itself
        copied.update({name: copy.deepcopy(value, memo) for name, value in self.items()})
        return copied


def _large_arrays(value: Any, seen: set[int]) -> Iterator[np.ndarray[Any, Any]]:
    if isinstance(value, np.ndarray) and value.nbytes >= _LARGE_BYTES and not value.dtype.hasobject:
        yield value
    elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
        seen.add(id(value))
        for each in value.values() if isinstance(value, dict) else value:
            yield from _large_arrays(each, seen)


def shared_part(env_runner: Any, twin: Any) -> Any:
    """Return an env, RLModule or connector that two env runners share and may change; None if there is none.

    A shared env is taken from the twin, so that the twin doesn't close it.
    """
    own = {id(part) for part in _parts(env_runner)}
    if any(id(env) in own for env in sub_envs(twin.env)):
        vars(twin.env.unwrapped)["closed"] = True  # else Gymnasium closes it when it is deleted
        env, twin.env = sub_envs(twin.env)[0], None
        return env
    return next((part for part in _parts(twin) if id(part) in own and _may_change(part)), None)


def _parts(env_runner: Any) -> list[Any]:
    pieces = [getattr(env_runner, name, None) for name in ("module", "_env_to_module", "_module_to_env")]
    pieces += getattr(pieces[0], "_rl_modules", {}).values()
    for piece in pieces:  # pipelines may contain pipelines
        pieces += getattr(piece, "connectors", [])
    return [*sub_envs(env_runner.env), *(piece for piece in pieces if piece is not None)]


def _may_change(part: Any) -> bool:
    # RLlib's connectors tell by `get_state` whether they have state; custom ones needn't.
    return not type(part).__module__.startswith("ray.rllib.connectors.") or bool(part.get_state())


def sub_envs(env: Any) -> list[Any]:
    """Return the envs of an env runner, without their wrappers; none if it has no env (the local one of some trials)."""
    if env is None:
        return []
    inner = env.unwrapped
    return [each.unwrapped for each in getattr(inner, "envs", [inner])]


def saved_generators() -> Callable[[], None]:
    """Return a function that restores the current state of the global random generators."""
    of_python, of_numpy = random.getstate(), np.random.get_state()
    torch = sys.modules.get("torch")
    of_torch = torch and torch.get_rng_state()
    cuda = torch and torch.cuda.is_available() and torch.cuda.is_initialized() and torch.cuda.get_rng_state_all()

    def restore() -> None:
        random.setstate(of_python)
        np.random.set_state(of_numpy)
        if torch is not None:
            torch.set_rng_state(of_torch)
            if cuda:
                torch.cuda.set_rng_state_all(cuda)

    return restore


class Overdue(BaseException):
    """Interrupts a block that takes too long. Not an `Exception`, so that RLlib and envs don't handle it as an env failure."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `Overdue` in the block after `seconds`, and again every second. Needs POSIX timers and the main thread."""
    if os.name != "posix" or threading.current_thread() is not threading.main_thread():
        yield
        return

    armed = True

    def ring(*_: Any) -> None:
        if armed:
            raise Overdue

    timer, handler = signal.getitimer(signal.ITIMER_REAL), signal.signal(signal.SIGALRM, ring)
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
            yield
        finally:
            armed = False
    finally:  # even if the alarm rang between the block and the line above
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, signal.SIG_DFL if handler is None else handler)
