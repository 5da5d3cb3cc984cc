"""Reads from a config what must match for a fair comparison: every setting except those known to be harmless."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Mapping
from typing import Any, Final

from rl_scaling_callback.rllib import configs
from rl_scaling_callback.rllib.content import name_of, plain
from rl_scaling_callback.rllib.names import DEPRECATED
from rl_scaling_callback.rllib.values import number

_HARMLESS: Final = frozenset({
    # What scaling varies, and the placement of processes.
    "num_env_runners", "num_envs_per_env_runner", "rollout_fragment_length", "num_cpus_per_env_runner",
    "custom_resources_per_env_runner", "create_local_env_runner", "create_env_on_local_worker", "create_env_on_driver",
    "placement_strategy", "custom_resources_for_main_process", "custom_resources_per_learner",
    # Ray's CPU allocations; the actual number of threads is a separate fact.
    "num_cpus_for_main_process", "num_cpus_per_learner",
    # Hyperparameters of learning that don't change the amount of work.
    "gamma", "lr", "lr_schedule", "actor_lr", "critic_lr", "alpha_lr", "_lr_vf", "optimization", "adam_epsilon", "decay",
    "momentum", "lambda", "lambda_", "gae_lambda", "kl_coeff", "kl_target", "vf_loss_coeff", "entropy_coeff",
    "entropy_coeff_schedule", "clip_param", "vf_clip_param", "vtrace_clip_rho_threshold", "vtrace_clip_pg_rho_threshold",
    "epsilon", "initial_alpha", "target_entropy", "tau", "v_min", "v_max", "sigma0", "categorical_distribution_temperature", "seed",
    # Logging, metrics, checkpoints, checks, and how long an iteration lasts at least.
    "log_level", "log_sys_usage", "keep_per_episode_custom_metrics", "metrics_episode_collection_timeout_s",
    "metrics_num_episodes_for_smoothing", "sampler_perf_stats_ema_coef", "export_native_model_files",
    "checkpoint_trainable_policies_only", "store_buffer_in_checkpoints", "_use_msgpack_checkpoints", "disable_env_checking",
    "in_evaluation", "_validate_config", "_is_frozen", "class", "min_time_s_per_iteration",
    # Fault tolerance.
    "restart_failed_env_runners", "ignore_env_runner_failures", "max_num_env_runner_restarts",
    "delay_between_env_runner_restarts_s", "restart_failed_sub_environments",
    "num_consecutive_env_runner_failures_tolerance", "env_runner_health_probe_timeout_s",
    "env_runner_restore_timeout_s", "sample_timeout_s", "validate_env_runners_after_construction",
    "sync_filters_on_rollout_workers_timeout_s", "num_consecutive_worker_failures_tolerance",
    # What `read_facts` normalises itself or derives from others.
    "algo_class", "callbacks", "callbacks_class", "_train_batch_size_per_learner", "train_batch_size",
})  # fmt: skip
"""Settings that may differ in a fair comparison."""

_WORDS: Final = frozenset({
    "batch_mode", "count_steps_by", "env", "framework_str", "grad_clip_by", "merge_env_runner_states", "observation_filter",
    "opt_type", "preprocessor_pref", "td_error_loss_fn",
})  # fmt: skip
"""Settings whose strings are shown; all other strings may be secret."""

_EVALUATION: Final = ("evaluation_", "offline_eval", "off_policy_estimation", "custom_eval", "ope_split", "always_attach_eval")
_OFFLINE_EVALUATION: Final = "offline_eval_runner"
_NO_CALLBACKS: Final = ("RLlibCallback", "DefaultCallbacks")
_OWN: Final = f"{__name__.partition('.')[0]}."
_NAME: Final = re.compile(r"\w+(\.\w+)*")


HARDWARE_AND_VERSIONS: Final = (
    "cpu", "cores", "accelerators", "threads", "runner_threads", "learner_threads", "python", "ray", "torch", "gymnasium", "mujoco",
)  # fmt: skip
"""Workload facts that neither configs nor results contain: hardware, threads and versions."""


def read_facts(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts of a config that must match for a fair comparison, in plain JSON types, keyed by RLlib's setting names.

    Settings that scaling varies are excluded: runners, envs, CPUs per runner and fragment lengths. So is evaluation, unless it runs
    in parallel to training. Values are identified by content (see `content`), except for names and RLlib's own words: facts are
    stored, shown and shared, and other strings may be secret.

    Args:
        config: `vars(AlgorithmConfig)`, or the return value of `read_logged_config`.
    """
    is_new = bool(config.get("enable_rl_module_and_learner"))
    facts = {
        name.lstrip("_"): value if name in _WORDS and isinstance(value, str) else plain(value)
        for name, value in sorted(config.items())
        if _counts(name, config) and not (name == "model" and is_new) and not _is_deprecated(value)
    }
    facts["algorithm"] = plain(config.get("algo_class"))
    facts["callbacks"] = _callbacks(config.get("callbacks_class", config.get("callbacks")))
    facts["gym_env_vectorize_mode"] = configs.vectorize_mode(config)
    facts["model_config"] = _model_config(config.get("_model_config"))
    facts["policies"] = _policies(config.get("policies"))
    facts["train_batch_size"] = _batch_size(config)
    # An unset setting is the same as one that this release doesn't have.
    return {name: value for name, value in facts.items() if value is not None or name == "algorithm"}


