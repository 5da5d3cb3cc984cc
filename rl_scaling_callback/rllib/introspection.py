"""Reads facts about a trial from its Algorithm and from Ray."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.tune.registry import ENV_CREATOR, RLLIB_ACTION_DIST, RLLIB_MODEL, _global_registry
from ray.util import get_current_placement_group

from rl_scaling_callback import __version__
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.trial import Resources, Workload
from rl_scaling_callback.rllib import hardware
from rl_scaling_callback.rllib.configs import has_other_workers, read_facts, uses_gpus
from rl_scaling_callback.rllib.content import digest, module_label, plain
from rl_scaling_callback.rllib.hardware import Machine
from rl_scaling_callback.rllib.names import TIMER_PHASES
from rl_scaling_callback.rllib.threads import ANSWER_WITHIN_S, ask_learners, torch_threads

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm import Algorithm


def workload_of(algorithm: Algorithm, hosts: Collection[Machine], name: str | None) -> Workload:
    """Return the trial's workload: `name` if the user gave one, else config, code by its content, hardware, threads and versions.

    Equal hosts of env runners count once, because a trial may use more of them than its baseline.
    """
    if name is not None:
        return Workload({"name": name}, is_named=True)
    config: Any = algorithm.config
    facts = read_facts(vars(config))
    # Ray's actor class derives from the user's class, possibly through a subclass by Tune that changes the resource request.
    of_user = vars(type(algorithm)).get("__ray_actor_class__", type(algorithm))
    facts["algorithm"] = plain(next(cls for cls in of_user.__mro__ if not cls.__module__.startswith("ray.tune.")))
    facts["env"] = _env(config.env)
    if not config.enable_rl_module_and_learner:
        for setting, category in (("custom_model", RLLIB_MODEL), ("custom_action_dist", RLLIB_ACTION_DIST)):
            facts[setting] = plain(_registered(category, config.model.get(setting)))
    learners = getattr(algorithm, "learner_group", None)
    has_remote_learners = learners is not None and not learners.is_local
    kinds = sorted({(host.cpu, host.cores) for host in (hardware.this_machine(), *hosts)})
    facts.update(
        cpu=kinds[0][0] if len(kinds) == 1 else [cpu for cpu, _ in kinds],
        cores=kinds[0][1] if len(kinds) == 1 else [cores for _, cores in kinds],
        accelerators=_accelerators() if uses_gpus(vars(config)) else [],
        threads=torch_threads(),
        runner_threads=_distinct(lambda: _answers(algorithm, torch_threads)),
        learner_threads=_distinct(lambda: ask_learners(algorithm, torch_threads)) if has_remote_learners else [],
        **_versions(),
    )
    return Workload(facts)


def _versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that do most of the work; "" if not installed."""
    return {
        "python": ".".join(platform.python_version_tuple()[:2]),
        "ray": ray.__version__,
        **{package: _version(package) for package in ("torch", "gymnasium", "mujoco")},
    }


@functools.cache
def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _env(env: Any) -> Any:
    """Return an env's name and a hash of what is registered under it, if known."""
    if not isinstance(env, str):
        return plain(env)
    registered = _registered(ENV_CREATOR, env)
    if registered is None:
        registered = getattr(sys.modules.get("gymnasium.envs.registration"), "registry", {}).get(env.rpartition(":")[2])
    if registered is not None:
        # A spec names the env's module, which may not be imported here.
        entry = getattr(registered, "entry_point", None)
        code = module_label(entry.partition(":")[0]) if isinstance(entry, str) else None
        return f"{env} #{digest([plain(registered), code])}"
    module, found, _ = env.rpartition(":") if ":" in env else env.rpartition(".")
    return f"{env} #{digest(module_label(module))}" if found else env


def _registered(category: str, name: Any) -> Any:
    """Return what a user registered with Tune or RLlib under a name; None if nothing."""
    with suppress(Exception):  # it may not be picklable
        if isinstance(name, str) and _global_registry.contains(category, name):
            return _global_registry.get(category, name)
    return None


def _answers(algorithm: Algorithm, ask: Callable[[object], Any]) -> list[Any]:
    """Return what the env runners in other processes answer; if there are none, the answer of this process."""
    group = algorithm.env_runner_group
    if group is None or not group.num_remote_env_runners():
        return [ask(None)]
    return list(group.foreach_env_runner(ask, local_env_runner=False, timeout_seconds=ANSWER_WITHIN_S))


