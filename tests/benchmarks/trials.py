"""What benchmarks share: envs, the description of the machine, and trials of given configurations, one after another."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

import gymnasium
import ray
from ray import tune
from ray.tune.search import BasicVariantGenerator

from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.rllib.hardware import cpu_model, usable_cores

QUIET = {"PYTHONWARNINGS": "ignore", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0"}


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


ENVS: dict[str, Any] = {
    "halfcheetah": "HalfCheetah-v5",
    "hopper": "Hopper-v5",
    "cartpole": "CartPole-v1",
    "slow_step": SlowStep,
}


def machine() -> str:
    """Return the CPU, Ray's release and the date."""
    return f"{cpu_model()}, {usable_cores():g} cores; Ray {ray.__version__}; {datetime.now(timezone.utc):%Y-%m-%d}"


def numbers(text: str) -> list[int]:
    """Parse a command's option such as "1,2,4"."""
    return [int(number) for number in text.split(",")]


def run_trials(config: Any, scales: Sequence[Scale], iterations: int, callback: tune.Callback) -> None:
    """Run one trial of each configuration in this order, and report to a Tune callback."""
    points = [
        {"num_env_runners": scale.num_env_runners, "num_envs_per_env_runner": scale.num_envs_per_env_runner} for scale in scales
    ]
    config = config.copy(copy_frozen=False)
    for name in points[0]:
        setattr(config, name, tune.choice(sorted({point[name] for point in points})))
    tune.Tuner(
        config.algo_class,
        param_space=config,
        tune_config=tune.TuneConfig(
            num_samples=len(points), search_alg=BasicVariantGenerator(points_to_evaluate=points, max_concurrent=1)
        ),
        run_config=tune.RunConfig(
            storage_path=tempfile.mkdtemp(), stop={"training_iteration": iterations}, callbacks=[callback], verbose=0
        ),
    ).fit()
