"""Reads RLlib configs of either API stack, as `vars(AlgorithmConfig)` or a logged dict, and what of them is a workload."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import re
import sys
from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any, Final

from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.rllib.content import name_of, plain
from rl_scaling_callback.rllib.names import DEPRECATED, amount, number, renamed

_CLASS: Final = re.compile(r"<class '([^']*)'>")
_ADDRESS: Final = re.compile(r" at 0x[0-9a-fA-F]+")
_MIN_FRAGMENT: Final = 256
"""Fewest env steps of each env in an iteration. With fewer, advantages (GAE) rest more on the value function, and all envs, which
were reset at the same time, are in the same part of an episode. In benchmarks, PPO learned CartPole nearly as well with 256 as with
1,024, less reliably with 128, and clearly worse with 64 and 32.
"""
_SAME_BATCH: Final = 0.02
"""Largest relative difference between the env steps of iterations that autotune allows, since RLlib rounds fragments up."""


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
    return any(amount(config, name) > 0 for name in GPUS)


def total_gpus(config: Mapping[str, Any]) -> float:
    """Return the GPUs that a trial requests for its learners and env runners, in thousandths."""
    of_learners = max(1.0, amount(config, "num_learners")) * amount(config, "num_gpus_per_learner")
    of_runners = amount(config, "num_env_runners") * amount(config, "num_gpus_per_env_runner")
    return round(amount(config, "num_gpus") + of_learners + of_runners, 3)


def same_batch(one: float, other: float) -> bool:
    """Return whether two numbers of env steps per iteration are the same, apart from RLlib's rounding."""
    return abs(other / one - 1) <= _SAME_BATCH


def keeps_batch(config: Any, own: Scale) -> Callable[[Scale], bool]:
    """Return a function that tells whether an iteration at a scale has as many env steps as at `own`, and enough of each env.

    Enough are `_MIN_FRAGMENT`, or as many as at `own`.
    """
    batch, fragment = config.total_train_batch_size, config.rollout_fragment_length

    def env_steps(scale: Scale) -> float:
        n, envs = scale.parallelism, scale.num_envs_per_env_runner
        # RLlib makes the fragments of as many env runners one step longer as it takes.
        one_round = batch // n * n + math.ceil(batch % n / envs) * envs if fragment == "auto" else fragment * n
        return float(math.ceil(batch / one_round) * one_round)

    def fits(scale: Scale) -> bool:
        steps, of_own = env_steps(scale), env_steps(own)
        return same_batch(of_own, steps) and steps / scale.parallelism >= min(_MIN_FRAGMENT, of_own / own.parallelism)

    return fits


GPUS: Final = ("num_gpus", "num_gpus_per_learner", "num_gpus_per_env_runner")
"""Requests for GPUs."""

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
_NO_CALLBACKS: Final = ("RLlibCallback", "DefaultCallbacks")
_OWN: Final = f"{__name__.partition('.')[0]}."
_NAME: Final = re.compile(r"\w+(\.\w+)*")


HARDWARE_AND_VERSIONS: Final = (
    "cpu", "cores", "accelerators", "threads", "runner_threads", "learner_threads", "python", "ray", "torch", "gymnasium", "mujoco",
)  # fmt: skip
"""Workload facts that neither configs nor results contain: hardware, threads and versions."""


def read_facts(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts of a config that must match for a fair comparison, in plain JSON types, keyed by RLlib's setting names.

    Settings known to be harmless are excluded, and evaluation, unless it runs in parallel to training. Values are identified by
    content (see `content`), except for names and RLlib's own words: facts are stored, shown and shared, and other strings may be
    secret.
    """
    is_new = bool(config.get("enable_rl_module_and_learner"))
    facts = {
        name.lstrip("_"): value if name in _WORDS and isinstance(value, str) else plain(value)
        for name, value in sorted(config.items())
        if _counts(name, config) and not (name == "model" and is_new) and not (isinstance(value, int) and value == DEPRECATED)
    }
    facts["algorithm"] = plain(config.get("algo_class"))
    facts["callbacks"] = _callbacks(config.get("callbacks_class", config.get("callbacks")))
    facts["gym_env_vectorize_mode"] = vectorize_mode(config)
    facts["model_config"] = _model_config(config.get("_model_config"))
    facts["policies"] = _policies(config.get("policies"))
    facts["train_batch_size"] = _batch_size(config)
    # An unset setting is the same as one that this release doesn't have.
    return {name: value for name, value in facts.items() if value is not None or name == "algorithm"}


def _counts(name: str, config: Mapping[str, Any]) -> bool:
    # Tune adds its own settings with two leading underscores.
    if name in _HARMLESS or name.startswith("__"):
        return False
    is_evaluation = name.startswith(_EVALUATION) or "offline_eval_runner" in name
    return not is_evaluation or (bool(config.get("evaluation_interval")) and evaluation_is_parallel(config))


def _callbacks(given: Any) -> list[Any]:
    """Return all callbacks except this package's, whose cost is negligible, and RLlib's default, which does nothing."""
    found = []
    for each in given if isinstance(given, (list, tuple)) else [given]:
        name = each if isinstance(each, str) else name_of(getattr(each, "func", each))
        is_own = name.removeprefix("functools.partial(").startswith(_OWN)  # in a log, it may be the repr of a partial
        if each is not None and not is_own and not name.rpartition(".")[2].startswith(_NO_CALLBACKS):
            found.append(each if isinstance(each, str) and _NAME.fullmatch(each) else plain(each))
    return found


def _batch_size(config: Mapping[str, Any]) -> Any:
    """Return the env steps per batch, over all learners."""
    per_learner, learners = number(config.get("_train_batch_size_per_learner")), number(config.get("num_learners"))
    steps = number(per_learner * max(1.0, learners))  # a log may hold numbers that overflow
    return int(steps) if steps > 0 else plain(config.get("train_batch_size"))


def _policies(policies: Any) -> Any:
    """Return the policies as under Tune, where a PolicySpec is the list of its values."""
    if not isinstance(policies, Mapping):
        return plain(policies)
    return {str(name): plain(spec.get_state() if hasattr(spec, "get_state") else spec) for name, spec in policies.items()}


def _model_config(given: Any) -> Any:
    """Return the model settings other than RLlib's defaults, the same for a `DefaultModelConfig` and an equal dict."""
    settings = dict(vars(given)) if dataclasses.is_dataclass(given) else given
    if not isinstance(settings, Mapping):
        return plain(settings)
    default = getattr(sys.modules.get("ray.rllib.core.rl_module.default_model_config"), "DefaultModelConfig", None)
    defaults = {} if default is None else plain(dict(vars(default())))
    described = {str(name): plain(value) for name, value in settings.items()}
    return {name: value for name, value in described.items() if name not in defaults or value != defaults[name]}