def _distinct(ask: Callable[[], Iterable[float]]) -> list[float]:
    """Return the distinct answers of processes; empty if they don't answer."""
    with suppress(Exception):
        return sorted({*ask()})
    return []


def provenance_of(trial: str) -> dict[str, str]:
    """Return what people who read the baseline's file want to know."""
    host = hardware.this_machine()
    return {
        "trial": trial,
        "host": host.name,
        "cpu": host.cpu,
        "cores": str(host.cores),
        "platform": platform.platform(),
        **_versions(),
        "rl_scaling_callback": __version__,
    }


def hosts_of(algorithm: Algorithm) -> set[Machine]:
    """Return the hosts of the env runners; empty if they don't answer."""
    if len({node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}) == 1:
        return {hardware.this_machine()}
    return {*_answers(algorithm, lambda _: hardware.this_machine())}


def resources_of(algorithm: Algorithm, hosts: Collection[Machine]) -> Resources:
    """Return the cores that the env runners on `hosts` can use, and the CPUs allocated to the trial."""
    accountable = hosts == {hardware.this_machine()} and not has_other_workers(vars(algorithm.config))
    return Resources(
        cores=float(sum(host.cores for host in hosts)) or NAN,
        cpus=_held_cpus(algorithm),
        machine_cores=hardware.whole_machine_cores() if accountable else NAN,
    )


def storage_of(algorithm: Algorithm) -> Any:
    """Return Tune's `StorageContext` of the trial; None outside Tune.

    An Algorithm built in a function trainable has none: there, the trial is the function.
    """
    storage = getattr(algorithm, "_storage", None)
    if storage is None:
        with suppress(Exception):  # a private module of Ray's, which may move
            from ray.train._internal.session import get_session

            session = get_session()
            storage = None if session is None else session.storage
    return storage


def run_of(storage: Any) -> str:
    """Return the id of a trial's run by its `StorageContext`, or "". Each `fit()` is a run; restoring continues its run."""
    return str(getattr(storage, "_timestamp", ""))


def users_path(place: str) -> str:
    """Return paths resolved against the directory where the program was started: Tune changes it per trial; URIs unchanged."""
    if "://" in place or place.startswith("~"):
        return place
    started_in = os.environ.get("TUNE_ORIG_WORKING_DIR", "")
    if started_in:
        with suppress(Exception):  # if the cluster was started elsewhere, only the job's config has the directory
            worker: Any = ray._private.worker.global_worker
            started_in = worker.core_worker.get_job_config().py_driver_sys_path[-1]
    return (Path(started_in).absolute() / place).as_posix()


def read_timers(algorithm: Algorithm) -> dict[str, float]:
    """Return the total seconds of each phase so far, from the timers of the old API stack.

    The logged values are moving averages, but the totals are exact. Evaluation is not included: the callback's hooks time it.
    """
    seconds: dict[str, float] = {}
    timers: Any = algorithm._timers
    for name, timer in list(timers.items()):
        phase = TIMER_PHASES.get(name)
        if phase is not None and phase != "evaluate":
            seconds[phase] = seconds.get(phase, 0.0) + timer._total_time
    return seconds


def _held_cpus(algorithm: Algorithm) -> float:
    group = get_current_placement_group()
    if group is not None:
        return float(sum(bundle.get("CPU", 0.0) for bundle in group.bundle_specs)) or NAN
    # Outside Tune nothing is reserved as a whole: use what Tune would reserve.
    request = type(algorithm).default_resource_request(algorithm.config or {})
    return float(getattr(request, "required_resources", {}).get("CPU", 0.0)) or NAN


def _accelerators() -> list[str]:
    """Return the accelerator types of this node, or of the whole cluster if the node has none (remote learners)."""
    prefix = "accelerator_type:"
    types = {
        node["NodeID"]: {name.removeprefix(prefix) for name in node["Resources"] if name.startswith(prefix)}
        for node in ray.nodes()
        if node["Alive"]
    }
    return sorted(types.get(str(ray.get_runtime_context().get_node_id())) or set().union(*types.values()))
