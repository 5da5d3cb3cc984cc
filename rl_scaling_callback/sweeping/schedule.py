"""What a cluster can run at all: Tune waits forever for a trial that asks for more than there is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rl_scaling_callback.scale import Scale

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig


def at_scale(config: AlgorithmConfig, scale: Scale) -> AlgorithmConfig:
    """Return a copy of a config at another scale."""
    return config.copy(copy_frozen=False).env_runners(
        num_env_runners=scale.num_env_runners, num_envs_per_env_runner=scale.num_envs_per_env_runner
    )


def bundles_of(config: AlgorithmConfig) -> list[Mapping[str, float]]:
    """Return the resources that Tune reserves for a trial, one mapping for each process."""
    algorithm: Any = config.algo_class
    return list(algorithm.default_resource_request(config).bundles)


def refusal(bundles: Sequence[Mapping[str, float]], nodes: Sequence[Mapping[str, float]]) -> str:
    """Return why a trial can never be scheduled on these nodes; "" when it can.

    Args:
        bundles: resources of each of its processes.
        nodes: resources of each node.
    """
    asked, there = _total(bundles), _total(nodes)
    for name, amount in asked.items():
        if amount > there.get(name, 0.0):
            return f"it takes {amount:g} {name} and the cluster has {there.get(name, 0.0):g}"
    for bundle in bundles:
        if not any(all(node.get(name, 0.0) >= amount for name, amount in bundle.items()) for node in nodes):
            return f"one of its processes takes {dict(bundle)}, more than any node has"
    return ""


def check(config: AlgorithmConfig, scales: Sequence[Scale], nodes: Sequence[Mapping[str, float]]) -> None:
    """Refuse a grid that holds what can never be scheduled.

    Raises:
        ValueError: says what can't be, why, and what would fit.
    """
    refused = {scale: why for scale in scales if (why := refusal(bundles_of(at_scale(config, scale)), nodes))}
    if not refused:
        return
    scale, why = next(iter(refused.items()))
    runners = sorted({scale.num_env_runners for scale in scales if scale not in refused})
    fits = f"{', '.join(map(str, runners))} env runners fit" if runners else "nothing of the grid fits"
    raise ValueError(
        f"{len(refused)} of {len(scales)} configurations can never be scheduled: {scale}, for instance: {why}; {fits}. Leave the "
        "others out, ask for fewer CPUs per env runner (num_cpus_per_env_runner), or start Ray with more CPUs than there are cores."
    )


def _total(resources: Sequence[Mapping[str, Any]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for each in resources:
        for name, amount in each.items():
            total[name] += amount
    return total
