"""Second env runners inside the processes of an Algorithm's env runners, where `prober` and `rescale` call these functions.

A twin is an env runner of the same class as the original, with another number of envs. It gets the weights and connector states of
the original. In a probe, its samples don't go to training, and nothing it does affects training: objects that both would share are
found, global state is restored, and calls end in time.
"""

from __future__ import annotations

import copy
import functools
import gc
import inspect
import itertools
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import gymnasium
import numpy as np
import ray
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.util.metrics import Metric

from rl_scaling_callback.core.probing import ProbeError, ProbeTimeoutError
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.text import counted
from rl_scaling_callback.rllib.clocks import SampleTiming

_TWINS: Final = "_scaling_twins"
_RESETS: Final = "_scaling_resets_s"
_ENV: Final = "_scaling_original_env"
_RLLIBS_ENVS: Final = ("rllib-single-agent-env-v0", "rllib-multi-agent-env-v0")


class Sample(NamedTuple):
    """A twin's sample: its times without and in env resets [s], and its episodes and metrics."""

    env_steps: float
    busy: float
    reset: float
    data: tuple[Any, Any]


@dataclass(slots=True)
class _Twins:
    """The twins of an env runner, by envs per env runner; during a probe, the current one, and what to do at its end."""

    by_envs: dict[int, Any] = field(default_factory=dict)
    current: Any = None
    failed: bool = False
    restore_generators: Callable[[], None] | None = None


class _TimedResets(SampleTiming, RLlibCallback):
    """The callback of a twin: measures its time in env resets."""

    def on_environment_created(self, *, env_runner: Any, **kwargs: Any) -> None:
        self._time_samples(env_runner)

    def on_sample_end(self, *, env_runner: Any = None, **kwargs: Any) -> None:
        if self._sampling is not None:
            vars(env_runner)[_RESETS] = vars(env_runner).get(_RESETS, 0.0) + self._sampling.take().get("reset", 0.0)


def _twins_of(env_runner: Any) -> _Twins:
    twins: _Twins = vars(env_runner).setdefault(_TWINS, _Twins())
    return twins


def take_resets(env_runner: Any) -> float:
    """Return the time that a twin has spent in env resets since the last call [s]."""
    seconds: float = vars(env_runner).pop(_RESETS, 0.0)
    return seconds


def _guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Limit a function's time, and make it return a `ProbeError` instead of raising: RLlib drops an env runner that raises."""

    @functools.wraps(function)
    def guarded(env_runner: Any, *, seconds: float, **kwargs: Any) -> Any:
        try:
            with time_limit(seconds):
                return function(env_runner, **kwargs)
        except Overdue:
            answer: ProbeError = ProbeTimeoutError(f"A call took more than {seconds:.1f} s.")
        except Exception as error:
            answer = error if isinstance(error, ProbeError) else ProbeError(f"{text_of(error)}.")
        _twins_of(env_runner).failed = True
        return answer

    return guarded


@_guarded
def prepare(env_runner: Any, *, scale: Scale) -> tuple[float, float]:
    """Create or reuse the twin for a scale and warm it up.

    Returns:
        The time of a vector step [s], and the env steps of a call of the algorithm's own; 0 if calls can't request a number.
    """
    twins, envs = _twins_of(env_runner), scale.num_envs_per_env_runner
    twins.restore_generators = saved_generators()
    try:
        twin = twins.current = twin_for(env_runner, scale)
    except Exception as error:
        more = counted(envs, "more env")
        raise ProbeError(f"{more} can't be created next to its own env in one process ({text_of(error)}).") from error
    if (shared := shared_part(env_runner, twin)) is not None:
        remedy = "Let the function that returns it create a new one in each call"
        raise ProbeError(f"probes would change the {type(shared).__name__} that training uses. {remedy}.")
    _copy_state(env_runner, twin)
    cuttable = "num_timesteps" in inspect.signature(twin.sample).parameters
    for _ in range(2):  # the first pass resets the envs and fills caches
        started = time.perf_counter()
        samples = twin.sample(num_timesteps=2 * envs) if cuttable else twin.sample()
        seconds = time.perf_counter() - started
    twin.get_metrics()
    take_resets(twin)
    whole = not cuttable or twin.config.batch_mode != "truncate_episodes"
    own = 0 if whole else envs * twin.config.get_rollout_fragment_length(env_runner.worker_index)
    return seconds * envs / max(envs, _env_steps(samples)), own


@_guarded
def sample(env_runner: Any, *, steps: int | None) -> Sample:
    """Sample with the current twin: `steps` env steps, or as many as the algorithm's own call if None."""
    twin = _twins_of(env_runner).current
    started = time.perf_counter()
    samples = twin.sample() if steps is None else twin.sample(num_timesteps=steps)
    seconds = time.perf_counter() - started
    reset = take_resets(twin)
    return Sample(_env_steps(samples), seconds - reset, reset, (samples, twin.get_metrics()))


