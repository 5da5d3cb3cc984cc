"""Every name that RLlib has used, from Ray 0.5 on, for the scale, the steps, the time and the returns of a trial.

The only place that knows older names: `configs` and `results` use today's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

SETTINGS: Final[Mapping[str, tuple[str, ...]]] = {
    "num_env_runners": ("num_rollout_workers", "num_workers"),
    "num_envs_per_env_runner": ("num_envs_per_worker",),
    "num_cpus_per_env_runner": ("num_cpus_per_worker",),
    "num_gpus_per_env_runner": ("num_gpus_per_worker",),
    "custom_resources_per_env_runner": ("custom_resources_per_worker",),
    "num_cpus_for_main_process": ("num_cpus_for_local_worker", "num_cpus_for_driver"),
    "evaluation_num_env_runners": ("evaluation_num_workers",),
    "num_learners": ("num_learner_workers",),
    "num_cpus_per_learner": ("num_cpus_per_learner_worker",),
    "num_gpus_per_learner": ("num_gpus_per_learner_worker",),
    "rollout_fragment_length": ("sample_batch_size",),
    "minibatch_size": ("mini_batch_size_per_learner", "sgd_minibatch_size"),
    "num_epochs": ("num_sgd_iter",),
    "min_time_s_per_iteration": ("min_time_s_per_reporting", "min_iter_time_s"),
    "metrics_num_episodes_for_smoothing": ("metrics_smoothing_episodes",),
    "metrics_episode_collection_timeout_s": ("collect_metrics_timeout",),
    "num_steps_sampled_before_learning_starts": ("learning_starts",),
    "create_env_on_local_worker": ("create_env_on_driver",),
    "framework_str": ("framework",),
    "input_": ("input",),
}
"""Today's name of each setting in `vars(AlgorithmConfig)`, and the names that it has or had in logs, latest first."""

DEPRECATED: Final = -1
"""RLlib's value for removed settings."""

DEFAULT_SCALE: Final[Mapping[str, int]] = {"num_env_runners": 2, "num_envs_per_env_runner": 1}
"""RLlib's defaults of PPO, IMPALA, A3C and the like."""

_WITHOUT_ENV_RUNNERS: Final = ("DQN", "SimpleQ", "SAC", "DDPG", "TD3", "R2D2", "MARWIL", "BC", "CQL")
"""Algorithms that sample in their own process by default."""

STEPS: Final = ("num_env_steps_sampled_this_iter", "timesteps_this_iter")
"""Env steps of an iteration, at the top of a result. Today they are in `env_runners/num_env_steps_sampled`."""

LIFETIME_STEPS: Final[tuple[tuple[str, ...], ...]] = (
    ("num_env_steps_sampled",), ("num_env_steps_sampled_lifetime",), ("counters", "num_env_steps_sampled"),
    ("info", "num_env_steps_sampled"), ("info", "num_steps_sampled"), ("timesteps_total",),
)  # fmt: skip
"""Env steps of the trial up to the end of an iteration. On the old API stack the second may count the steps of all agents."""

RETURNS: Final[tuple[tuple[str, ...], ...]] = (
    ("env_runners", "episode_return_mean"), ("env_runners", "episode_reward_mean"), ("sampler_results", "episode_reward_mean"),
    ("episode_reward_mean",),
)  # fmt: skip
"""Mean return of recent episodes."""

_MARKS: Final = ("env_runners", "sampler_results", "policy_reward_mean", "num_healthy_workers", "num_env_steps_sampled_lifetime")
"""Keys that only RLlib's results have."""


def is_rllib(result: Mapping[str, Any]) -> bool:
    """Return whether a result is from RLlib, rather than from another user of Tune."""
    return any(mark in result for mark in _MARKS)


def found(result: Mapping[str, Any], paths: tuple[tuple[str, ...], ...]) -> Iterator[Any]:
    """Yield the values in a result at those of the paths that it has."""
    for path in paths:
        value: Any = result
        for key in path:
            value = value.get(key) if isinstance(value, (dict, Mapping)) else None  # see `mapping`
        if value is not None:
            yield value


def renamed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a logged config with today's names; where it has several names of one setting, the latest that is in use counts."""
    today = dict(config)
    for name, older in SETTINGS.items():
        given = [today.pop(each) for each in (name, *older) if each in today]
        if given:
            today[name] = next((value for value in given if value is not None and value != DEPRECATED), given[0])
    # Before 0.8 RLlib copied settings such as num_envs_per_worker into this one.
    if isinstance(optimizer := today.get("optimizer"), Mapping):
        today["optimizer"] = {key: value for key, value in optimizer.items() if key not in config}
    return today


def default_scale(algorithm: str | None) -> dict[str, int]:
    """Return RLlib's default scale for an algorithm, by today's setting."""
    return {**DEFAULT_SCALE, "num_env_runners": 0} if algorithm in _WITHOUT_ENV_RUNNERS else dict(DEFAULT_SCALE)
