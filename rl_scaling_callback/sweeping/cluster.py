"""The Ray cluster that a sweep runs on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rl_scaling_callback.rllib import hardware
from rl_scaling_callback.rllib.hardware import Host

_ANSWER_WITHIN_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the cluster.

    Attributes:
        host: its host.
        resources: its resources according to Ray.
        own: name of a resource that no other node has; "" if there is none.
    """

    host: Host
    resources: Mapping[str, float]
    own: str

    @property
    def kind(self) -> tuple[str, int, float, tuple[str, ...]]:
        """CPU, cores, Ray's CPUs and accelerators. Trials on nodes of equal kind are comparable."""
        accelerators = tuple(sorted(name for name in self.resources if name.startswith("accelerator_type:")))
        return self.host.cpu, self.host.cores, self.resources.get("CPU", 0.0), accelerators


def connect(num_cpus: int | None = None) -> None:
    """Connect to the local cluster or the one in `RAY_ADDRESS`, or start one if there is none.

    Args:
        num_cpus: logical CPUs of a newly started cluster. By default one more than there are cores, since the Algorithm's process
            is idle while its env runners sample.

    Raises:
        ValueError: `num_cpus` is given, but a cluster is already running.
    """
    if ray.is_initialized():
        return
    try:
        ray.init(num_cpus=num_cpus or hardware.usable_cores() + 1, include_dashboard=False, log_to_driver=False)
    except ValueError:  # the CPUs of a running cluster can't be changed
        if num_cpus is not None:
            raise ValueError(f"num_cpus is {num_cpus!r}; allowed is only None when a Ray cluster is already running") from None
        ray.init(log_to_driver=False)


def nodes() -> list[Node]:
    """Return the nodes that trials can run on: those with CPUs and responding workers."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    shared = Counter(name for node in alive for name in node["Resources"])
    ask = ray.remote(num_cpus=0)(hardware.this_host)
    asked = {}
    for node in alive:
        if node["Resources"].get("CPU", 0.0) > 0:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked[ask.options(scheduling_strategy=there).remote()] = node["Resources"]
    answered: list[Any] = ray.wait(list(asked), num_returns=len(asked), timeout=_ANSWER_WITHIN_S)[0] if asked else []
    return [Node(ray.get(answer), asked[answer], _own(asked[answer], shared)) for answer in answered]


def _own(resources: Mapping[str, float], shared: Mapping[str, int]) -> str:
    """Return the name of a resource unique to this node; Ray gives each node one that contains its address."""
    own = sorted((name for name in resources if shared[name] == 1), key=lambda name: (not name.startswith("node:"), name))
    return own[0] if own else ""
