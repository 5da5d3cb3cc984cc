"""`sweep`: finds the best numbers of env runners and envs for a config before training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal, cast

import ray
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

from rl_scaling_callback.analysis.choice import Goal
from rl_scaling_callback.analysis.race import Grid, Race, powers_of_two
from rl_scaling_callback.core.checks import at_least
from rl_scaling_callback.core.probing import ProbeError
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.report import SWEEP_PAGE, Report, check_installed, make_report, print_report, render_page
from rl_scaling_callback.rllib import hardware
from rl_scaling_callback.rllib.configs import evaluates
from rl_scaling_callback.rllib.prober import obstacle
from rl_scaling_callback.rllib.threads import check_learner_threads
from rl_scaling_callback.storage import ExperimentError, Location
from rl_scaling_callback.sweeping.by_probes import sweep_by_probes
from rl_scaling_callback.sweeping.by_training import sweep_by_training
from rl_scaling_callback.sweeping.task import Task, at_scale, learner_threads_of, with_learner_threads

Counts = Sequence[int] | Literal["auto"]

_MAX_ENVS: Final = 256
"""Upper limit of doubling with `envs="auto"`."""


def sweep(
    config: AlgorithmConfig,
    goal: str | Goal = "balanced",
    *,
    runners: Counts = "auto",
    envs: Counts = "auto",
    page: str | Path = SWEEP_PAGE,
    say: Callable[[str], None] = print,
    show: Callable[[Report], None] | None = None,
) -> Report:
    """Find the best scale for a config and a goal, and return a report on the measurements.

    Configurations are probed inside one Algorithm, for 12 s after the first round, or 30 s on a disturbed machine, and training
    confirms the result, for about as long. Where probes can't predict training, the Algorithm is built anew for each configuration
    and trained for some iterations: on the old API stack, for asynchronous algorithms (APPO, IMPALA), and for envs that can exist
    only once per process. Uses the cluster that Ray is connected to or that runs on this machine, or else starts one.

    Args:
        config: the config to tune.
        goal: a name in `GOALS` or a `Goal`. All figures exclude evaluation that training waits for. If the cost of a step depends
            on the policy, figures apply to the policy of the first iterations.
        runners: numbers of env runners; `"auto"` for powers of two up to the CPUs of the cluster.
        envs: numbers of envs per env runner; `"auto"` doubles them as long as that pays off.
        page: path or URI of the HTML page to write; an existing one is replaced.
        say: called with progress messages, such as the standings after each round of probes or training run.
        show: called with the report; by default, the report is printed.

    Returns:
        The report. Its `config` is `config` at the recommended scale, or None without a recommendation. If more or fewer threads
        make the learner clearly faster, a note tells by how much, and the config's `ScalingCallback` has `learner_threads`, unless
        it is of a subclass that doesn't take them. `interrupted` is True if the sweep was interrupted.

    Raises:
        TypeError: `config` is not an AlgorithmConfig.
        ValueError: an option is invalid, or the cluster can never run the grid.
        ImportError: a package that the report needs is not installed.
        ProbeError: the reference, 1r×1e, can neither be probed nor trained.
        TimeoutError: the cluster's resources are in use by others.
        KeyboardInterrupt: interrupted before anything was measured.
    """
    check_installed()
    goal = Goal.of(goal)
    runners, envs = _counts("runners", runners), _counts("envs", envs)
    if not isinstance(config, AlgorithmConfig):
        raise TypeError(f"config is {config!r}; allowed is an AlgorithmConfig, such as PPOConfig().environment(...)")
    if (own_threads := learner_threads_of(config)) is not None:
        check_learner_threads(vars(config), own_threads)
    rest, each = cpus_of(config)
    # Trials need one CPU per env runner plus the rest, which is idle while env runners sample.
    connect(math.ceil(rest + hardware.usable_cores()))
    grid = grid_of(config, runners, envs)
    race = Race(goal, cpus=lambda scale: rest + each * scale.num_env_runners)
    measured = config.copy(copy_frozen=False)
    if evaluates(vars(config)):
        measured.evaluation(evaluation_interval=None)
    task = Task(measured, race, grid, say)
    try:
        if why := obstacle(vars(config)):
            raise ProbeError(f"The algorithm can't be probed: {why}")
        found = sweep_by_probes(task, grows=isinstance(envs, str))
    except ProbeError as error:
        say(f"{str(error).rstrip('.')}. Training each configuration in an Algorithm of its own instead.")
        found = sweep_by_training(task)
    report = replace(make_report(found.experiment, goal), interrupted=found.interrupted)
    if (choice := report.studies[0].recommendation.choice) is not None:
        tuned = at_scale(config, choice.scale)
        threads = found.learner_threads.get(choice.scale)
        report = replace(report, config=tuned if threads is None else with_learner_threads(tuned, threads))
    try:
        file = Location.of(page)
        file.write(render_page(report))
        say(f"Full report: {file.text}")
    except (OSError, ExperimentError) as error:
        say(f"The page can't be written: {error}")
    (show or print_report)(report)
    return report


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


def cpus_of(config: AlgorithmConfig) -> tuple[float, float]:
    """Return the CPUs that Tune reserves for a trial other than for its env runners, and per env runner."""
    one, two = (sum(bundle.get("CPU", 0.0) for bundle in _bundles(config, runners)) for runners in (1, 2))
    return float(2 * one - two), float(two - one)


def grid_of(config: AlgorithmConfig, runners: Counts, envs: Counts) -> Grid:
    """Return the numbers of env runners and envs to try, powers of two for "auto", with runners up to the CPUs of the cluster.

    Raises:
        ValueError: the cluster can never run them.
    """
    if isinstance(runners, str):
        (rest, each), cpus = cpus_of(config), sum(node.get("CPU", 0.0) for node in _nodes())
        most = int((cpus - rest) / max(1.0, each))
        runners = powers_of_two(next((r for r in range(most, 0, -1) if not _refusal(config, r)), 1))
    for number in sorted({1, *runners}):
        if why := _refusal(config, number):
            raise ValueError(
                f"The cluster can never run {number} env runners: {why}. Try fewer, request fewer CPUs per env runner "
                "(num_cpus_per_env_runner), or start Ray with more CPUs than there are cores (--num-cpus)."
            )
    return Grid(tuple(runners), tuple(powers_of_two(_MAX_ENVS) if isinstance(envs, str) else envs))


def _refusal(config: AlgorithmConfig, runners: int) -> str:
    """Return why a trial can never be scheduled; "" if it can. Ray would wait forever."""
    bundles, nodes = _bundles(config, runners), _nodes()
    for name in {name for bundle in bundles for name in bundle}:
        needed, had = (sum(each.get(name, 0.0) for each in resources) for resources in (bundles, nodes))
        if needed > had:
            return f"they need {needed:g} {name}, but the cluster has {had:g}"
    for bundle in bundles:
        if not any(all(node.get(name, 0.0) >= amount for name, amount in bundle.items()) for node in nodes):
            return f"one of the processes needs {dict(bundle)}, more than any node has"
    return ""


def _nodes() -> list[Mapping[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _bundles(config: AlgorithmConfig, runners: int) -> list[Mapping[str, float]]:
    """Return the resources of each process of a trial."""
    return list(cast(Any, config.algo_class).default_resource_request(at_scale(config, Scale(runners, 1))).bundles)


def _counts(name: str, counts: Counts) -> Counts:
    """Return numbers of runners or envs in ascending order, or "auto".

    Raises:
        ValueError: the value is neither.
    """
    if isinstance(counts, str) and counts == "auto":
        return counts
    if isinstance(counts, str) or not isinstance(counts, Iterable) or not (numbers := [*counts]):
        raise ValueError(f"{name} is {counts!r}; allowed are several numbers, such as [1, 2, 4], and 'auto'")
    for each in numbers:
        at_least(name, each, 1)
    return sorted({*numbers})
