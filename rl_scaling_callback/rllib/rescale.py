"""Changes the scale of an Algorithm between iterations: how many of its env runners sample, and with how many envs."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import Any, Final

import ray

from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.text import Warn
from rl_scaling_callback.rllib import twins
from rl_scaling_callback.rllib.configs import read_scale
from rl_scaling_callback.rllib.threads import ANSWER_WITHIN_S

_ANOTHER_SEED: Final = 10_007
"""Seeded env runners would repeat the episodes that they began training with."""
_ITSELF: Final = "_scaling_itself"
_TIMES: Final = "_scaling_times"


class _Runners:
    """The env runners of an Algorithm. RLlib neither waits for those that don't take part, nor counts them as missing."""

    def __init__(self, algorithm: Any) -> None:
        self._algorithm = algorithm
        self._group = algorithm.env_runner_group
        # RLlib's manager keeps an actor and its state in two dicts.
        self._active = (self._group._worker_manager._actors, self._group._worker_manager._remote_actor_states)
        self._all = [dict(each) for each in self._active]

    def _use(self, number: int | None) -> None:
        """Let the first `number` env runners take part; all if None."""
        if number is not None:
            # The manager may still wait for answers of those that leave, such as to new weights.
            self._group.fetch_ready_async_reqs(timeout_seconds=ANSWER_WITHIN_S)
        for active, every in zip(self._active, self._all, strict=True):
            active.clear()
            active.update([*every.items()][:number])


class Switch(_Runners):
    """Runs training iterations of one Algorithm at different scales, whose env runners act as the twins that a `Prober` creates.

    The Algorithm has as many env runners as the largest scale, and is built for measurement, because it learns from all of these.
    """

    def __init__(self, algorithm: Any) -> None:
        super().__init__(algorithm)
        # A replay buffer refuses an episode with a gap, and probes have moved the twins' episodes on.
        self._starts_over = getattr(algorithm, "local_replay_buffer", None) is not None

    def train(self, scale: Scale) -> tuple[dict[str, Any], float]:
        """Run a training iteration at a scale; return its result, and the time of all env runners together in env resets [s].

        Resets that only the switch requires don't count.
        """
        try:
            self._use(scale.num_env_runners)
            self._act_as(scale)
            result: dict[str, Any] = self._algorithm.train()
            resets_s = sum(self._group.foreach_env_runner(twins.take_resets, local_env_runner=False))
        finally:
            self._use(None)
            self._act_as(None)
        return result, 0.0 if self._starts_over else resets_s

    def _act_as(self, scale: Scale | None) -> None:
        state = self._algorithm.learner_group.get_state(components="learner/rl_module", inference_only=True)["learner"]
        act = partial(_act_as, scale=scale, state=state, starts_over=self._starts_over)
        self._group.foreach_env_runner(act, local_env_runner=False)


def _act_as(env_runner: Any, scale: Scale | None, state: dict[str, Any], starts_over: bool) -> None:
    """Switch an env runner to another scale, or back to its own if `scale` is None."""
    itself = vars(env_runner).get(_ITSELF, vars(env_runner))
    env_runner.__dict__ = itself
    if scale is not None:
        twin = twins.twin_for(env_runner, scale)
        env_runner.__dict__ = vars(twin)
        vars(twin)[_ITSELF] = itself
        twins.take_resets(twin)
        if starts_over:
            env_runner._needs_initial_reset = True
    env_runner.set_state(state)


