"""The Ray cluster that a sweep runs on: connecting to it, what fits on it, and reserving resources.

Ray waits forever for a process that requests more resources than the cluster has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.rllib import hardware

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

_MAX_ANSWER_S: Final = 60.0
_SAY_AFTER_S: Final = 5.0
_MAX_WAIT_S: Final = 300.0


def connect(num_cpus: int) -> None:
    """Connect to the local cluster or the one in `RAY_ADDRESS`, or start one with `num_cpus` logical CPUs if there is none.

    Raises:
        ValueError: an error of Ray.
    """
    if ray.is_initialized():
        return
    try:
        ray.init(num_cpus=num_cpus, include_dashboard=False, log_to_driver=False)
    except ValueError as error:
        if "existing cluster" not in str(error):
            raise
        ray.init(log_to_driver=False)


def request(config: AlgorithmConfig) -> Any:
    """Return the resources that Tune reserves for a trial: `bundles` has one mapping per process."""
    algorithm: Any = config.algo_class
    return algorithm.default_resource_request(config)


def reserve(request: Any, say: Callable[[str], None], longest_s: float = _MAX_WAIT_S) -> PlacementGroup | None:
    """Reserve a `request` as Tune does; None if one of its processes requests nothing, which Ray can't reserve.

    If others use the resources, it says so and waits, for at most `longest_s` [s].

    Raises:
        TimeoutError: others still used them at the time limit.
    """
    bundles = request.bundles
    if request.head_bundle_is_empty or not all(any(bundle.values()) for bundle in bundles):
        return None
    group: PlacementGroup = placement_group(bundles, strategy=request.strategy)
    try:
        if group.wait(min(_SAY_AFTER_S, longest_s)):
            return group
        asked = sum(bundle.get("CPU", 0.0) for bundle in bundles)
        free = f"{asked:g} CPUs are needed, and {ray.available_resources().get('CPU', 0.0):g} are free: other jobs hold the rest"
        say(f"{free}. Waiting for at most {longest_s:.0f} s")
        if group.wait(longest_s):
            return group
        raise TimeoutError(f"{free}, and have for {longest_s:.0f} s. Try again later, or with fewer env runners.")
    except BaseException:
        remove_placement_group(group)
        raise


def cores() -> int:
    """Return the logical cores of the nodes that have CPUs and whose workers respond."""
    ask = ray.remote(num_cpus=0)(hardware.this_machine)
    asked = [
        ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote()
        for node in ray.nodes()
        if node["Alive"] and node["Resources"].get("CPU", 0.0) > 0
    ]
    answered, silent = ray.wait(asked, num_returns=len(asked), timeout=_MAX_ANSWER_S) if asked else ([], [])
    for answer in silent:
        ray.cancel(answer, force=True)
    return sum(ray.get(answer).cores for answer in answered)


def at_scale(config: AlgorithmConfig, scale: Scale) -> AlgorithmConfig:
    """Return a copy of a config at another scale."""
    return config.copy(copy_frozen=False).env_runners(
        num_env_runners=scale.num_env_runners, num_envs_per_env_runner=scale.num_envs_per_env_runner
    )


def cpus_of(config: AlgorithmConfig) -> tuple[float, float]:
    """Return the CPUs that Tune reserves for a trial other than for its env runners, and per env runner."""
    one, two = (sum(bundle.get("CPU", 0.0) for bundle in _bundles(config, runners)) for runners in (1, 2))
    return float(2 * one - two), float(two - one)


def cpus_for(config: AlgorithmConfig, cores: int) -> int:
    """Return the logical CPUs for one env runner per core plus the rest of a trial, which is idle while env runners sample."""
    rest, each = cpus_of(config)
    return max(1, math.ceil(rest + min(1.0, each) * cores))


def check(config: AlgorithmConfig, runners: Sequence[int]) -> None:
    """Check that trials with these numbers of env runners can be scheduled.

    Raises:
        ValueError: one can't; the message says why and what would fit.
    """
    refused = {r: why for r in runners if (why := _refusal(config, r))}
    if refused:
        fitting = ", ".join(str(r) for r in runners if r not in refused)
        raise ValueError(
            f"The cluster can never run {', '.join(map(str, refused))} env runners: {next(iter(refused.values()))}; "
            f"{fitting or 'none'} fit. Omit the others, request fewer CPUs per env runner (num_cpus_per_env_runner), or start Ray "
            "with more CPUs than there are cores."
        )


def most_runners(config: AlgorithmConfig, cores: int) -> int:
    """Return the largest number of env runners, up to `cores`, that can be scheduled; 0 if not even one can."""
    return next((r for r in range(cores, 0, -1) if not _refusal(config, r)), 0)


def _refusal(config: AlgorithmConfig, runners: int) -> str:
    """Return why a trial can never be scheduled; "" if it can."""
    bundles, nodes = _bundles(config, runners), [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for name in {name for bundle in bundles for name in bundle}:
        needed, had = (sum(each.get(name, 0.0) for each in resources) for resources in (bundles, nodes))
        if needed > had:
            return f"{runners} need {needed:g} {name}, but the cluster has {had:g}"
    for bundle in bundles:
        if not any(all(node.get(name, 0.0) >= amount for name, amount in bundle.items()) for node in nodes):
            return f"one of the processes needs {dict(bundle)}, more than any node has"
    return ""


def _bundles(config: AlgorithmConfig, runners: int) -> list[Mapping[str, float]]:
    return list(request(at_scale(config, Scale(runners, 1))).bundles)
