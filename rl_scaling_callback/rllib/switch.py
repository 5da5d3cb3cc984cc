"""Runs training iterations of one Algorithm at different scales.

Use it only with an Algorithm built for measurement, because it learns from all of these iterations.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.rllib import twins

_ITSELF: Final = "_scaling_itself"


class Switch:
    """Switches an Algorithm's env runners to another scale, and hides those that the scale doesn't need.

    The env runners act as the twins that a `Prober` creates and closes.

    Args:
        algorithm: an Algorithm on RLlib's new API stack, with as many env runners as the largest scale.
        keep_envs: whether to keep the envs of each scale between iterations.
    """

    def __init__(self, algorithm: Any, keep_envs: bool = True) -> None:
        self._algorithm = algorithm
        self._keep_envs = keep_envs
        self._manager: Any = self._algorithm.env_runner_group._worker_manager
        self._actors = dict(self._manager._actors)
        # A replay buffer refuses an episode with a gap, and probes have moved the twins' episodes on.
        self._starts_over = getattr(self._algorithm, "local_replay_buffer", None) is not None

    def train(self, scale: Scale) -> tuple[dict[str, Any], float]:
        """Run a training iteration at a scale; return its result, and the time of all env runners together in env resets [s].

        Resets that only the switch requires don't count.
        """
        try:
            self._use(scale.num_env_runners)
            self._act_as(scale)
            result: dict[str, Any] = self._algorithm.train()
            resets_s = sum(self._algorithm.env_runner_group.foreach_env_runner(twins.take_resets, local_env_runner=False))
        finally:
            self._use(len(self._actors))
            self._act_as(None)
        return result, 0.0 if self._starts_over else resets_s

    def _act_as(self, scale: Scale | None) -> None:
        state = self._algorithm.learner_group.get_state(components="learner/rl_module", inference_only=True)["learner"]
        act = partial(_act_as, scale=scale, state=state, keep_envs=self._keep_envs, starts_over=self._starts_over)
        self._algorithm.env_runner_group.foreach_env_runner(act, local_env_runner=False)

    def _use(self, runners: int) -> None:
        self._manager._actors = dict(list(self._actors.items())[:runners])


def _act_as(env_runner: Any, scale: Scale | None, state: dict[str, Any], keep_envs: bool, starts_over: bool) -> None:
    """Switch an env runner to another scale, or back to its own if `scale` is None."""
    itself = vars(env_runner).get(_ITSELF, vars(env_runner))
    env_runner.__dict__ = itself
    if scale is not None:
        twin = twins.twin_for(env_runner, scale, keep_envs)
        env_runner.__dict__ = vars(twin)
        vars(twin)[_ITSELF] = itself
        twins.take_resets(twin)
        if starts_over:
            env_runner._needs_initial_reset = True
    env_runner.set_state(state)
