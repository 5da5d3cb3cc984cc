"""What benchmarks share: an env that waits, and the description of the machine."""

import time
from datetime import datetime, timezone
from typing import Any

import gymnasium
import ray

from rl_scaling_callback.rllib.hardware import cpu_model, usable_cores


class SlowStep(gymnasium.Env):  # type: ignore[type-arg]
    """An env whose step waits 2 ms, as for an external simulator, without using a core. Episodes have 200 steps."""

    observation_space: Any = gymnasium.spaces.Box(-1.0, 1.0, (8,))
    action_space: Any = gymnasium.spaces.Discrete(2)
    wait_s = 0.002

    def __init__(self, config: Any = None) -> None:
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed)
        self._steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Wait."""
        time.sleep(self.wait_s)
        self._steps += 1
        return self.observation_space.sample(), 1.0, False, self._steps == 200, {}


def machine() -> str:
    """Return the CPU, Ray's release and the date."""
    return f"{cpu_model()}, {usable_cores():g} cores; Ray {ray.__version__}; {datetime.now(timezone.utc):%Y-%m-%d}"
