"""What a trial runs in: read once, from the Algorithm and from Ray, when the trial starts."""

from __future__ import annotations

import inspect
import platform
import socket
import sys
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import ray
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger
from ray.util import get_current_placement_group

from rl_scaling_callback import rllib
from rl_scaling_callback._version import __version__
from rl_scaling_callback.baseline.model import Workload
from rl_scaling_callback.core.comparison import Resources
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.rllib import hardware
from rl_scaling_callback.rllib.hardware import Host

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm import Algorithm

    from rl_scaling_callback.live.phases import PhaseClock

_RUNNERS_ANSWER_WITHIN_S = 30.0


def in_env_runner() -> bool:
    """Return whether this process is being started as an env runner: RLlib makes the callback there too."""
    if not ray.is_initialized():
        return False
    task = ray.get_runtime_context().get_task_name() or ""
    return task.endswith(("Runner.__init__", "Worker.__init__"))


def config_of(algorithm: Algorithm) -> Mapping[str, Any]:
    """Return the trial's config as a mapping. Read only: it is the Algorithm's own."""
    return vars(algorithm.config)


def workload_of(algorithm: Algorithm, hosts: Collection[Host], name: str | None) -> Workload:
    """Return the trial's workload: `name` when the user gave one, else config, hardware and Ray's version.

    Args:
        algorithm: the trial's Algorithm.
        hosts: the hosts of its env runners. Those of one kind count once: a trial may take more of them than its baseline did.
        name: what the user calls the workload.
    """
    if name is not None:
        return Workload({"name": name}, vouched=True)
    config = config_of(algorithm)
    facts = rllib.read_workload(config)
    kinds = sorted({(host.cpu, host.cores) for host in (hardware.this_host(), *hosts)})
    facts.update(
        cpu=kinds[0][0] if len(kinds) == 1 else [cpu for cpu, _ in kinds],
        cores=kinds[0][1] if len(kinds) == 1 else [cores for _, cores in kinds],
        accelerators=_accelerators() if rllib.uses_gpus(config) else [],
        ray=ray.__version__,
    )
    return Workload(facts)


def provenance_of(trial: str) -> dict[str, str]:
    """Return where a measurement comes from, in texts for a person who reads the baseline's file."""
    torch = sys.modules.get("torch")
    return {
        "trial": trial,
        "host": socket.gethostname(),
        "cpu": hardware.cpu_model(),
        "cores": str(hardware.usable_cores()),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "ray": ray.__version__,
        "torch": str(getattr(torch, "__version__", "not loaded")),
        "rl_scaling_callback": __version__,
    }


def hosts_of(algorithm: Algorithm) -> set[Host]:
    """Return the hosts of the env runners; none where they don't answer."""
    group = algorithm.env_runner_group
    hosts = {node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
    # RLlib restarts an env runner that fails to answer a call: none is bothered where the answer is known.
    if group is None or not group.num_remote_env_runners() or len(hosts) == 1:
        return {hardware.this_host()}
    answers = group.foreach_env_runner(_host, local_env_runner=False, timeout_seconds=_RUNNERS_ANSWER_WITHIN_S)
    return {host for host in answers if host is not None}


def resources_of(algorithm: Algorithm, hosts: Collection[Host]) -> Resources:
    """Return the cores that the env runners on `hosts` can use, and the CPUs that the trial holds."""
    accountable = hosts == {hardware.this_host()} and not rllib.has_other_workers(config_of(algorithm))
    return Resources(
        cores=float(sum(host.cores for host in hosts)) or NAN,
        cpus=_held_cpus(algorithm),
        machine_cores=hardware.whole_machine_cores() if accountable else NAN,
    )


def node_of() -> str:
    """Return the id of the Ray node that this process runs on."""
    return str(ray.get_runtime_context().get_node_id())


def watch_phases(algorithm: Algorithm, clock: PhaseClock) -> bool:
    """Have `clock` go along with the timers of the Algorithm's own code; return True.

    Raises:
        AttributeError: the Algorithm has no such timers.
    """
    clock.watch(algorithm.metrics)
    return True


def watch_learner(algorithm: Algorithm, clock: PhaseClock) -> bool:
    """Have `clock` go along with the timers of a learner in this process; return whether there is one.

    Raises:
        AttributeError: the learner has no such timers.
    """
    group = algorithm.learner_group
    if group is None or not group.is_local:
        return False

    def watch(learner: Any, *_: Any) -> None:
        clock.watch(learner.metrics)

    group.foreach_learner(watch)
    return True


def wait_for_gpu() -> None:
    """Wait for the CUDA work that this process has started: it belongs to the phase that started it."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    # An error of the GPU is not ours to raise: training meets it at its next step.
    with suppress(Exception):
        if cuda is not None and cuda.is_initialized():
            cuda.synchronize()


def _sum_of_the_iteration() -> dict[str, Any]:
    """Return the arguments that make `MetricsLogger.log_value` sum up within an iteration and start over."""
    default = inspect.signature(MetricsLogger.log_value).parameters.get("clear_on_reduce")
    # Newer releases always start over and warn about the argument; older ones keep adding without it.
    return {"reduce": "sum"} if default is None or default.default is not False else {"reduce": "sum", "clear_on_reduce": True}


SUM_OF_THE_ITERATION: Final = _sum_of_the_iteration()


def _held_cpus(algorithm: Algorithm) -> float:
    group = get_current_placement_group()
    if group is not None:
        return float(sum(bundle.get("CPU", 0.0) for bundle in group.bundle_specs)) or NAN
    # Outside Tune nothing is held as a whole: what Tune would reserve is the same sum.
    request = type(algorithm).default_resource_request(algorithm.config or {})
    return float(getattr(request, "required_resources", {}).get("CPU", 0.0)) or NAN


def _host(_env_runner: object) -> Host | None:
    try:
        return hardware.this_host()
    except Exception:  # an exception here would cost the trial its env runner
        return None


def _accelerators() -> list[str]:
    """Return the accelerator types of this node, or of the whole cluster where this node has none (remote learners)."""
    prefix = "accelerator_type:"
    types = {
        node["NodeID"]: {name.removeprefix(prefix) for name in node["Resources"] if name.startswith(prefix)}
        for node in ray.nodes()
        if node["Alive"]
    }
    return sorted(types.get(node_of()) or set().union(*types.values()))
