"""A sweep by trials, for configs that can't be probed: measures the promising configurations of a grid."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ray import tune
from ray.util.placement_group import remove_placement_group

from rl_scaling_callback.analysis.goals import Goal
from rl_scaling_callback.analysis.interference import NOTABLE_CORES
from rl_scaling_callback.analysis.runs import Experiment, LeftOut, Run, Study
from rl_scaling_callback.core.checks import at_least, positive
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import DEFAULT_RULE, SteadyRule
from rl_scaling_callback.core.workload import Workload
from rl_scaling_callback.experiments import ExperimentError, read_experiment
from rl_scaling_callback.reporter import ScalingReporter
from rl_scaling_callback.rllib.hardware import Host
from rl_scaling_callback.storage import absolute, below
from rl_scaling_callback.sweeping import placement
from rl_scaling_callback.sweeping.cluster import asks_for_nothing, reserve
from rl_scaling_callback.sweeping.instrument import instrumented, own_options
from rl_scaling_callback.sweeping.reuse import lasting_runs, runs_of, runs_of_experiment, sought_workload
from rl_scaling_callback.sweeping.search import Search, TrialOutcome
from rl_scaling_callback.sweeping.searcher import ScalingSearcher
from rl_scaling_callback.sweeping.stopper import SteadyStopper

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

    from rl_scaling_callback.report import Report

logger = logging.getLogger("rl_scaling_callback")

NAME: Final = "scaling_sweep"
STORAGE: Final = "~/ray_results"
_LONGEST_WAIT_S: Final = 600.0
_TUNES_OUTPUT: Final = "RAY_AIR_NEW_OUTPUT"


def sweep_by_trials(
    config: AlgorithmConfig,
    goal: Goal,
    *,
    runners: Sequence[int],
    envs: Sequence[int],
    budget_minutes: float | None = None,
    max_trials: int | None = None,
    storage_path: str | Path = STORAGE,
    name: str = NAME,
    resume: bool = False,
    reuse: Sequence[str | Path] = (),
    rule: SteadyRule = DEFAULT_RULE,
    longest_wait_s: float = _LONGEST_WAIT_S,
    say: Callable[[str], None] = print,
    show: Callable[[Report], None] | None = None,
) -> Report:
    """Measure configurations of a grid until the best one for a goal is known, and return a report on the measurements.

    Trials run one at a time, the baseline first, each until its throughput is known. On a cluster with several equal nodes, each of
    which can run every configuration, one trial at a time runs on each of them. Trials that crash or hang are listed and not
    retried; trials disturbed by other programs are repeated.

    Args:
        config: the config to tune; its numbers of env runners and envs are replaced by those of the grid.
        goal: the goal.
        runners: numbers of env runners.
        envs: numbers of envs per env runner.
        budget_minutes: start no trial after this time; None for no limit.
        max_trials: maximum number of trials; None for no limit.
        storage_path: directory or URI for Tune's results.
        name: name of the experiment in `storage_path`.
        resume: continue the experiment of this name.
        reuse: directories or URIs of earlier experiments and lasting baselines. Their measurements of this workload are reused, and
            so are the lasting baselines of the config's own `ScalingCallback` if it has a `baseline_dir`.
        rule: when a trial counts as measured.
        longest_wait_s: a trial that reports nothing for this long counts as hung [s].
        say: called with progress messages.
        show: called with a report after each trial and at the end; by default, the table is printed.

    Raises:
        ValueError: an option is invalid, the cluster or Tune can never run the grid, the experiment exists without `resume`, or the
            experiment to resume or reuse has another workload.
        ExperimentError: an experiment to reuse can't be read.
        KeyboardInterrupt: interrupted; the experiment's folder has the report so far.
        TimeoutError: the cluster's resources are in use by others.
    """
    from rl_scaling_callback.report import make_report, print_report

    positive("longest_wait_s", longest_wait_s)
    if budget_minutes is not None:
        positive("budget_minutes", budget_minutes)
    if max_trials is not None:
        at_least("max_trials", max_trials, 1)
    storage = absolute(storage_path)
    folder = below(storage, name)
    _check_name(folder, resume)
    cpus = placement.cpus_of(config)
    placed = placement.find_placement(config, Search(tuple(runners), tuple(envs), goal, cpus=cpus).scales)
    before = _measured_before(folder, sought_workload(config, placed.host).logged, rule) if resume else []
    reused = _reused(config, placed.host, reuse, rule, {run.name for run in before})
    # The start-up time of earlier trials is not recorded. Reused measurements cost this sweep nothing.
    known = [TrialOutcome(run.scale, sum(sample.seconds for sample in run.samples), run.steady, run.others) for run in before]
    known += [TrialOutcome(run.scale, 0.0, run.steady, run.others) for run in reused]
    searcher = ScalingSearcher(
        runners,
        envs,
        goal,
        cores=placed.cores,
        trials=known,
        budget_s=None if budget_minutes is None else 60 * budget_minutes,
        max_trials=max_trials,
        rule=rule,
        slots=placed.slots,
        cpus=cpus,
    )
    if len(placed.slots) > 1:
        say(f"One trial at a time on each of {len(placed.slots)} equal nodes: {placed.host.cpu}, {placed.cores:g} cores")
    if known:
        say(f"{len(known)} trial{'s' * (len(known) > 1)} measured before: {', '.join(str(trial.scale) for trial in known)}")

    def make(experiment: Experiment) -> Report:
        failed = [trial.scale for trial in searcher.trials if trial.failed]
        return make_report(_completed(experiment, reused, failed), goal, choose=searcher.choose)

    algorithm: Any = config.algo_class
    # Tune would wait forever without a message.
    largest = max(searcher.search.scales, key=lambda scale: scale.num_env_runners)
    request = algorithm.default_resource_request(placement.at_scale(config, largest))
    if asks_for_nothing(request):
        raise ValueError("a process of a trial requests no resources, so Tune can't start it: give it 0.1 CPUs, for example")
    if group := reserve(request, say):
        remove_placement_group(group)
    env = config.env if isinstance(config.env, str) else getattr(config.env, "__name__", "env")
    name_of = functools.partial(_name_of, env)
    tuner = tune.Tuner(
        algorithm,
        param_space=instrumented(config, rule, longest_wait_s),  # type: ignore[arg-type]  # a config is allowed
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            num_samples=-1,
            # The searcher limits concurrency itself; this also limits how many trials Tune starts up at once.
            max_concurrent_trials=len(placed.slots),
            trial_name_creator=name_of,
            trial_dirname_creator=name_of,
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=storage,
            stop=SteadyStopper(rule),
            callbacks=[_Announcer(searcher, say), ScalingReporter(goal, show=show, make=make)],
            verbose=0,
        ),
    )
    with _silent_tune():
        tuner.fit()

    # Tune shuts down cleanly on an interrupt but doesn't report it to the caller.
    if searcher.measuring:
        say(f"Interrupted while measuring {', '.join(map(str, searcher.measuring))}. Continue with --resume (resume=True).")
        raise KeyboardInterrupt

    try:
        return make(read_experiment(folder, rule=rule))
    except ExperimentError:
        # No trial was run or all failed: there is nothing to read, and no report was shown yet.
        report = make(Experiment(folder, (Study(f"{algorithm.__name__} on {env}", ()),)))
        (show or print_report)(report)
        return report


def _reused(
    config: AlgorithmConfig, host: Host, sources: Sequence[str | Path], rule: SteadyRule, measured: Collection[str]
) -> list[Run]:
    """Return the distinct runs of earlier experiments and lasting baselines.

    Args:
        config: the config to train.
        host: the host to train on.
        sources: directories or URIs to read, in addition to the lasting baselines of the config's own callback.
        rule: when a run counts as steady.
        measured: names of runs to skip.

    Raises:
        ExperimentError: a source can't be read.
        ValueError: a source has no run of this workload.
    """
    sought = sought_workload(config, host)
    runs = runs_of(sought, sources, rule)
    own = own_options(config)
    if "baseline_dir" in own:
        named = Workload({"name": own["workload"]}, vouched=True) if own.get("workload") else sought.exact
        runs += lasting_runs(named, own["baseline_dir"])
    return [run for name, run in {run.name: run for run in runs}.items() if name not in measured]


def _check_name(folder: str, resume: bool) -> None:
    """Raise `ValueError` if the folder has an experiment and `resume` is False."""
    with suppress(ExperimentError):
        if not resume and read_experiment(folder):
            raise ValueError(f"{folder} already contains a sweep; continue it (resume=True, --resume) or choose another name")


def _measured_before(folder: str, workload: Workload, rule: SteadyRule) -> list[Run]:
    """Return the runs of an interrupted sweep; empty if there is no such experiment.

    Raises:
        ValueError: they have another workload or other hardware.
    """
    try:
        runs, others = runs_of_experiment(workload, folder, rule)
    except ExperimentError:
        return []
    if others:
        apart = min(others, key=len)
        raise ValueError(
            f"{folder} contains a sweep of another workload: {'; '.join(apart)}. Choose another name, or undo the differences"
        )
    return [run for run in runs if run.steady.settled]


def _completed(experiment: Experiment, reused: Sequence[Run], failed: Sequence[Scale]) -> Experiment:
    """Return the experiment with what is not in its folder: reused runs, and trials that hung before their first iteration."""
    left_out = (
        *experiment.left_out,
        *(LeftOut(str(scale), "it crashed, hung or lacked env runners while the sweep ran") for scale in failed),
    )
    studies = tuple(replace(study, runs=(*study.runs, *reused)) for study in experiment.studies[:1]) + experiment.studies[1:]
    return replace(experiment, studies=studies, left_out=left_out)


@contextmanager
def _silent_tune() -> Iterator[None]:
    """Silence Tune: its newer output prints the experiment's settings even with `verbose=0`."""
    before = os.environ.get(_TUNES_OUTPUT)
    os.environ[_TUNES_OUTPUT] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_TUNES_OUTPUT]
        else:
            os.environ[_TUNES_OUTPUT] = before


