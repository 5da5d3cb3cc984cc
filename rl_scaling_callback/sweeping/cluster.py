"""The Ray cluster that a sweep runs on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rl_scaling_callback.core.checks import at_least
from rl_scaling_callback.rllib import hardware
from rl_scaling_callback.rllib.hardware import Host

_ANSWER_WITHIN_S: Final = 60.0
_SAY_AFTER_S: Final = 5.0
_LONGEST_WAIT_S: Final = 300.0


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


def connect(num_cpus: int, *, insist: bool = False) -> None:
    """Connect to the local cluster or the one in `RAY_ADDRESS`, or start one if there is none.

    Args:
        num_cpus: logical CPUs of a newly started cluster.
        insist: whether to refuse a cluster that is already running, whose CPUs can't be changed.

    Raises:
        ValueError: `num_cpus` is less than 1, or a cluster is already running although `insist` is set; or an error of Ray.
    """
    at_least("num_cpus", num_cpus, 1)
    if ray.is_initialized():
        return
    try:
        ray.init(num_cpus=num_cpus, include_dashboard=False, log_to_driver=False)
    except ValueError as error:
        if "existing cluster" not in str(error):
            raise
        if insist:
            raise ValueError(f"num_cpus is {num_cpus!r}; allowed is only None when a Ray cluster is already running") from None
        ray.init(log_to_driver=False)


def asks_for_nothing(request: Any) -> bool:
    """Return whether one of a trial's processes requests no resources."""
    return bool(request.head_bundle_is_empty) or not all(any(bundle.values()) for bundle in request.bundles)


def reserve(request: Any, say: Callable[[str], None], longest_s: float = _LONGEST_WAIT_S) -> PlacementGroup | None:
    """Reserve the resources of a trial as Tune does; None if one of its processes requests none, which Ray can't reserve.

    Args:
        request: the return value of the algorithm's `default_resource_request`.
        say: called with a message if others use the resources and it has to wait.
        longest_s: time limit for waiting [s].

    Raises:
        TimeoutError: others still used them at the time limit.
    """
    if asks_for_nothing(request):
        return None
    bundles = request.bundles
    group: PlacementGroup = placement_group(bundles, strategy=request.strategy)
    try:
        if group.wait(min(_SAY_AFTER_S, longest_s)):
            return group
        asked = sum(bundle.get("CPU", 0.0) for bundle in bundles)
        free = f"{asked:g} CPUs are needed, and {ray.available_resources().get('CPU', 0.0):g} are free: other jobs hold the rest"
        say(f"{free}. Waiting for at most {longest_s:.0f} s")
        if group.wait(longest_s):
            return group
    except BaseException:
        remove_placement_group(group)
        raise
    remove_placement_group(group)
    raise TimeoutError(f"{free}, and have for {longest_s:.0f} s. Try again later, or with fewer env runners.")


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
    answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=_ANSWER_WITHIN_S) if asked else ([], [])
    for answer in silent:
        ray.cancel(answer, force=True)
    return [Node(ray.get(answer), asked[answer], _own(asked[answer], shared)) for answer in answered]


def _own(resources: Mapping[str, float], shared: Mapping[str, int]) -> str:
    """Return the name of a resource unique to this node; Ray gives each node one that contains its address."""
    own = sorted((name for name in resources if shared[name] == 1), key=lambda name: (not name.startswith("node:"), name))
    return own[0] if own else ""
