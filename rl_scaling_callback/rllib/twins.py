"""Second env runners inside the processes of an Algorithm's env runners. `rllib.prober` calls these functions there.

A twin is an env runner of the same class as the original, with another number of envs. It gets the weights and connector states of
the original, and doesn't return its samples to training.

The functions return errors in an `Answer`, because RLlib drops an env runner in which a function raises.
"""

from __future__ import annotations

import copy
import functools
import gc
import inspect
import os
import random
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import ray
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.util.metrics import Metric

from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.rllib.sampling import SamplingClock, clock_of


class _Overdue(BaseException):
    """Interrupts a call that takes too long. Not an `Exception`, so that RLlib and envs don't handle it as an env failure."""


class _RefusedError(Exception):
    """A twin can't be used. The message gives the reason."""


@dataclass(slots=True)
class Answer:
    """An env runner's answer to a call.

    Attributes:
        seconds: time measured in the env runner.
        reset: the part of it in env resets.
        env_steps: number of env steps sampled, or requested by the algorithm's own calls; 0 if calls can't request a number.
        error: error message; "" if none.
        late: whether it took too long.
        data: what the algorithm's own call would have returned.
    """

    seconds: float = 0.0
    reset: float = 0.0
    env_steps: float = 0.0
    error: str = ""
    late: bool = False
    data: Any = None


class _TimedResets(RLlibCallback):
    """The callback of a twin: measures the time of env resets in each sample."""

    _clock: SamplingClock | None = None

    def on_environment_created(self, *, env_runner: Any, **kwargs: Any) -> None:
        self._clock = clock_of(env_runner)

    def on_episode_start(self, **kwargs: Any) -> None:
        if self._clock is not None:
            self._clock.count_episode_start()

    def on_episode_step(self, **kwargs: Any) -> None:
        if self._clock is not None:
            self._clock.count_env_step()

    def on_episode_end(self, **kwargs: Any) -> None:
        if self._clock is not None:
            self._clock.count_episode_end()

    def on_sample_end(self, *, env_runner: Any = None, samples: Any = None, **kwargs: Any) -> None:
        if self._clock is not None:
            vars(env_runner)[_RESETS] = reset = self._clock.take().get("reset", 0.0)
            vars(env_runner)[_ALL_RESETS] = reset + vars(env_runner).get(_ALL_RESETS, 0.0)


def take_resets(env_runner: Any) -> float:
    """Return the time that a twin has spent in env resets since the last call [s]."""
    seconds: float = vars(env_runner).pop(_ALL_RESETS, 0.0)
    return seconds


@dataclass(slots=True)
class _Twins:
    """The twins of an env runner, by (local, envs per env runner), and what to restore after a probe.

    Attributes:
        shares_data: whether they share large arrays of its `env_config`.
    """

    shares_data: bool = True
    by_envs: dict[tuple[bool, int], Any] = field(default_factory=dict)
    current: Any = None
    intact: bool = False
    generators: Callable[[], None] | None = None


_ATTRIBUTE: Final = "_scaling_twins"
_RESETS: Final = "_scaling_reset_s"
_ALL_RESETS: Final = "_scaling_all_resets_s"
_ENV: Final = "_scaling_original_env"


def _guarded(function: Callable[..., Answer]) -> Callable[..., Answer]:
    """Make a function return its error or lateness in the answer instead of raising."""

    @functools.wraps(function)
    def guarded(env_runner: Any, *, seconds: float, **kwargs: Any) -> Answer:
        try:
            with _within(seconds):
                return function(env_runner, **kwargs)
        except _Overdue:
            return Answer(late=True)
        except _RefusedError as error:
            return Answer(error=str(error))
        except Exception as error:
            return Answer(error=text_of(error))

    return guarded