class _Announcer(tune.Callback):
    """Announces each trial, and failures."""

    def __init__(self, searcher: ScalingSearcher, say: Callable[[str], None]) -> None:
        self._searcher = searcher
        self._say = say

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Tune stores its callbacks, but Ray replaces `print`, which then can't be pickled."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Announce the trial."""
        scale = _scale_of(trial)
        again = " again" * any(each.scale == scale for each in self._searcher.trials)
        self._say(f"Trial {self._searcher.started}: measuring {scale}{again}{self._searcher.time_left()}")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Report a trial that completed without a usable measurement or was disturbed by other programs."""
        measured = self._searcher.trials[-1]
        if measured.failed:
            self._say(f"{_scale_of(trial)} failed and is skipped: some of its env runners did not work")
        elif measured.others > NOTABLE_CORES:
            self._say(f"{_scale_of(trial)}: other programs kept {measured.others:.1f} cores busy meanwhile")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Report that a trial failed; the sweep goes on."""
        self._say(f"{_scale_of(trial)} failed and is skipped: it crashed or hung, see Ray's logs")


def _name_of(env: str, trial: Any) -> str:
    """Return a trial's name in Tune's format, with the scale instead of all parameters."""
    return f"{trial.trainable_name}_{env}_{_scale_of(trial).slug}_{trial.trial_id}".replace("/", "_")


def _scale_of(trial: Any) -> Scale:
    return Scale(trial.config["num_env_runners"], trial.config["num_envs_per_env_runner"])
