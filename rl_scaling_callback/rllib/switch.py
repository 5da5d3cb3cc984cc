"""Runs training iterations of one Algorithm at different scales.

Only for an Algorithm built for measurement: it learns from all of these iterations.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.rllib import prober

_SELVES: Final = "_scaling_selves"


class Switch:
    """Switches an Algorithm's env runners to another scale, and hides those that the scale doesn't need.

    Args:
        algorithm: on RLlib's new API stack, with as many env runners as the largest scale.
    """

    def __init__(self, algorithm: Any) -> None:
        self._algorithm = algorithm
        self._manager: Any = self._algorithm.env_runner_group._worker_manager
        self._actors = dict(self._manager._actors)

    def train(self, scale: Scale) -> dict[str, Any]:
        """Run a training iteration at a scale and return its result."""
        self._use(scale.num_env_runners)
        self._go_on_as(scale)
        try:
            result: dict[str, Any] = self._algorithm.train()
        finally:
            self._use(len(self._actors))
            self._go_on_as(None)
        return result

    def close(self) -> None:
        """Close the envs of all scales except the Algorithm's own."""
        self._algorithm.env_runner_group.foreach_env_runner(_close, local_env_runner=False)

    def _go_on_as(self, scale: Scale | None) -> None:
        state = self._algorithm.learner_group.get_state(components="learner/rl_module", inference_only=True)["learner"]
        go_on = partial(_go_on_as, scale=scale, state=state)
        self._algorithm.env_runner_group.foreach_env_runner(go_on, local_env_runner=False)

    def _use(self, runners: int) -> None:
        self._manager._actors = dict(list(self._actors.items())[:runners])


def _go_on_as(env_runner: Any, scale: Scale | None, state: dict[str, Any]) -> None:
    """Switch an env runner to another scale, or back to its own with None."""
    selves = vars(type(env_runner)).get(_SELVES)
    if selves is None:
        selves = {None: vars(env_runner)}
        setattr(type(env_runner), _SELVES, selves)
    if scale is not None and scale not in selves:
        selves[scale] = vars(prober._twin_of(env_runner, scale))
    env_runner.__dict__ = selves[scale]
    env_runner.set_state(state)


def _close(env_runner: Any) -> None:
    """Stop the twins that an env runner was switched to, but not the env runner itself."""
    selves = vars(type(env_runner)).get(_SELVES, {})
    for scale in [each for each in selves if each is not None]:
        env_runner.__dict__ = selves.pop(scale)
        prober._stop(env_runner)
    if selves:
        env_runner.__dict__ = selves[None]
