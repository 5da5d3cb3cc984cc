"""What a trial runs in: read once, from the Algorithm and from Ray, when the trial starts."""

from __future__ import annotations

import functools
import importlib.metadata
import inspect
import os
import platform
import socket
import sys
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import ray
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger
from ray.tune.registry import ENV_CREATOR, RLLIB_ACTION_DIST, RLLIB_MODEL, _global_registry
from ray.util import get_current_placement_group

from rl_scaling_callback import rllib
from rl_scaling_callback._version import __version__
from rl_scaling_callback.core.comparison import Resources
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.workload import Workload
from rl_scaling_callback.rllib import content, hardware
from rl_scaling_callback.rllib.hardware import Host
from rl_scaling_callback.rllib.learner_queue import LearnerQueue
from rl_scaling_callback.rllib.values import plain

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm import Algorithm

    from rl_scaling_callback.live.phases import PhaseClock
    from rl_scaling_callback.rllib.results import RunnerReport

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
    """Return the trial's workload: `name` when the user gave one, else config, code, hardware, threads and versions.

    Args:
        algorithm: the trial's Algorithm.
        hosts: the hosts of its env runners. Those of one kind count once: a trial may take more of them than its baseline did.
        name: what the user calls the workload.
    """
    if name is not None:
        return Workload({"name": name}, vouched=True)
    config = algorithm.config
    facts = facts_of(config, type(algorithm))
    kinds = sorted({(host.cpu, host.cores) for host in (hardware.this_host(), *hosts)})
    facts.update(
        cpu=kinds[0][0] if len(kinds) == 1 else [cpu for cpu, _ in kinds],
        cores=kinds[0][1] if len(kinds) == 1 else [cores for _, cores in kinds],
        accelerators=accelerators(node_of()) if rllib.uses_gpus(vars(config)) else [],
        threads=_threads(),
        learner_threads=_learner_threads(algorithm),
        **versions(),
    )
    return Workload(facts)


def facts_of(config: Any, algorithm: type) -> dict[str, Any]:
    """Return the facts of a config that must be equal for a fair comparison, code by its content.

    Args:
        config: an `AlgorithmConfig`.
        algorithm: the class that it is given to.
    """
    facts = rllib.read_workload(vars(config), _model_defaults(config))
    # An actor's class is one that Ray derives from the user's, and Tune may have derived that to have it ask for other resources.
    algorithm = vars(algorithm).get("__ray_actor_class__", algorithm)
    facts["algorithm"] = plain(next(cls for cls in algorithm.__mro__ if not cls.__module__.startswith("ray.tune.")))
    facts["env"] = _env(config.env)
    if not config.enable_rl_module_and_learner:
        for setting, category in (("custom_model", RLLIB_MODEL), ("custom_action_dist", RLLIB_ACTION_DIST)):
            facts[setting] = plain(_registered(category, config.model.get(setting)))
    return facts


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that most of the work is done in; "" where one is not installed."""
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


def _model_defaults(config: Any) -> dict[str, Any]:
    """Return what the model has where its config says nothing; empty on the old API stack."""
    with suppress(ImportError, AttributeError, TypeError):
        from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

        return {**vars(DefaultModelConfig()), **config._model_config_auto_includes}
    return {}


def _env(env: Any) -> Any:
    """Return what is registered under an env's name: its name and a hash of that, where it can be told."""
    if not isinstance(env, str):
        return plain(env)
    registered = _registered(ENV_CREATOR, env)
    if registered is None:
        registered = getattr(sys.modules.get("gymnasium.envs.registration"), "registry", {}).get(env.rpartition(":")[2])
    if registered is not None:
        # A spec names the module of its env; that may not be imported here.
        entry = getattr(registered, "entry_point", None)
        code = content.module_label(entry.partition(":")[0]) if isinstance(entry, str) else None
        return f"{env} #{content.digest([plain(registered), code])}"
    module, found, _ = env.rpartition(":") if ":" in env else env.rpartition(".")
    return f"{env} #{content.digest(content.module_label(module))}" if found else env


def _registered(category: str, name: Any) -> Any:
    """Return what a user registered with Tune or RLlib under a name; None where there is no such thing."""
    with suppress(Exception):  # it may not be picklable
        if isinstance(name, str) and _global_registry.contains(category, name):
            return _global_registry.get(category, name)
    return None


def _threads(_process: object = None) -> float:
    """Return how many threads this process computes with."""
    torch = sys.modules.get("torch")
    if torch is not None:
        return float(torch.get_num_threads())
    told = os.environ.get("OMP_NUM_THREADS", "")
    return float(told) if told.isdecimal() else float(hardware.usable_cores())