@_guarded
def prepare(env_runner: Any, *, scale: Scale, keep_others: bool) -> Answer:
    """Create or reuse the twin for a scale and warm it up; return the time of a vector step and the env steps of an own call."""
    twins = vars(env_runner).setdefault(_ATTRIBUTE, _Twins())
    if twins.generators is None:
        twins.generators = _saved_generators()
    try:
        return _prepare(env_runner, twins, scale, keep_others)
    except Exception as error:
        if not twins.shares_data or "read-only" not in text_of(error):
            raise
        # The env writes to an array of its `env_config`.
        twins.shares_data = False
        _close_all(twins)
        return _prepare(env_runner, twins, scale, keep_others)


def _prepare(env_runner: Any, twins: _Twins, scale: Scale, keep_others: bool) -> Answer:
    try:
        twin = twin_for(env_runner, scale, keep_others)
    except Exception as error:
        raise _RefusedError(f"{_envs(scale)} can't be created next to its own env in one process ({text_of(error)})") from error
    shared = _shared_state(env_runner, twin)
    if shared:
        twins.by_envs = {key: each for key, each in twins.by_envs.items() if each is not twin}
        _stop(twin)
        remedy = "Let the function that returns it create a new one in each call"
        raise _RefusedError(f"probes would change {shared} that training uses. {remedy}")
    twins.current, twins.intact = twin, False
    _copy_state(env_runner, twin)
    cuttable, envs = "num_timesteps" in inspect.signature(twin.sample).parameters, scale.num_envs_per_env_runner
    for _ in range(2):  # the first pass resets the envs and fills caches
        started = time.perf_counter()
        samples = twin.sample(num_timesteps=2 * envs) if cuttable else twin.sample()
        seconds = time.perf_counter() - started
    twin.get_metrics()
    twins.intact = True
    whole = not cuttable or twin.config.batch_mode != "truncate_episodes"
    own = 0 if whole else envs * twin.config.get_rollout_fragment_length(env_runner.worker_index)
    return Answer(seconds=seconds * envs / max(envs, _env_steps(samples)), env_steps=own)


@_guarded
def sample(env_runner: Any, *, steps: int | None, by_reference: bool) -> Answer:
    """Sample with the current twin: `steps` env steps, or as many as the algorithm's own call if None."""
    twins = getattr(env_runner, _ATTRIBUTE)
    twin, twins.intact = twins.current, False
    started = time.perf_counter()
    samples = twin.sample() if steps is None else twin.sample(num_timesteps=steps)
    seconds = time.perf_counter() - started
    answer = Answer(seconds=seconds, reset=vars(twin).get(_RESETS, 0.0), env_steps=_env_steps(samples))
    # The transfer to the learner is part of sampling: through the Algorithm's process or, for asynchronous algorithms, the object
    # store.
    metrics = twin.get_metrics()
    if by_reference:
        ray.put(samples)
    else:
        answer.data = samples, metrics
    twins.intact = True
    return answer


@_guarded
def set_weights(env_runner: Any, *, state: Any) -> Answer:
    """Give the current twin the weights that `state` refers to."""
    twins = vars(env_runner).get(_ATTRIBUTE)
    if twins is not None and twins.current is not None:
        twins.current.set_state(ray.get(state))
    return Answer()


@_guarded
def finish(env_runner: Any, *, keep: bool) -> Answer:
    """End a probe: restore the global random generators, and close the twin if it was interrupted or is not to be kept."""
    twins = vars(env_runner).get(_ATTRIBUTE)
    if twins is None:
        return Answer()
    try:
        current, twins.current = twins.current, None
        if current is not None and not twins.intact:  # don't reuse a twin after an error or interruption
            twins.by_envs = {key: twin for key, twin in twins.by_envs.items() if twin is not current}
            twins.shares_data = False  # the error may come from writing to it
            _stop(current)
        if not keep:
            _close_all(twins)
    finally:
        if twins.generators is not None:
            twins.generators()
            twins.generators = None
    return Answer()


@_guarded
def close(env_runner: Any) -> Answer:
    """Close all twins of an env runner."""
    twins = vars(env_runner).pop(_ATTRIBUTE, None)
    if twins is not None:
        restore = _saved_generators()
        try:
            _close_all(twins)
        finally:
            restore()
    return Answer()


