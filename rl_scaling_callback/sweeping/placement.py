"""Decides where on a cluster a sweep's trials run, which can run at all, and which can run concurrently.

Tune waits forever for a trial that requests more resources than the cluster has, and ignores that trials may slow each other down.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import ray

from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.rllib import hardware
from rl_scaling_callback.rllib.hardware import Host
from rl_scaling_callback.sweeping.cluster import Node, nodes

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

_A_LITTLE: Final = 0.001
"""Amount of a node's own resource to request: enough to be scheduled there."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the trials of a sweep run.

    Attributes:
        host: one of their hosts; earlier runs on the same kind of host are comparable.
        cores: logical cores that the env runners of a trial share.
        slots: settings added to a trial's config, one mapping per concurrent trial.
    """

    host: Host
    cores: float
    slots: tuple[Mapping[str, Any], ...]


def find_placement(config: AlgorithmConfig, scales: Sequence[Scale]) -> Placement:
    """Return where a grid's trials run: one trial per node of one kind, or one trial at a time on the whole cluster.

    Raises:
        ValueError: a configuration can never be scheduled; the message says which, why, and what would fit.
    """
    check(config, scales, [node["Resources"] for node in ray.nodes() if node["Alive"]])
    found = nodes()
    chosen = alike(config, scales, found) if len(found) > 1 else []
    if chosen:
        return Placement(chosen[0].host, chosen[0].host.cores, tuple(_on(node, config) for node in chosen))
    hosts = [node.host for node in found] or [hardware.this_host()]
    return Placement(hosts[0], sum(host.cores for host in hosts), ({},))


def at_scale(config: AlgorithmConfig, scale: Scale) -> AlgorithmConfig:
    """Return a copy of a config at another scale."""
    return config.copy(copy_frozen=False).env_runners(
        num_env_runners=scale.num_env_runners, num_envs_per_env_runner=scale.num_envs_per_env_runner
    )


def bundles_of(config: AlgorithmConfig) -> list[Mapping[str, float]]:
    """Return the resources that Tune reserves for a trial, one mapping per process."""
    algorithm: Any = config.algo_class
    return list(algorithm.default_resource_request(config).bundles)


def cpus_of(config: AlgorithmConfig) -> tuple[float, float]:
    """Return the CPUs that Tune reserves for a trial other than for its env runners, and per env runner."""
    one, two = (_total(bundles_of(at_scale(config, Scale(runners, 1))))["CPU"] for runners in (1, 2))
    return float(2 * one - two), float(two - one)


def cpus_for(config: AlgorithmConfig, cores: int) -> int:
    """Return the logical CPUs for one env runner per core plus the rest of a trial, which is idle while env runners sample."""
    rest, each = cpus_of(config)
    return max(1, math.ceil(rest + min(1.0, each) * cores))


def refusal(bundles: Sequence[Mapping[str, float]], nodes: Sequence[Mapping[str, float]]) -> str:
    """Return why a trial can never be scheduled on these nodes; "" if it can.

    Args:
        bundles: resources of each of its processes.
        nodes: resources of each node.
    """
    requested, available = _total(bundles), _total(nodes)
    for name, amount in requested.items():
        if amount > available.get(name, 0.0):
            return f"it needs {amount:g} {name}, but the cluster has {available.get(name, 0.0):g}"
    for bundle in bundles:
        if not any(all(node.get(name, 0.0) >= amount for name, amount in bundle.items()) for node in nodes):
            return f"one of its processes needs {dict(bundle)}, more than any node has"
    return ""


def check(config: AlgorithmConfig, scales: Sequence[Scale], nodes: Sequence[Mapping[str, float]]) -> None:
    """Check that every configuration of a grid can be scheduled.

    Raises:
        ValueError: one can't; the message says why and what would fit.
    """
    refused = {scale: why for scale in scales if (why := refusal(bundles_of(at_scale(config, scale)), nodes))}
    if not refused:
        return
    scale, why = next(iter(refused.items()))
    runners = sorted({scale.num_env_runners for scale in scales if scale not in refused})
    fits = f"{', '.join(map(str, runners))} env runners fit" if runners else "nothing in the grid fits"
    raise ValueError(
        f"{len(refused)} of {len(scales)} configurations can never be scheduled, for example {scale}: {why}; {fits}. Omit the "
        "others, request fewer CPUs per env runner (num_cpus_per_env_runner), or start Ray with more CPUs than there are cores."
    )


def alike(config: AlgorithmConfig, scales: Sequence[Scale], nodes: Sequence[Node]) -> list[Node]:
    """Return the largest set of nodes of one kind, each able to run every configuration by itself; empty if there is none.

    It is also empty if the config spreads trials over nodes.
    """
    if config.placement_strategy not in ("PACK", "STRICT_PACK"):
        return []
    trials = [_total(bundles_of(at_scale(config, scale))) for scale in scales]
    kinds: dict[object, list[Node]] = defaultdict(list)
    for node in nodes:
        if node.own and not any(refusal([trial], [node.resources]) for trial in trials):
            kinds[node.kind].append(node)
    return max(kinds.values(), key=lambda same: (len(same), same[0].resources["CPU"]), default=[])


def _on(node: Node, config: AlgorithmConfig) -> dict[str, Any]:
    """Return the settings that keep a trial on one node: its main process requests a resource that only this node has."""
    requested = {**config.custom_resources_for_main_process, node.own: _A_LITTLE}
    return {"placement_strategy": "STRICT_PACK", "custom_resources_for_main_process": requested}


def _total(resources: Sequence[Mapping[str, float]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for each in resources:
        for name, amount in each.items():
            total[name] += amount  # type: ignore[assignment]  # a Counter accepts floats
    return total


def alive_nodes() -> list[Mapping[str, float]]:
    """Return the resources of each live node."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def most_runners(config: AlgorithmConfig, nodes: Sequence[Mapping[str, float]], cores: int) -> int:
    """Return the largest number of env runners, up to `cores`, that can be scheduled; 0 if not even one can."""
    return next((r for r in range(cores, 0, -1) if not refusal(bundles_of(at_scale(config, Scale(r, 1))), nodes)), 0)