def _learner_threads(algorithm: Algorithm) -> list[float]:
    """Return the same of learners in processes of their own, each number once; none where there are none or they don't answer."""
    group = getattr(algorithm, "learner_group", None)
    if group is not None and not group.is_local:
        with suppress(Exception):
            answers = group.foreach_learner(_threads, timeout_seconds=_RUNNERS_ANSWER_WITHIN_S)
            return sorted({answer.get() for answer in answers if answer.ok})
    return []


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


def storage_of(algorithm: Algorithm) -> Any:
    """Return Tune's `StorageContext` of the trial; None outside Tune.

    An Algorithm that a function trainable makes has none of its own: the trial is the function.
    """
    storage = getattr(algorithm, "_storage", None)
    if storage is None:
        with suppress(Exception):  # private to Ray, and may move
            from ray.train._internal.session import get_session

            session = get_session()
            storage = None if session is None else session.storage
    return storage


def watch_iterations(algorithm: Algorithm, **blocks: Callable[[], AbstractContextManager[None]]) -> None:
    """Run each call of the named methods of an Algorithm inside a block: `step` is one iteration, `training_step` its training.

    Raises:
        AttributeError: the Algorithm has no such method.
    """
    # A strong reference would keep an Algorithm that is dropped alive until the garbage collector finds the cycle.
    reference = weakref.ref(algorithm)
    for name, block in blocks.items():
        method = getattr(type(algorithm), name)

        def call(*args: Any, _method: Any = method, _block: Any = block, **kwargs: Any) -> Any:
            with _block():
                return _method(reference(), *args, **kwargs)

        setattr(algorithm, name, call)


def watch_reports(
    algorithm: Algorithm,
    take: Callable[[list[tuple[str, RunnerReport]]], None],
    take_learner: Callable[[Mapping[str, float]], None],
) -> None:
    """Hand what env runners reported while they sampled for training to `take`, before RLlib merges their metrics.

    What learners in other processes reported goes to `take_learner`, one after another.

    RLlib looks up each key of the metrics in each env runner's: reports that reached it would cost runners², and would show in
    results, in `algorithm.evaluate()` and in checkpoints.

    Raises:
        AttributeError: the Algorithm has no such metrics.
    """
    metrics: Any = algorithm.metrics

    def remove_reports(logged: Sequence[Any], key: Any) -> None:
        name = key[0] if isinstance(key, tuple) and len(key) == 1 else key
        if name == rllib.LEARNER_RESULTS:
            for told in rllib.take_learner_reports(logged):
                take_learner(told)
        else:
            reports = rllib.take_reports(logged)
            if name == rllib.ENV_RUNNER_RESULTS:
                take(reports)

    def aggregate_without_reports(stats_dicts: Any, *args: Any, **kwargs: Any) -> Any:
        stats_dicts = list(stats_dicts)
        remove_reports(stats_dicts, kwargs.get("key"))
        return aggregate(stats_dicts, *args, **kwargs)

    def log_without_reports(stats_dict: Any, *args: Any, **kwargs: Any) -> Any:
        remove_reports([stats_dict], kwargs.get("key"))
        return log_dict(stats_dict, *args, **kwargs)

    aggregate = getattr(metrics, _merging(metrics))
    setattr(metrics, _merging(metrics), aggregate_without_reports)
    # Older releases log so what a local env runner did in evaluation.
    log_dict = metrics.log_dict
    metrics.log_dict = log_without_reports


def run_of(storage: Any) -> str:
    """Return which run of an experiment a trial belongs to: each `fit()` has its own, which a restored one keeps; "" where unknown.

    Args:
        storage: the `StorageContext` that a trial holds.
    """
    return str(getattr(storage, "_timestamp", ""))


def users_path(place: str) -> str:
    """Return a URI as it is, and a directory from where the user started the program: Tune runs each trial elsewhere."""
    if "://" in place:
        return place
    return (_users_directory() / Path(place).expanduser()).as_posix()


def _users_directory() -> Path:
    """Return the directory in which the user started the program."""
    if "TUNE_ORIG_WORKING_DIR" not in os.environ:
        return Path.cwd()
    with suppress(Exception):  # where a cluster was started elsewhere, only the job's own books tell
        worker: Any = ray._private.worker.global_worker
        return Path(worker.core_worker.get_job_config().py_driver_sys_path[-1])
    return Path(os.environ["TUNE_ORIG_WORKING_DIR"])


