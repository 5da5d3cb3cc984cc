"""Reads RLlib configs of either API stack."""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Mapping
from numbers import Integral
from typing import Any, Final

from rl_scaling_callback.core.formulas import NAN, ratio
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.rllib.names import renamed
from rl_scaling_callback.rllib.values import ADDRESS, number, plain


def read_scale(config: Mapping[str, Any]) -> Scale:
    """Return the scale of a trial from `vars(AlgorithmConfig)` or a config dict.

    Raises:
        ValueError: the config lacks it.
    """
    runners, envs = config.get("num_env_runners"), config.get("num_envs_per_env_runner")
    if not isinstance(runners, Integral) or not isinstance(envs, Integral):
        raise ValueError(f"num_env_runners is {runners!r} and num_envs_per_env_runner is {envs!r}; allowed are whole numbers")
    return Scale(runners, envs)  # type: ignore[arg-type]  # NumPy's integers too


def samples_env(config: Mapping[str, Any]) -> bool:
    """Return whether training samples env steps; False for algorithms that learn only from recorded data."""
    return not (config.get("_is_online") is False or config.get("input_") not in (None, "sampler"))


def evaluates(config: Mapping[str, Any]) -> bool:
    """Return whether training pauses for evaluation."""
    return bool(config.get("evaluation_interval")) and not evaluation_is_parallel(config)


def iterations_are_timed(config: Mapping[str, Any]) -> bool:
    """Return whether iterations have a minimum duration, so that their steps vary with the throughput (APPO, IMPALA, SAC)."""
    return number(config.get("min_time_s_per_iteration")) > 0


def steps_follow_scale(config: Mapping[str, Any]) -> bool:
    """Return whether an iteration samples in proportion to N and learns in proportion to what it samples (DreamerV3).

    Steps per iteration may then differ in a fair comparison, since the work per step is the same. This requires a whole number of
    updates per round of one env: RLlib rounds up, so otherwise there would be more work per step at small N.
    """
    per_env_step = ratio(
        number(config.get("training_ratio")), number(config.get("batch_size_B")) * number(config.get("batch_length_T"))
    )
    updates = per_env_step * number(config.get("rollout_fragment_length"))
    return updates >= 1 and updates == int(updates)


def steps_before_learning(config: Mapping[str, Any]) -> float:
    """Return the env steps sampled before learning starts (SAC, DQN); iterations before that are not steady."""
    steps = number(config.get("num_steps_sampled_before_learning_starts"))
    return steps if steps > 0 else 0.0


def evaluation_is_parallel(config: Mapping[str, Any]) -> bool:
    """Return whether evaluation runs in parallel to training, so that it costs only the time by which it outlasts training."""
    return bool(config.get("evaluation_parallel_to_training"))


def uses_gpus(config: Mapping[str, Any]) -> bool:
    """Return whether the learners or env runners of the trial request GPUs."""
    return any(number(config.get(key)) > 0 for key in ("num_gpus", "num_gpus_per_learner", "num_gpus_per_env_runner"))


def read_cpus(config: Mapping[str, Any]) -> float:
    """Return the CPUs that Ray allocates to a trial; NaN if the config lacks them, or learners or evaluation use more."""
    if number(config.get("num_learners")) > 0 or number(config.get("evaluation_num_env_runners")) > 0:
        return NAN
    each = number(config.get("num_cpus_per_env_runner"))
    return number(config.get("num_cpus_for_main_process")) + number(config.get("num_env_runners")) * each


def has_other_workers(config: Mapping[str, Any]) -> bool:
    """Return whether the trial has processes other than the Algorithm's and its env runners, such as remote learners."""
    counts = ("num_learners", "num_aggregator_actors_per_learner", "evaluation_num_env_runners")
    own_envs = config.get("remote_worker_envs") or vectorize_mode(config) == "async"
    return bool(own_envs) or any(number(config.get(key)) > 0 for key in counts)


def vectorize_mode(config: Mapping[str, Any]) -> Any:
    """Return how env runners step their sub-envs; "SYNC", "sync", `VectorizeMode.SYNC` and its repr in a log are the same."""
    mode = config.get("gym_env_vectorize_mode")
    mode = mode.value if isinstance(mode, enum.Enum) else mode
    return mode.rpartition(".")[2].lower() if isinstance(mode, str) else plain(mode)


def steps_in_turn(config: Mapping[str, Any]) -> bool:
    """Return whether env runners step their sub-envs one after another, rather than in parallel or as one vectorised env."""
    return not config.get("remote_worker_envs") and vectorize_mode(config) in (None, "sync")


def is_new_stack(config: Mapping[str, Any]) -> bool:
    """Return whether the trial runs on RLlib's new API stack."""
    return bool(config.get("enable_env_runner_and_connector_v2"))


def is_asynchronous(config: Mapping[str, Any]) -> bool:
    """Return whether sampling overlaps learning (IMPALA, APPO), so that phases are not sequential."""
    return "broadcast_interval" in config or "vtrace" in config


TIMER_PHASES: Final[Mapping[str, str]] = {
    "env_runner_sampling_timer": "sample",
    "sample": "sample",
    "replay_buffer_add_data_timer": "sample",  # the last part of sampling; takes longer with more envs
    "learner_update_timer": "learn",
    "connector_pipeline_timer": "connectors",  # in the learner's metrics, within its update
    "learn": "learn",  # DreamerV3 and the old API stack
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

SAMPLE_TIMER: Final = "sample"
"""The timer around an env runner's sampling."""

STEP_TIMERS: Final[Mapping[str, str]] = {"rlmodule_inference_timer": "inference", "env_step_timer": "env_step"}
"""The part of sampling that each timer inside a step measures, in the order of the step."""

RESET_TIMER: Final = "env_reset_timer"
"""The timer around a reset of all envs of an env runner."""

WEIGHTS_TIMER: Final = "env_runner_state_server_pull"
"""The timer around an env runner's request for weights before it samples (IMPALA, APPO)."""

LEARNER_PHASES: Final[Mapping[str, str]] = {
    "learner_thread_update_timer": "busy",
    "learner_thread_in_queue_wait_timer": "waiting",
}
"""The phase of each timer in the learner's thread (IMPALA, APPO)."""


_CLASS = re.compile(r"<class '([^']*)'>")


def read_logged_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the config of a logged result or `params.json`, of any release, to today's names in `vars(AlgorithmConfig)`.

    Classes become their names, as in `read_facts`, and memory addresses are removed. The algorithm is not part of the config.
    """
    text = json.dumps(renamed(config))
    attributes: dict[str, Any] = json.loads(ADDRESS.sub("", _CLASS.sub(r"\1", text)))
    return attributes


def total_gpus(config: Mapping[str, Any]) -> float:
    """Return the GPUs that a trial requests for its learners and env runners, in thousandths."""
    of_learners = max(1.0, number(config.get("num_learners"))) * _or_none(config.get("num_gpus_per_learner"))
    of_runners = number(config.get("num_env_runners")) * _or_none(config.get("num_gpus_per_env_runner"))
    return round(_or_none(config.get("num_gpus")) + of_learners + of_runners, 3)


def _or_none(gpus: object) -> float:
    known = number(gpus)
    return known if known > 0 else 0.0
