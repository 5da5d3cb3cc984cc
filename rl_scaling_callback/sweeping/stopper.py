"""A Tune stopper that ends trials once their throughput is known."""

from __future__ import annotations

from typing import Any

from ray import tune

from rl_scaling_callback.core.steady import DEFAULT_RULE, SteadyRule
from rl_scaling_callback.sweeping.windows import Windows


class SteadyStopper(tune.Stopper):
    """Stops a trial once its steady SPS is precise enough, or as precise as it gets within the rule's caps.

    `tune.RunConfig(stop=SteadyStopper())` saves iterations that a measurement doesn't need, in any experiment.

    Args:
        rule: when a trial counts as steady.
    """

    def __init__(self, rule: SteadyRule = DEFAULT_RULE) -> None:
        self._windows = Windows(rule)

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Return whether the trial's steady state is settled."""
        return self._windows.add(trial_id, result).settled

    def stop_all(self) -> bool:
        """Return False: other trials continue."""
        return False