def _envs(scale: Scale) -> str:
    return "another env" if scale.num_envs_per_env_runner == 1 else f"{scale.num_envs_per_env_runner} more envs"


def twin_for(env_runner: Any, scale: Scale, keep_others: bool) -> Any:
    """Return the twin of an env runner for a scale: a kept one or a new one."""
    twins = vars(env_runner).setdefault(_ATTRIBUTE, _Twins())
    key = (scale.num_env_runners == 0, scale.num_envs_per_env_runner)
    twin = twins.by_envs.pop(key, None)
    if twin is not None and vars(twin)[_ENV]() is not env_runner.env:
        # The original's env was made anew, perhaps with another config (as in a curriculum): so is the twin's.
        _stop(twin)
        twin = None
    if not keep_others:
        _close_all(twins)
    if twin is None:
        try:
            twin = _twin_of(env_runner, scale, twins.shares_data)
        except Exception:
            if not twins.by_envs:
                raise
            # Licences, ports or memory may not suffice for all the envs: close the others and retry.
            _close_all(twins)
            gc.collect()
            twin = _twin_of(env_runner, scale, twins.shares_data)
    twin.config.num_env_runners = scale.num_env_runners
    vars(twin)[_ENV] = _reference_to(env_runner.env)
    copy_task(env_runner.env, twin.env)
    twins.by_envs[key] = twin
    return twin


def _reference_to(env: Any) -> Callable[[], Any]:
    try:
        return weakref.ref(env)
    except TypeError:
        return lambda: env


def copy_task(env: Any, others: Any) -> None:
    """Give an env runner's envs the task of another's, if they have one (RLlib's `TaskSettableEnv`)."""
    with suppress(Exception):
        task = next(each.get_task() for each in _sub_envs(env) if hasattr(each, "get_task"))
        for each in _sub_envs(others):
            each.set_task(task)


def _sub_envs(env: Any) -> list[Any]:
    inner = env.unwrapped
    return [each.unwrapped for each in getattr(inner, "envs", [inner])]


def _twin_of(env_runner: Any, scale: Scale, shares_data: bool) -> Any:
    config = copy.copy(env_runner.config)
    if shares_data and type(config.env_config) is dict:
        vars(config)["env_config"] = _SharedData(config.env_config)
    config = config.copy(copy_frozen=False)
    config.num_env_runners = scale.num_env_runners
    config.num_envs_per_env_runner = scale.num_envs_per_env_runner
    config.seed = None  # else the constructor seeds the global generators
    config.restart_failed_sub_environments = False  # else it retries forever
    config.callbacks_class = _TimedResets
    for name in vars(config):
        if name.startswith("callbacks_on_"):
            setattr(config, name, None)
    with _rllibs_envs_registered():
        twin = type(env_runner)(
            env_creator=None,
            validate_env=None,
            default_policy_class=None,
            config=config,
            worker_index=env_runner.worker_index,
            num_workers=scale.num_env_runners,
            recreated_worker=False,
            log_dir=None,
            spaces=getattr(env_runner, "spaces", None) or env_runner.get_spaces(),
            dataset_shards=None,
            tune_trial_id=getattr(env_runner, "tune_trial_id", None),
        )
    for value in vars(twin).values():
        if isinstance(value, Metric):
            # Ray metrics belong to the process: a twin must not count into them.
            vars(value)["inc"] = _do_nothing
    return twin


