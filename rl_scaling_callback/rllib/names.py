"""RLlib's names: of settings and of what results contain, from Ray 0.5 on, and of timers; and how to read its numbers.

Here, results and logged configs of older releases are translated to today's names.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

from rl_scaling_callback.core.formulas import NAN

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

NUMBERS: Final[Mapping[str, tuple[str, ...]]] = {
    "iteration": ("training_iteration",),
    "since_restore": ("iterations_since_restore",),
    "ended": ("timestamp",),
    # On the old API stack the second may count the steps of all agents.
    "lifetime_steps": (
        "num_env_steps_sampled", "num_env_steps_sampled_lifetime", "counters/num_env_steps_sampled", "info/num_env_steps_sampled",
        "info/num_steps_sampled", "timesteps_total",
    ),
    "episode_return": (
        "env_runners/episode_return_mean", "env_runners/episode_reward_mean", "sampler_results/episode_reward_mean",
        "episode_reward_mean",
    ),
    "healthy": ("fault_tolerance/num_healthy_workers", "num_healthy_workers"),
    "cpu_utilisation": ("perf/cpu_util_percent",),
    "ram_utilisation": ("perf/ram_util_percent",),
}  # fmt: skip
"""Where results have each number, by this package's name, today's place first (see `results.read_number`)."""

_PATHS: Final = {name: [path.split("/") for path in paths] for name, paths in NUMBERS.items()}

_MARKS: Final = ("env_runners", "sampler_results", "policy_reward_mean", "num_healthy_workers", "num_env_steps_sampled_lifetime")
"""Keys that only RLlib's results have."""

TIMER_PHASES: Final[Mapping[str, str]] = {
    "env_runner_sampling_timer": "sample",
    "sample": "sample",
    "replay_buffer_add_data_timer": "sample",  # the last part of sampling; takes longer with more envs
    "learner_update_timer": "learn",
    "connector_pipeline_timer": "connectors",  # in the learner's metrics, within its update
    "learn": "learn",  # the old API stack
    "load": "learn",  # the old API stack: batches to the learner's device
    "replay_buffer_sampling_timer": "learn",
    "replay_buffer_update_prios_timer": "learn",
    "synch_weights": "sync",
    "synch_env_connectors": "sync",
    "evaluation_iteration": "evaluate",
    "offline_evaluation_iteration_timer": "evaluate",
    "restore_eval_env_runners": "evaluate",
}
"""The phase of each timer in the Algorithm's code."""

LEARNER_PHASES: Final[Mapping[str, str]] = {
    "learner_thread_update_timer": "busy",
    "learner_thread_in_queue_wait_timer": "waiting",
}
"""The phase of each timer in the learner's thread (IMPALA, APPO)."""

SAMPLE_TIMER: Final = "sample"
"""The timer around an env runner's sampling."""

WEIGHTS_TIMER: Final = "env_runner_state_server_pull"
"""The timer around an env runner's request for weights before it samples (IMPALA, APPO)."""


def is_rllib(result: Mapping[str, Any]) -> bool:
    """Return whether a result is from RLlib, rather than from another user of Tune."""
    return any(mark in result for mark in _MARKS)


def found(result: Mapping[str, Any], name: str) -> Iterator[Any]:
    """Yield the values of a number that a result has, at today's place first."""
    for path in _PATHS[name]:
        value: Any = result
        for key in path:
            value = value.get(key) if isinstance(value, (dict, Mapping)) else None  # see `mapping`
            if value is None:
                break
        else:
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


def number(value: object) -> float:
    """Return a finite real number as a plain float; NaN for anything else, such as booleans, strings, None and infinities."""
    if type(value) is float:
        return value if math.isfinite(value) else NAN
    if isinstance(value, bool) or value is None or isinstance(value, (str, bytes)):
        return NAN
    try:
        converted = float(value)  # type: ignore[arg-type]  # NumPy scalars and the like
    except (TypeError, ValueError, OverflowError):
        return NAN
    return converted if math.isfinite(converted) else NAN


def amount(config: Mapping[str, Any], name: str) -> float:
    """Return a number above 0 by its name; 0 for anything else."""
    return max(0.0, number(config.get(name)))  # max(0, NaN) is 0


def mapping(value: object) -> Mapping[str, Any]:
    """Return `value` if it is a mapping, else an empty one."""
    return value if isinstance(value, (dict, Mapping)) else {}  # a dict is known without asking the abstract class
