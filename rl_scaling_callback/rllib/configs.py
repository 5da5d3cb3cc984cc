"""Reads RLlib configs of either API stack, as `vars(AlgorithmConfig)` or a logged dict."""

from __future__ import annotations

import enum
import json
import math
import re
from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any, Final

from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.rllib.content import plain
from rl_scaling_callback.rllib.names import renamed
from rl_scaling_callback.rllib.values import amount, number

_CLASS: Final = re.compile(r"<class '([^']*)'>")
_ADDRESS: Final = re.compile(r" at 0x[0-9a-fA-F]+")
_MIN_FRAGMENT: Final = 16
"""Fewest env steps of each env in an iteration: with fewer, advantages (GAE) rest on the value function alone."""
_SAME_BATCH: Final = 0.02
"""Largest relative difference between the env steps of two iterations of the same work, as RLlib rounds fragments up."""


def read_logged_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the config of a logged result or `params.json`, of any release, to today's names in `vars(AlgorithmConfig)`.

    Classes become their names, as in `read_facts`, and memory addresses are removed. The algorithm is not part of the config.
    """
    attributes: dict[str, Any] = json.loads(_ADDRESS.sub("", _CLASS.sub(r"\1", json.dumps(renamed(config)))))
    return attributes


def read_scale(config: Mapping[str, Any]) -> Scale:
    """Return the scale of a trial.

    Raises:
        ValueError: the config lacks it.
    """
    runners, envs = config.get("num_env_runners"), config.get("num_envs_per_env_runner")
    if not isinstance(runners, Integral) or not isinstance(envs, Integral):
        raise ValueError(f"num_env_runners is {runners!r} and num_envs_per_env_runner is {envs!r}; allowed are whole numbers")
    return Scale(runners, envs)  # type: ignore[arg-type]  # NumPy's integers too


def is_new_stack(config: Mapping[str, Any]) -> bool:
    """Return whether the trial runs on RLlib's new API stack."""
    return bool(config.get("enable_env_runner_and_connector_v2"))


def is_asynchronous(config: Mapping[str, Any]) -> bool:
    """Return whether sampling overlaps learning (IMPALA, APPO), so that phases are not sequential."""
    return "broadcast_interval" in config or "vtrace" in config


def samples_env(config: Mapping[str, Any]) -> bool:
    """Return whether training samples env steps; False for algorithms that learn only from recorded data."""
    return not (config.get("_is_online") is False or config.get("input_") not in (None, "sampler"))


def evaluates(config: Mapping[str, Any]) -> bool:
    """Return whether training pauses for evaluation."""
    return bool(config.get("evaluation_interval")) and not evaluation_is_parallel(config)


def evaluation_is_parallel(config: Mapping[str, Any]) -> bool:
    """Return whether evaluation runs in parallel to training, so that it costs only the time by which it outlasts training."""
    return bool(config.get("evaluation_parallel_to_training"))


def iterations_are_timed(config: Mapping[str, Any]) -> bool:
    """Return whether iterations have a minimum duration, so that their steps vary with the throughput (APPO, IMPALA, SAC)."""
    return amount(config, "min_time_s_per_iteration") > 0


def steps_before_learning(config: Mapping[str, Any]) -> float:
    """Return the env steps sampled before learning starts (SAC, DQN); iterations before that are not steady."""
    return amount(config, "num_steps_sampled_before_learning_starts")


def vectorize_mode(config: Mapping[str, Any]) -> Any:
    """Return how env runners step their sub-envs; "SYNC", "sync", `VectorizeMode.SYNC` and its repr in a log are the same."""
    mode = config.get("gym_env_vectorize_mode")
    mode = mode.value if isinstance(mode, enum.Enum) else mode
    return mode.rpartition(".")[2].lower() if isinstance(mode, str) else plain(mode)


def steps_in_turn(config: Mapping[str, Any]) -> bool:
    """Return whether env runners step their sub-envs one after another, rather than in parallel or as one vectorised env."""
    return not config.get("remote_worker_envs") and vectorize_mode(config) in (None, "sync")


def has_other_workers(config: Mapping[str, Any]) -> bool:
    """Return whether the trial has processes other than the Algorithm's and its env runners, such as remote learners."""
    counts = ("num_learners", "num_aggregator_actors_per_learner", "evaluation_num_env_runners")
    own_envs = config.get("remote_worker_envs") or vectorize_mode(config) == "async"
    return bool(own_envs) or any(amount(config, name) > 0 for name in counts)


def read_cpus(config: Mapping[str, Any]) -> float:
    """Return the CPUs that Ray allocates to a trial; NaN if the config lacks them, or learners or evaluation use more."""
    if amount(config, "num_learners") or amount(config, "evaluation_num_env_runners"):
        return NAN
    each = number(config.get("num_cpus_per_env_runner"))
    return number(config.get("num_cpus_for_main_process")) + number(config.get("num_env_runners")) * each


def uses_gpus(config: Mapping[str, Any]) -> bool:
    """Return whether the learners or env runners of the trial request GPUs."""
    return any(amount(config, name) > 0 for name in ("num_gpus", "num_gpus_per_learner", "num_gpus_per_env_runner"))


def total_gpus(config: Mapping[str, Any]) -> float:
    """Return the GPUs that a trial requests for its learners and env runners, in thousandths."""
    of_learners = max(1.0, amount(config, "num_learners")) * amount(config, "num_gpus_per_learner")
    of_runners = amount(config, "num_env_runners") * amount(config, "num_gpus_per_env_runner")
    return round(amount(config, "num_gpus") + of_learners + of_runners, 3)


def keeps_batch(config: Any, own: Scale) -> Callable[[Scale], bool]:
    """Return a function that tells whether an iteration at a scale has as many env steps as at `own`, and enough of each env.

    Args:
        config: the AlgorithmConfig.
        own: the trial's scale.
    """
    batch, fragment = config.total_train_batch_size, config.rollout_fragment_length

    def env_steps(scale: Scale) -> float:
        n, envs = scale.parallelism, scale.num_envs_per_env_runner
        # RLlib makes the fragments of as many env runners one step longer as it takes.
        one_round = batch // n * n + math.ceil(batch % n / envs) * envs if fragment == "auto" else fragment * n
        return float(math.ceil(batch / one_round) * one_round)

    def fits(scale: Scale) -> bool:
        is_same = abs(env_steps(scale) / env_steps(own) - 1) <= _SAME_BATCH
        return scale == own or (is_same and env_steps(scale) >= _MIN_FRAGMENT * scale.parallelism)

    return fits
