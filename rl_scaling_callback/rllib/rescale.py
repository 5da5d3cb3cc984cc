"""Changes the scale of a training Algorithm between iterations: how many of its env runners sample, and with how many envs."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

import ray

from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.rllib.configs import read_scale
from rl_scaling_callback.rllib.twins import copy_task, text_of

_ANSWER_WITHIN_S: Final = 30.0
_ANOTHER_SEED: Final = 10_007
"""Seeded env runners would repeat the episodes that they began training with."""


class RescaleError(RuntimeError):
    """The envs of another scale can't be created. The message gives the reason."""


class Rescaler:
    """Changes the scale of one Algorithm on RLlib's new API stack, between iterations.

    Episodes in progress are dropped, as when an env runner restarts. Their steps so far have been learned from, but their returns
    are not reported. Nothing else changes: not the batch, and not the CPUs that the trial holds.

    Env runners that don't sample are taken out of the group, so that RLlib neither waits for them nor counts them as missing. They
    stay alive until `settle`.

    Args:
        algorithm: the Algorithm.

    Attributes:
        scale: the scale at which it trains now.
    """

    def __init__(self, algorithm: Any) -> None:
        self._algorithm = algorithm
        self._group = algorithm.env_runner_group
        manager: Any = self._group._worker_manager
        # RLlib's manager keeps an actor and its state in two dicts.
        self._pools = (manager._actors, manager._remote_actor_states)
        self._members = [dict(pool) for pool in self._pools]
        self._times = 0
        self.scale = read_scale(vars(algorithm.config))

    def apply(self, scale: Scale) -> None:
        """Train at `scale` from the next iteration on.

        Raises:
            RescaleError: its envs can't be created, or an env runner doesn't answer; the Algorithm is then in between scales.
        """
        self._times += 1
        returning = scale.num_env_runners > self.scale.num_env_runners
        # The manager may still wait for answers of env runners that leave, such as to new weights.
        self._group.fetch_ready_async_reqs(timeout_seconds=_ANSWER_WITHIN_S)
        for pool, members in zip(self._pools, self._members, strict=True):
            pool.clear()
            pool.update([*members.items()][: scale.num_env_runners])
        vars(self._algorithm.config).update(_numbers(scale))  # it is frozen
        self._rescale(scale, None)
        self.scale = scale
        if returning:  # they have missed updates
            self._group.sync_weights(from_worker_or_learner_group=self._algorithm.learner_group, inference_only=True)
            self._group.sync_env_runner_states(config=self._algorithm.config)

    def reapply(self, env_runners: Iterable[int]) -> None:
        """Rescale env runners that were restarted: they come back with the numbers that they were created with.

        Raises:
            RescaleError: see `apply`.
        """
        if self._times:
            self._rescale(self.scale, [*env_runners])

    def settle(self) -> None:
        """Stop the env runners that don't sample. They can't come back."""
        actors, states = self._members
        for runner in actors.keys() - self._pools[0].keys():
            states.pop(runner)
            with suppress(Exception):
                ray.kill(actors.pop(runner))

    def _rescale(self, scale: Scale, env_runners: Sequence[int] | None) -> None:
        rescale = partial(_rescaled, numbers=_numbers(scale), seed_by=_ANOTHER_SEED * self._times)
        if not scale.num_env_runners:
            errors = [rescale(self._group.local_env_runner)]
        else:
            runners = self._group.healthy_env_runner_ids() if env_runners is None else env_runners
            errors = self._group.foreach_env_runner(rescale, local_env_runner=False, remote_worker_ids=list(runners))
            errors += ["an env runner doesn't answer"] * (len(runners) - len(errors))
        if error := next(filter(None, errors), ""):
            raise RescaleError(f"the envs of {scale} can't be created: {error}")


def _numbers(scale: Scale) -> dict[str, int]:
    return {"num_env_runners": scale.num_env_runners, "num_envs_per_env_runner": scale.num_envs_per_env_runner}


def _rescaled(env_runner: Any, numbers: dict[str, int], seed_by: int) -> str:
    """Create an env runner's envs anew; return the error, because RLlib restarts an env runner in which a function raises."""
    try:
        vars(env_runner.config).update(numbers)  # it is frozen, and a copy would copy all of `env_config`
        if env_runner.config.seed is not None:
            _seed(env_runner, seed_by)
        before = env_runner.env = getattr(env_runner, "env", None)  # a failed `make_env` may have deleted it
        env_runner.make_env()
        copy_task(before, env_runner.env)
        gc.collect()  # of the old envs, now rather than during the next probe
    except Exception as error:
        return text_of(error)
    return ""


def _seed(env_runner: Any, by: int) -> None:
    """Let an env runner reset its envs with a seed other than the config's."""
    if hasattr(env_runner, "_seed"):
        env_runner._seed = int(env_runner.config.seed + (env_runner.worker_index or 0) + by)
    elif env_runner.worker_index:  # older releases (2.45) read it from the config, which a local one shares with the Algorithm
        vars(env_runner.config)["seed"] += by
