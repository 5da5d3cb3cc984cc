"""`sweep`: finds the best numbers of env runners and envs for a config before training."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

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
    """Find the best scale for a config and a goal, and return a report on the measurements.

    Configurations are probed inside one Algorithm, which takes seconds each. If that is not possible, each is measured in a trial
    of its own: on the old API stack, for asynchronous algorithms (APPO, IMPALA), and for envs that can exist only once per process.
    Uses the cluster that Ray is connected to or that runs on this machine, or else starts one.

    Args:
        config: the config to tune.
        goal: a name in `GOALS` or a `Goal`. All figures exclude evaluation; if the config evaluates, a note gives the speedup
            including it. If the cost of a step depends on the policy, figures apply to the policy of the first iterations.
        runners: numbers of env runners; `"auto"` for powers of two up to the cores of the cluster.
        envs: numbers of envs per env runner; `"auto"` doubles them as long as that pays off.
        engine: `"probes"`, `"trials"`, or `"auto"` for trials only if probing is not possible.
        confirm: whether to confirm the result by training a few iterations.
        budget_minutes: time limit for measuring and confirming; starting Ray and the Algorithm does not count. By default, 12 s
            for probes after the first round, 30 s on a disturbed machine, 12 s for confirming, and no limit for trials.
        keep_envs: keep the envs of all configurations between rounds; each env runner then has 1 + the sum of the different numbers
            of envs. False keeps only its own envs and those of one configuration at a time, and rebuilds them for each probe. This
            takes longer, but suits simulators with few licences or high memory use.
        storage_path: directory or URI for the results.
        name: name of the experiment in `storage_path`. Probes replace the page of an earlier sweep of this name; trials refuse to.
        say: called with progress messages.
        show: called with the report; by default, the report is printed.
        progress: called with the standings after each round of probes.
        **trials: more options for a sweep by trials: `max_trials`, `resume`, `reuse`, `rule` and `longest_wait_s`; see
            `sweep_by_trials`. `resume` and `reuse` imply trials.

    Returns:
        The report. Its `config` is `config` at the recommended scale, or None without a recommendation. `interrupted` is True if a
        sweep by probes was interrupted.

    Raises:
        TypeError: unknown option, or `config` is not an AlgorithmConfig.
        ValueError: an option is invalid, or the cluster can never run the grid.
        ProbeError: the config can't be probed, with `engine="probes"`.
        TimeoutError: the cluster's resources are in use by others.
        KeyboardInterrupt: interrupted before anything was measured, or during trials.
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
    continues = trials.get("resume") or trials.get("reuse")
    if engine == "probes" and continues:
        raise ValueError("engine is 'probes', but resume and reuse continue trials; allowed with them are auto and trials")
    if not isinstance(config, AlgorithmConfig):
        raise TypeError(f"config is {config!r}; allowed is an AlgorithmConfig, such as PPOConfig().environment(...)")
    connect(placement.cpus_for(config, hardware.usable_cores()))
    if engine != "trials" and not continues:
        try:
            _check_probing(config)
            budget_s = None if budget_minutes is None else 60 * budget_minutes
            options: dict[str, Any] = {"runners": runners, "envs": envs, "confirm": confirm, "budget_s": budget_s}
            experiment, rounds = sweep_by_probes(config, goal, keep_envs=keep_envs, say=say, progress=progress, **options)
        except ProbeError as error:
            if engine == "probes":
                raise
            say(f"Probing is not possible: {str(error).rstrip('.')}. Measuring each configuration in a trial instead.")
        else:
            report = make_report(experiment, goal, choose=lambda each: rounds.judge(race_for(config, each)).choice)
            report = replace(_tuned(report, config), interrupted=rounds.interrupted)
            folder = below(absolute(storage_path), name)
            try:
                write(folder, PAGE, render_page(report))
                say(f"Full report: {shown(below(folder, PAGE))}")
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
    """Return numbers of runners or envs as Python integers, or "auto".

    Raises:
        ValueError: the value is neither.
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
    """Check that a config can be probed, before anything is started.

    Raises:
        ProbeError: it can't; the message gives the reason.
    """
    facts = vars(config)
    if not rllib.is_new_stack(facts):
        raise ProbeError("The config uses the old API stack.")
    if rllib.is_asynchronous(facts):
        raise ProbeError("Sampling and learning overlap in this algorithm, so probes can't predict its training speed.")