class _SharedData(dict[str, Any]):
    """An `env_config` whose deep copies share its large arrays, because RLlib copies the config in each env runner.

    The arrays of the copies are read-only, so that an env of a probe can't change what the envs in training see.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> _SharedData:
        for array in _large_arrays(self, set()):
            memo[id(array)] = shared = array.view()
            shared.flags.writeable = False
        return _SharedData({name: copy.deepcopy(value, memo) for name, value in self.items()})


_LARGE_BYTES: Final = 2**20


def _large_arrays(value: Any, seen: set[int]) -> Iterator[np.ndarray[Any, Any]]:
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, np.ndarray) and value.nbytes >= _LARGE_BYTES and not value.dtype.hasobject:
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _large_arrays(each, seen)


def _copy_state(env_runner: Any, twin: Any) -> None:
    if not hasattr(env_runner, "get_state"):
        return
    # Components may return their state itself instead of a copy.
    state = copy.deepcopy(dict(env_runner.get_state()))
    state.pop("weights_seq_no", None)  # weights without a number are always accepted
    twin.set_state(state)


def _shared_state(env_runner: Any, twin: Any) -> str:
    """Return what with state a twin shares with its original; "" if nothing.

    A shared env is taken from the twin, so that the twin doesn't close it.
    """
    own = {id(part) for parts in (_connectors, _modules, _envs_in) for part in parts(env_runner)}
    if any(id(env) in own for env in _envs_in(twin)):
        vars(twin.env.unwrapped)["closed"], twin.env = True, None
        return "the env"
    for module in _modules(twin):
        if id(module) in own:
            return f"the RLModule {type(module).__name__}"
    for connector in _connectors(twin):
        if id(connector) in own and _has_state(connector):
            return f"the connector {type(connector).__name__}"
    return ""


def _envs_in(env_runner: Any) -> list[Any]:
    env = getattr(env_runner, "env", None)
    return [] if env is None else _sub_envs(env)


def _modules(env_runner: Any) -> list[Any]:
    module = getattr(env_runner, "module", None)
    return [each for each in (module, *getattr(module, "_rl_modules", {}).values()) if each is not None]


def _connectors(env_runner: Any) -> list[Any]:
    pieces = [getattr(env_runner, name, None) for name in ("_env_to_module", "_module_to_env")]
    for piece in pieces:  # pipelines may contain pipelines
        pieces += getattr(piece, "connectors", [])
    return [piece for piece in pieces if piece is not None]


def _has_state(connector: Any) -> bool:
    """Return whether a connector may keep something from one call to the next. Custom ones needn't tell by `get_state`."""
    if connector.get_state() or type(connector).__module__.startswith("ray.rllib."):
        return bool(connector.get_state())
    return bool(vars(connector).keys() - vars(_Stateless()).keys())


class _Stateless(ConnectorV2):
    """A connector with the attributes that every connector has."""

    __call__: Any = None


def _env_steps(samples: Any) -> float:
    return float(sum(episode.env_steps() for episode in samples))


def _close_all(twins: _Twins) -> None:
    while twins.by_envs:
        _stop(twins.by_envs.popitem()[1])


def _stop(twin: Any) -> None:
    with suppress(Exception):
        twin.stop()


def _do_nothing(*_: Any, **__: Any) -> None:
    pass


def text_of(error: BaseException) -> str:
    """Return an error's type and message in one line."""
    # RLlib raises an error without a message, whose cause is the env's.
    if not str(error) and error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}".strip()[:500]


@contextmanager
def _rllibs_envs_registered() -> Iterator[None]:
    """Preserve the envs that RLlib registered in gymnasium for the original env runner."""
    registry = sys.modules["gymnasium"].registry

    def take() -> dict[str, Any]:
        return {name: registry.pop(name) for name in list(registry) if name.startswith("rllib-")}

    own = take()
    try:
        yield
    finally:
        take()  # the twin's registrations would keep it alive
        registry.update(own)


def _saved_generators() -> Callable[[], None]:
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


@contextmanager
def _within(seconds: float) -> Iterator[None]:
    """Raise `_Overdue` in the block after `seconds`, and again every second. Needs POSIX timers and the main thread."""
    if os.name != "posix" or threading.current_thread() is not threading.main_thread():
        yield
        return

    armed = True

    def ring(*_: Any) -> None:
        if armed:
            raise _Overdue

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
