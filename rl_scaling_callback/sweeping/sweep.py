"""`sweep`: finds the best numbers of env runners and envs for a config, before it is trained."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rl_scaling_callback import rllib
from rl_scaling_callback.analysis.goals import Goal
from rl_scaling_callback.core.checks import at_least, positive
from rl_scaling_callback.report import PAGE
from rl_scaling_callback.rllib import hardware
from rl_scaling_callback.rllib.prober import ProbeError
from rl_scaling_callback.storage import absolute, below, shown, write
from rl_scaling_callback.sweeping import ENGINES, Engine, placement
from rl_scaling_callback.sweeping.cluster import connect
from rl_scaling_callback.sweeping.probes import Counts, powers_of_two, race_for, sweep_by_probes
from rl_scaling_callback.sweeping.trials import NAME, STORAGE, sweep_by_trials

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

    from rl_scaling_callback.report import Report
    from rl_scaling_callback.report.progress import ProgressView

_ENVS_OF_TRIALS: Final = (1, 2, 4, 8)


def sweep(
    config: AlgorithmConfig,
    goal: str | Goal = "balanced",
    *,
    runners: Counts = "auto",
    envs: Counts = "auto",
    engine: Engine = "auto",
    confirm: bool = True,
    budget_minutes: float | None = None,
    keep_envs: bool = True,
    storage_path: str | Path = STORAGE,
    name: str = NAME,
    say: Callable[[str], None] = print,
    show: Callable[[Report], None] | None = None,
    progress: Callable[[ProgressView], None] = lambda _: None,
    **trials: Any,
) -> Report:
    """Find the best configuration of a config for a goal, and return the report of what was measured.

    Configurations are probed inside one Algorithm, which takes seconds each. Where that can't be, each is measured in a trial of
    its own: on the old API stack, for asynchronous algorithms (APPO, IMPALA), and for envs that a process can hold only one of.
    The cluster is the one that Ray is connected to, or that runs here, or one that is started here.

    Args:
        config: what to train.
        goal: what the configuration is for: a name of `GOALS` or a `Goal`. Figures are without evaluation; where there is one, a
            note says what it leaves of the speedup. They hold for the policy of the first iterations, where a step's cost depends
            on it.
        runners: numbers of env runners; `"auto"` for powers of two up to the cores of the cluster.
        envs: numbers of envs per env runner; `"auto"` doubles them while that pays.
        engine: `"probes"`, `"trials"`, or `"auto"` for trials only where probes can't be.
        confirm: whether to train a few iterations with what the probes found.
        budget_minutes: time after which nothing new is measured, the confirmation included; the start of Ray and of the Algorithm
            is not counted. By default half a minute for probes and as much for the confirmation, no limit for trials.
        keep_envs: keep the envs of all configurations for the next round: an env runner then holds 1 + the sum of the different
            numbers of envs. False keeps the env runner's own and those of one configuration at a time, and makes them anew for
            each probe, which takes longer: for simulators with few licences or much memory.
        storage_path: where results are kept: a directory or URI.
        name: name of the experiment there. A sweep by probes replaces the page of an earlier one of this name; trials refuse it.
        say: told what is measured.
        show: called with the report; by default it is printed.
        progress: told how a sweep by probes stands after each round.
        **trials: further options of a sweep by trials: `max_trials`, `resume`, `reuse`, `rule` and `longest_wait_s`, as
            `sweep_by_trials` explains them. `resume` and `reuse` make it one.

    Returns:
        The report; its `config` is `config` with the numbers that it recommends, None where it recommends none. Where a sweep by
        probes was interrupted, `interrupted` says so.

    Raises:
        TypeError: an option that there is not.
        ValueError: a value that is not allowed, or a grid that the cluster can never run.
        ProbeError: with `engine="probes"`, the config can't be probed.
        TimeoutError: others hold what the cluster has.
        KeyboardInterrupt: it was interrupted before anything was known, or while trials ran.
    """
    from rl_scaling_callback.report import make_report, print_report, render_page

    goal = goal if isinstance(goal, Goal) else Goal.of(goal)
    if engine not in ENGINES:
        raise ValueError(f"engine is {engine!r}; allowed are {', '.join(ENGINES)}")
    if budget_minutes is not None:
        positive("budget_minutes", budget_minutes)
    runners, envs = _counts("runners", runners), _counts("envs", envs)
    if unknown := trials.keys() - inspect.signature(sweep_by_trials).parameters.keys():
        raise TypeError(f"sweep() got an unexpected keyword argument {min(unknown)!r}")
    with suppress(ValueError):  # a cluster that runs has the CPUs that it has
        connect(placement.cpus_for(config, hardware.usable_cores()))
    connect()
    if engine != "trials" and not (trials.get("resume") or trials.get("reuse")):
        try:
            _check_probing(config)
            budget_s = None if budget_minutes is None else 60 * budget_minutes
            options: dict[str, Any] = {"runners": runners, "envs": envs, "confirm": confirm, "budget_s": budget_s}
            experiment, rounds = sweep_by_probes(config, goal, keep_envs=keep_envs, say=say, progress=progress, **options)
        except ProbeError as error:
            if engine == "probes":
                raise
            say(f"Probing is not possible: {str(error).rstrip('.')}. Each configuration gets a trial of its own.")
        else:
            report = make_report(experiment, goal, choose=lambda each: rounds.judge(race_for(config, each)).choice)
            report = replace(_tuned(report, config), interrupted=rounds.interrupted)
            folder = below(absolute(storage_path), name)
            try:
                write(folder, PAGE, render_page(report))
                say(f"All there is to say of it: {shown(below(folder, PAGE))}")
            except (OSError, ValueError) as error:
                say(f"The page can't be written: {error}")
            (show or print_report)(report)
            return report
    if isinstance(runners, str):
        runners = powers_of_two(placement.most_runners(config, placement.alive_nodes(), hardware.usable_cores()))
    counts: dict[str, Any] = {"runners": runners, "envs": _ENVS_OF_TRIALS if isinstance(envs, str) else envs}
    options = {"budget_minutes": budget_minutes, "storage_path": storage_path, "name": name, "say": say, "show": show}
    return _tuned(sweep_by_trials(config, goal, **counts, **options, **trials), config)


def _tuned(report: Report, config: AlgorithmConfig) -> Report:
    choice = report.studies[0].recommendation.choice if report.studies else None
    return report if choice is None else replace(report, config=placement.at_scale(config, choice.scale))


def _counts(name: str, counts: Counts) -> Counts:
    """Return numbers of runners or envs as Python's own, or "auto".

    Raises:
        ValueError: they are neither.
    """
    if isinstance(counts, str):
        if counts != "auto":
            raise ValueError(f"{name} is {counts!r}; allowed are numbers and 'auto'")
        return counts
    if not isinstance(counts, Iterable):
        raise ValueError(f"{name} is {counts!r}; allowed are several numbers, such as [1, 2, 4], and 'auto'")
    numbers = [int(each) if hasattr(each, "__index__") else each for each in counts]
    if not numbers:
        raise ValueError(f"{name} is {counts!r}; allowed are numbers and 'auto'")
    for each in numbers:
        at_least(name, each, 1)
    return numbers


def _check_probing(config: AlgorithmConfig) -> None:
    """Refuse what can't be probed before anything is started.

    Raises:
        ProbeError: says why.
    """
    facts = vars(config)
    if not rllib.is_new_stack(facts):
        raise ProbeError("The config is of the old API stack.")
    if rllib.is_asynchronous(facts):
        raise ProbeError("Sampling and learning overlap in this algorithm, so probes don't tell how fast it trains.")
