"""What must be equal for a fair comparison, as a config says it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rl_scaling_callback.rllib.values import number, plain

_WORKLOAD_KEYS: Final[Mapping[str, str]] = {
    "algorithm": "algo_class",
    "env": "env",
    "env_config": "env_config",
    "env_runner_class": "env_runner_cls",
    "vectorize_mode": "gym_env_vectorize_mode",
    "remote_worker_envs": "remote_worker_envs",
    "new_api_stack": "enable_env_runner_and_connector_v2",
    "framework": "framework_str",
    "minibatch_size": "minibatch_size",
    "num_epochs": "num_epochs",
    "batch_mode": "batch_mode",
    "training_intensity": "training_intensity",
    "rl_module": "_rl_module_spec",
    "model_config": "_model_config",
    "env_to_module_connector": "_env_to_module_connector",
    "module_to_env_connector": "_module_to_env_connector",
    "learner_connector": "_learner_connector",
    "learner_class": "_learner_class",
    "observation_filter": "observation_filter",
    "compress_observations": "compress_observations",
    "torch_compile_learner": "torch_compile_learner",
    "torch_compile_worker": "torch_compile_worker",
    "num_learners": "num_learners",
    "num_gpus_per_learner": "num_gpus_per_learner",
    "num_gpus_per_env_runner": "num_gpus_per_env_runner",
    "num_gpus": "num_gpus",
    "num_aggregator_actors_per_learner": "num_aggregator_actors_per_learner",
}
"""What must be equal for a fair comparison, and the config attribute that says it.

Learning rate, seed, gamma and the like don't change the work of a step. Runners, envs, CPUs per runner and fragment lengths
are what scaling is about. Evaluation is left out of steady figures.
"""


def read_workload(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts of a config that must be equal for a fair comparison, in plain JSON types.

    Args:
        config: `vars(AlgorithmConfig)`.
    """
    facts = {fact: plain(config.get(key)) for fact, key in _WORKLOAD_KEYS.items()}
    per_learner: Any = config.get("_train_batch_size_per_learner")
    learners = number(config.get("num_learners"))
    if number(per_learner) > 0:
        facts["train_batch_size"] = plain(per_learner * (int(learners) if learners > 1 else 1))
    else:
        facts["train_batch_size"] = plain(config.get("train_batch_size"))
    policies = config.get("policies")
    facts["policies"] = sorted(map(str, policies)) if isinstance(policies, (Mapping, set, list, tuple)) else plain(policies)
    if not config.get("enable_rl_module_and_learner"):
        facts["model"] = plain(config.get("model"))
    return facts
