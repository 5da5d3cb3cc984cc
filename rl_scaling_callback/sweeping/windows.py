"""The steady windows of running trials, kept in Tune's driver process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rl_scaling_callback import rllib
from rl_scaling_callback.core.attribution import RECORDED
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.steady import Steady, SteadyRule, SteadyWindow


@dataclass(slots=True)
class _Progress:
    window: SteadyWindow
    lifetime: float = NAN


class Windows:
    """The steady state of each running trial. `ScalingCallback` is not required, but only with it is evaluation time excluded.

    Args:
        rule: when a trial counts as steady.
    """

    def __init__(self, rule: SteadyRule) -> None:
        self._rule = rule
        self._trials: dict[str, _Progress] = {}

    def add(self, trial_id: str, result: Mapping[str, Any]) -> Steady:
        """Add a result of a trial and return its steady state so far."""
        trial = self._trials.get(trial_id)
        if trial is None:
            learns_after = rllib.steps_before_learning(result.get("config") or {})
            trial = self._trials[trial_id] = _Progress(SteadyWindow(self._rule, learns_after=learns_after))
        read = rllib.read_measured(result, rllib.read_injected(result, rllib.MEASURED_KEYS), trial.lifetime)
        trial.lifetime = read.lifetime
        since_restore = rllib.read_since_restore(result)
        # An iteration without parts makes their sums unknown; omitting it would make them too small.
        parts = dict.fromkeys(RECORDED, NAN) if read.parts is None else dict(zip(RECORDED, read.parts, strict=True))
        trial.window.add(read.env_steps, read.seconds, parts, since_restore=since_restore)
        return trial.window.read()

    def forget(self, trial_id: str) -> None:
        """Forget a trial that has ended."""
        self._trials.pop(trial_id, None)

    def clear(self) -> None:
        """Forget all trials."""
        self._trials.clear()