@_guarded
def set_weights(env_runner: Any, *, state: Any) -> None:
    """Give the current twin the weights that `state` refers to."""
    _twins_of(env_runner).current.set_state(ray.get(state))


@_guarded
def finish(env_runner: Any) -> None:
    """End a probe: restore the global random generators, and close its twin if a call failed."""
    twins = _twins_of(env_runner)
    twin, failed = twins.current, twins.failed
    twins.current, twins.failed = None, False
    try:
        if failed and twin is not None:
            twins.by_envs = {envs: each for envs, each in twins.by_envs.items() if each is not twin}
            _stop(twin)
    finally:
        if twins.restore_generators is not None:
            twins.restore_generators()
            twins.restore_generators = None


@_guarded
def close(env_runner: Any) -> None:
    """Close all twins of an env runner."""
    twins = vars(env_runner).pop(_TWINS, None)
    if twins is not None:
        restore_generators = saved_generators()
        try:
            _close_all(twins)
        finally:
            restore_generators()


def twin_for(env_runner: Any, scale: Scale) -> Any:
    """Return the twin of an env runner for a scale: a kept one or a new one."""
    twins = _twins_of(env_runner)
    twin = twins.by_envs.pop(scale.num_envs_per_env_runner, None)
    if twin is not None and vars(twin)[_ENV] is not env_runner.env:
        # The original's env was made anew, perhaps with another config (as in a curriculum): so is the twin's.
        _stop(twin)
        twin = None
    if twin is None:
        try:
            twin = _twin_of(env_runner, scale)
        except Exception:
            if not twins.by_envs:
                raise
            # Licences, ports or memory may not suffice for all the envs: close the others and retry.
            _close_all(twins)
            gc.collect()
            twin = _twin_of(env_runner, scale)
    twin.config.num_env_runners = scale.num_env_runners
    vars(twin)[_ENV] = env_runner.env
    copy_tasks(env_runner.env, twin.env)
    twins.by_envs[scale.num_envs_per_env_runner] = twin
    return twin


def copy_tasks(env: Any, others: Any) -> None:
    """Give an env runner's envs the tasks of another's in turn, if these have some (RLlib's `TaskSettableEnv`)."""
    with suppress(Exception):
        tasks = [each.get_task() for each in sub_envs(env) if hasattr(each, "get_task")]
        for each, task in zip(sub_envs(others), itertools.cycle(tasks), strict=False):
            each.set_task(task)


def _twin_of(env_runner: Any, scale: Scale) -> Any:
    config = env_runner.config.copy(copy_frozen=False)
    config.num_env_runners = scale.num_env_runners
    config.num_envs_per_env_runner = scale.num_envs_per_env_runner
    config.seed = None  # else the constructor seeds the global generators
    config.restart_failed_sub_environments = False  # else it retries forever
    config.callbacks_class = _TimedResets
    for name in vars(config):
        if name.startswith("callbacks_on_"):
            setattr(config, name, None)
    for name in _RLLIBS_ENVS:
        gymnasium.registry.pop(name, None)  # env runners register their env anew, and Gymnasium would warn
    twin = type(env_runner)(
        config=config,
        worker_index=env_runner.worker_index,
        num_workers=scale.num_env_runners,
        spaces=getattr(env_runner, "spaces", None) or env_runner.get_spaces(),
        tune_trial_id=getattr(env_runner, "tune_trial_id", None),
    )
    for value in vars(twin).values():
        if isinstance(value, Metric):
            # Ray metrics belong to the process: a twin must not count into them.
            vars(value)["inc"] = lambda *_, **__: None
    return twin


def _copy_state(env_runner: Any, twin: Any) -> None:
    if hasattr(env_runner, "get_state"):
        # Components may return their state itself instead of a copy.
        state = copy.deepcopy(dict(env_runner.get_state()))
        state.pop("weights_seq_no", None)  # weights without a number are always accepted
        twin.set_state(state)


def _env_steps(samples: Any) -> float:
    return float(sum(episode.env_steps() for episode in samples))


def _close_all(twins: _Twins) -> None:
    while twins.by_envs:
        _stop(twins.by_envs.popitem()[1])


def _stop(twin: Any) -> None:
    with suppress(Exception, Overdue):  # the time limit rings again, so that each of several twins has at least a second
        twin.stop()
    vars(twin).clear()  # Gymnasium's registry keeps it alive


def text_of(error: BaseException) -> str:
    """Return an error's type and message in one line."""
    # RLlib raises an error without a message, whose cause is the env's.
    if not str(error) and error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}".strip()[:500]


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