def _counts(name: str, config: Mapping[str, Any]) -> bool:
    # Tune adds its own settings with two leading underscores.
    if name in _HARMLESS or name.startswith("__"):
        return False
    is_evaluation = name.startswith(_EVALUATION) or _OFFLINE_EVALUATION in name
    return not is_evaluation or (bool(config.get("evaluation_interval")) and configs.evaluation_is_parallel(config))


def _is_deprecated(value: object) -> bool:
    return isinstance(value, (int, str)) and value == DEPRECATED


def _callbacks(given: Any) -> list[Any]:
    """Return all callbacks except this package's, whose cost is negligible, and RLlib's default, which does nothing."""
    found = []
    for each in given if isinstance(given, (list, tuple)) else [given]:
        name = each if isinstance(each, str) else name_of(getattr(each, "func", each))
        is_own = name.removeprefix("functools.partial(").startswith(_OWN)  # in a log, it may be the repr of a partial
        if each is not None and not is_own and not name.rpartition(".")[2].startswith(_NO_CALLBACKS):
            found.append(each if isinstance(each, str) and _NAME.fullmatch(each) else plain(each))
    return found


def _policies(policies: Any) -> Any:
    """Return the policies as under Tune, where a PolicySpec is the list of its values."""
    if not isinstance(policies, Mapping):
        return plain(policies)
    return {str(name): plain(spec.get_state() if hasattr(spec, "get_state") else spec) for name, spec in policies.items()}


def _batch_size(config: Mapping[str, Any]) -> Any:
    """Return the env steps per batch, over all learners."""
    per_learner, learners = number(config.get("_train_batch_size_per_learner")), number(config.get("num_learners"))
    return int(per_learner * max(1.0, learners)) if per_learner > 0 else plain(config.get("train_batch_size"))


def _model_config(given: Any) -> Any:
    """Return the model settings other than RLlib's defaults, the same for a `DefaultModelConfig` and an equal dict."""
    settings = dict(vars(given)) if dataclasses.is_dataclass(given) else given
    if not isinstance(settings, Mapping):
        return plain(settings)
    default = getattr(sys.modules.get("ray.rllib.core.rl_module.default_model_config"), "DefaultModelConfig", None)
    defaults = {} if default is None else plain(dict(vars(default())))
    described = {str(name): plain(value) for name, value in settings.items()}
    return {name: value for name, value in described.items() if name not in defaults or value != defaults[name]}
