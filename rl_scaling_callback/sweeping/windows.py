"""The steady windows of trials that Tune reports on, at its driver."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from rl_scaling_callback import rllib
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.steady import Steady, SteadyRule, SteadyWindow

_EVALUATION: Final = "time/evaluate"
_USED: Final = (_EVALUATION, *rllib.INJECTED_PARTS.values())


@dataclass(slots=True)
class _Progress:
    window: SteadyWindow
    env_steps: float = 0.0
    lifetime: float = NAN


class Windows:
    """The steady state of each running trial. Trials need not use `ScalingCallback`; with it, evaluation is left out of their time.

    Args:
        rule: when a trial counts as steady.
    """

    def __init__(self, rule: SteadyRule) -> None:
        self._rule = rule
        self._trials: dict[str, _Progress] = {}

    def add(self, trial_id: str, result: Mapping[str, Any]) -> Steady:
        """Take in a result of a trial; return its steady state so far."""
        trial = self._trials.setdefault(trial_id, _Progress(SteadyWindow(self._rule)))
        iteration = rllib.read_iteration(result, trial.lifetime)
        trial.lifetime = iteration.lifetime
        learns_after = rllib.steps_before_learning(result.get("config") or {})
        injected = rllib.read_injected(result, _USED)
        evaluation_s = injected.get(_EVALUATION, NAN)
        seconds = iteration.seconds - (evaluation_s if evaluation_s > 0 else 0.0)
        parts = {part: injected[key] for part, key in rllib.INJECTED_PARTS.items()} if injected else {}
        trial.window.add(iteration.env_steps, seconds, parts, warm=trial.env_steps >= learns_after)
        if iteration.env_steps > 0:
            trial.env_steps += iteration.env_steps
        return trial.window.read()

    def forget(self, trial_id: str) -> None:
        """Forget a trial that has ended."""
        self._trials.pop(trial_id, None)

    def clear(self) -> None:
        """Forget all trials."""
        self._trials.clear()