def watch_end(algorithm: Algorithm, say: Callable[[], None]) -> None:
    """Have `say` called when the trial ends: RLlib has no hook for it."""
    own = weakref.ref(algorithm)

    def cleanup() -> None:
        say()
        ended = own()
        if ended is not None:
            type(ended).cleanup(ended)

    algorithm.cleanup = cleanup  # type: ignore[method-assign]


def watch_phases(algorithm: Algorithm, clock: PhaseClock) -> bool:
    """Have `clock` go along with the timers of the Algorithm's own code; return True.

    Raises:
        AttributeError: the Algorithm has no such timers.
    """
    metrics: Any = algorithm.metrics
    clock.watch(metrics)
    if not rllib.is_asynchronous(config_of(algorithm)):
        merge = getattr(metrics, _merging(metrics))

        # No timer of RLlib's covers it. It is the end of the samples' way, and takes longer the more env runners there are.
        def merge_in_sample(*args: Any, **kwargs: Any) -> Any:
            with clock.block("sample") if kwargs.get("key") == rllib.ENV_RUNNER_RESULTS else nullcontext():
                return merge(*args, **kwargs)

        setattr(metrics, _merging(metrics), merge_in_sample)
    return True


def _merging(metrics: Any) -> str:
    """Return the name of the method that merges what env runners report: it had another one in Ray 2.45."""
    return "aggregate" if hasattr(metrics, "aggregate") else "merge_and_log_n_dicts"


def read_timers(algorithm: Algorithm) -> dict[str, float]:
    """Return the seconds of each phase so far, by the timers of the old API stack: their totals are exact, what they log is a mean.

    Evaluation is left out, which the callback's own hooks time.

    Raises:
        AttributeError: the Algorithm has no such timers.
    """
    seconds: dict[str, float] = {}
    timers: Any = algorithm._timers
    for name, timer in list(timers.items()):
        phase = rllib.TIMER_PHASES.get(name)
        if phase is not None and phase != "evaluate":
            seconds[phase] = seconds.get(phase, 0.0) + timer._total_time
    return seconds


def watch_learners(algorithm: Algorithm, make_clock: Callable[[], PhaseClock]) -> Callable[[], dict[str, float]] | None:
    """Watch what learners do beside the env runners. Learners in other processes report it with their results.

    Args:
        algorithm: the Algorithm.
        make_clock: makes the clock of a learner's phases, in the learner's process.

    Returns:
        What tells the seconds of each phase of the learner in this process since it was last called, and what `LearnerQueue.take`
        does; None where learners are processes of their own.

    Raises:
        AttributeError: learners have no such timers.
    """
    group: Any = algorithm.learner_group
    if group.is_local:
        takes: list[Callable[[], dict[str, float]]] = []
        group.foreach_learner(lambda learner, *_: takes.append(_watch_learner(make_clock, learner)))
        return takes[0]
    group.foreach_learner(functools.partial(_tell, make_clock))
    return None


def _watch_learner(make_clock: Callable[[], PhaseClock], learner: Any) -> Callable[[], dict[str, float]]:
    clock = make_clock()
    clock.watch(learner.metrics)
    try:
        watched = LearnerQueue(learner)
    except Exception:  # its queue is private to RLlib; older releases have others
        return clock.take
    return lambda: {**clock.take(), **watched.take()}


def _tell(make_clock: Callable[[], PhaseClock], learner: Any, *_: Any) -> None:
    """Have a learner tell what it did with its results. Runs in the learner's process."""
    take = _watch_learner(make_clock, learner)
    reduce = learner.metrics.reduce

    def reduce_and_tell(*args: Any, **kwargs: Any) -> Any:
        stats = reduce(*args, **kwargs)
        stats[rllib.REPORTS] = take()
        return stats

    learner.metrics.reduce = reduce_and_tell


def dropped_steps(algorithm: Algorithm) -> float:
    """Return the env steps so far that found no room at the learners and were dropped."""
    group: Any = algorithm.learner_group
    return rllib.number(group.get_stats().get("learner_group_ts_dropped_lifetime"))


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


def accelerators(node: str) -> list[str]:
    """Return the accelerator types of a node, or of the whole cluster where it has none (remote learners)."""
    prefix = "accelerator_type:"
    types = {
        node["NodeID"]: {name.removeprefix(prefix) for name in node["Resources"] if name.startswith(prefix)}
        for node in ray.nodes()
        if node["Alive"]
    }
    return sorted(types.get(node) or set().union(*types.values()))