class Rescaler(_Runners):
    """Changes the scale of one Algorithm on RLlib's new API stack, between iterations.

    Episodes in progress are dropped, as when an env runner restarts. Their steps so far have been learned from, but their returns
    are not reported. Envs are created anew, with the tasks of the old ones; what else was set on them is lost. Nothing else
    changes: not the batch, and not the CPUs that the trial holds. Env runners that don't sample stay alive until `settle`.

    Env runners that come back are brought up to date by RLlib, which also tells callbacks of them, as after a restart. Those that
    were restarted get the number of envs before that; if that fails, `warn` is called.
    """

    def __init__(self, algorithm: Any, warn: Warn = lambda topic, text: None) -> None:
        super().__init__(algorithm)
        self._times = 0
        self.scale = self._saved = read_scale(vars(algorithm.config))  # at which it trains now, and that in checkpoints
        arguments, probe = algorithm.get_ctor_args_and_kwargs, self._group.probe_unhealthy_env_runners

        def arguments_to_save() -> Any:
            (config, *others), options = arguments()
            return ({**config, **self._saved.settings}, *others), options

        def probe_and_rescale(*args: Any, **kwargs: Any) -> Any:
            restored = probe(*args, **kwargs)
            if restored and self._times:
                try:
                    self._rescale(restored)
                except Exception as error:
                    warn("rescaling", f"env runners that were restarted don't have the number of envs that was chosen: {error}")
            return restored

        algorithm.get_ctor_args_and_kwargs = arguments_to_save
        self._group.probe_unhealthy_env_runners = probe_and_rescale

    def obstacle(self) -> str:
        """Return why it must not create envs anew; "" if it may."""
        if self._group.local_env_runner is None:
            return "there is no local env runner, from which RLlib brings others up to date"
        keep = any(self._group.foreach_env_runner(_keeps_statistics, timeout_seconds=ANSWER_WITHIN_S))
        return "wrappers such as NormalizeObservation keep statistics, which new envs would lose" if keep else ""

    def apply(self, scale: Scale) -> None:
        """Train at `scale` from the next iteration on.

        Raises:
            RuntimeError: its envs can't be created, or an env runner doesn't answer; the Algorithm is then in between scales.
        """
        self._times += 1
        before = {*self._active[0]}
        self._use(scale.num_env_runners)
        vars(self._algorithm.config).update(scale.settings)  # it is frozen
        self.scale = scale
        healthy = self._group.healthy_env_runner_ids()
        for runner in {*healthy} - before:  # it has missed updates, and what callbacks sent
            for is_healthy in (False, True):  # as one that was restarted
                self._group._worker_manager.set_actor_state(runner, healthy=is_healthy)
        self._rescale(healthy)

    def settle(self) -> None:
        """Keep the scale, also in checkpoints, and stop the env runners that don't sample. They can't come back."""
        self._saved = self.scale
        actors, states = self._all
        for runner in actors.keys() - self._active[0].keys():
            states.pop(runner)
            with suppress(Exception):
                ray.kill(actors.pop(runner))

    def _rescale(self, env_runners: Iterable[int]) -> None:
        rescale, runners = partial(_rescaled, numbers=self.scale.settings, times=self._times), [*env_runners]
        if not self.scale.num_env_runners:
            errors = [rescale(self._group.local_env_runner)]
        elif runners:  # an empty list would mean all
            errors = self._group.foreach_env_runner(rescale, local_env_runner=False, remote_worker_ids=runners)
            errors += ["an env runner doesn't answer"] * (len(runners) - len(errors))
        else:
            errors = []
        if error := next(filter(None, errors), ""):
            raise RuntimeError(f"the envs of {self.scale} can't be created: {error}")


def _keeps_statistics(env_runner: Any) -> bool:
    """Return whether an env's wrapper keeps running statistics, as Gymnasium's `NormalizeObservation` does."""
    names = ("obs_rms", "return_rms")
    with suppress(Exception):  # it may have no env, and RLlib restarts an env runner in which a function raises
        env = env_runner.env
        while env is not env.unwrapped:
            if not vars(env).keys().isdisjoint(names):
                return True
            env = env.env
        return any(any(env.call("has_wrapper_attr", name)) for name in names)
    return False


def _rescaled(env_runner: Any, numbers: dict[str, int], times: int) -> str:
    """Create an env runner's envs anew, unless it has those of this change of the scale, the `times`-th.

    Returns the error, because RLlib restarts an env runner in which a function raises.
    """
    if vars(env_runner).get(_TIMES) == times:
        return ""
    try:
        vars(env_runner.config).update(numbers)  # it is frozen, and a copy would copy all of `env_config`
        if env_runner.config.seed is not None:
            _seed(env_runner, _ANOTHER_SEED * times)
        before = env_runner.env = getattr(env_runner, "env", None)  # a failed `make_env` may have deleted it
        env_runner.make_env()
        twins.copy_tasks(before, env_runner.env)
        del before
        gc.collect()  # of the old envs, now rather than during the next probe
    except Exception as error:
        return twins.text_of(error)
    vars(env_runner)[_TIMES] = times
    return ""


def _seed(env_runner: Any, by: int) -> None:
    """Let an env runner reset its envs with a seed other than the config's."""
    if hasattr(env_runner, "_seed"):
        env_runner._seed = int(env_runner.config.seed + (env_runner.worker_index or 0) + by)
    elif env_runner.worker_index:  # older releases (2.45) read it from the config, which a local one shares with the Algorithm
        vars(env_runner.config)["seed"] += by
