"""Reads the folder of a Tune experiment into one study per workload."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any, Final

from rl_scaling_callback.analysis.runs import Experiment, LeftOut, Run, Study
from rl_scaling_callback.baseline.model import Baseline
from rl_scaling_callback.baseline.store import EXPERIMENT_SUBDIRECTORY
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import Steady, SteadyRule
from rl_scaling_callback.core.workload import Workload
from rl_scaling_callback.experiments.baselines import last_name, matches, read_baselines
from rl_scaling_callback.experiments.trial_folder import PARAMS, RESULTS, TrialRead, read_trial
from rl_scaling_callback.rllib import CIRCUMSTANCES, number, uses_gpus
from rl_scaling_callback.storage import ExperimentError, Location

_SHOWN: Final = (
    "algorithm", "env", "env_config", "train_batch_size", "minibatch_size", "num_epochs", "batch_mode", "framework_str",
    "enable_env_runner_and_connector_v2", "gym_env_vectorize_mode", "model_config", "model", "policies", "num_learners",
    "num_gpus_per_learner", "num_gpus", "observation_filter", "training_intensity", "callbacks", *CIRCUMSTANCES,
)  # fmt: skip
"""The facts to show, out of about 150."""

_SOFTWARE: Final = ("torch", "python", "platform")
"""Provenance of a baseline file that is added to a study's facts."""

_MOST_DIFFERENCES: Final = 3

_LONGEST_TEXT: Final = 120

_Group = tuple[dict[str, Any], list[TrialRead]]
"""The facts of a workload and its trials."""


def read_folder(
    folder: Location, *, reference: Scale, rule: SteadyRule, progress: Callable[[int, int], None] | None = None
) -> Experiment:
    """Return the experiment in a folder that Tune wrote.

    Args:
        folder: the experiment's folder.
        reference: scale of the reference.
        rule: the rule for warm-up and steady state.
        progress: called after each trial with the number of trials read and the total.

    Raises:
        ExperimentError: if it contains no trial.
        OSError: if the storage can't be reached.
    """
    trials = _trial_folders(folder)
    baselines, left_out = read_baselines(folder.below(EXPERIMENT_SUBDIRECTORY))
    read: list[TrialRead] = []
    for done, (trial, files) in enumerate(trials, 1):
        found = read_trial(trial, files, rule)
        if isinstance(found, LeftOut):
            left_out.append(found)
        else:
            read.append(found)
        if progress is not None:
            progress(done, len(trials))
    groups = sorted(_by_workload(read, baselines), key=lambda group: -len(group[1]))
    titles = _titles([facts for facts, _ in groups])
    studies = [_study(title, facts, trials, baselines, reference) for title, (facts, trials) in zip(titles, groups, strict=True)]
    return Experiment(folder.text, tuple(studies), tuple(left_out))


def _trial_folders(folder: Location) -> list[tuple[Location, list[str]]]:
    """Return the folders of the trials with the names of the files in each."""
    folders, files = folder.names()
    all_folders = [(below, below.names()[1]) for below in map(folder.below, folders)]
    trials = [(below, names) for below, names in all_folders if RESULTS in names or PARAMS in names]
    if trials:
        return trials
    if RESULTS in files:
        raise ExperimentError(f"{folder.text} is the folder of one trial; pass the folder of the experiment, which contains it")
    for below, names in all_folders:
        if any(name.startswith("experiment_state-") for name in names):
            raise ExperimentError(f"{folder.text} contains experiments, not trials; pass one of them, such as {below.text}")
    what = "it contains no trial" if folders or files else "it is empty"
    raise ExperimentError(
        f"{folder.text} is not the folder of an experiment: {what} (a folder with a {RESULTS}). "
        "Tune writes one for each trial once it starts; pass storage_path/name of its RunConfig."
    )


def _by_workload(read: Iterable[TrialRead], baselines: Sequence[Baseline]) -> list[_Group]:
    """Return the trials of each workload with its facts, including the hardware if known."""
    hardware: dict[str, dict[str, Any]] = {}
    for baseline in baselines:
        known = {fact: baseline.workload.facts[fact] for fact in CIRCUMSTANCES if fact in baseline.workload.facts}
        # Keyed by workload id, and by host name for trials whose workload id is unknown.
        for name in (baseline.workload.id, baseline.provenance.get("host", "")):
            hardware.setdefault(name, {}).update(known)
    ids: dict[tuple[str, str], set[str]] = {}
    for trial in read:
        ids.setdefault((Workload(trial.facts).id, trial.host), set()).update({trial.workload} - {""})
    groups: dict[str, _Group] = {}
    unknown: list[TrialRead] = []
    for trial in read:
        config = Workload(trial.facts).id
        same = ids[config, trial.host]
        # A trial without the callback has the workload of the others on its host if they share one.
        workload = trial.workload or (next(iter(same)) if len(same) == 1 else "")
        known = hardware.get(workload) or hardware.get(trial.host, {})
        trial = replace(trial, run=replace(trial.run, cores=number(known.get("cores"))))
        if workload or known:
            key = workload or f"{config} {Workload(known).id}"
            groups.setdefault(key, ({**trial.facts, **known}, []))[1].append(trial)
        else:
            unknown.append(trial)
    # Trials on unknown hosts are assumed to run on the known hardware if there is only one kind.
    for trial in unknown:
        alike = [trials for _, trials in groups.values() if any(other.facts == trial.facts for other in trials)]
        if len(alike) == 1:
            alike[0].append(trial)
        else:
            groups.setdefault(f"{Workload(trial.facts).id} unknown", (dict(trial.facts), []))[1].append(trial)
    return list(groups.values())


def _study(
    title: str, facts: Mapping[str, Any], trials: Sequence[TrialRead], baselines: Sequence[Baseline], reference: Scale
) -> Study:
    runs = tuple(sorted((trial.run for trial in trials), key=lambda run: run.name))
    hosts = sorted({trial.host for trial in trials} - {""})
    texts = {name: _text(facts[name]) for name in _SHOWN if facts.get(name) not in (None, "", [], {})}
    for baseline in baselines:
        if baseline.provenance.get("host") in hosts:
            texts.update({name: baseline.provenance[name] for name in _SOFTWARE if name in baseline.provenance})
    if hosts:
        texts["host"] = ", ".join(hosts)
    return Study(
        title=title,
        runs=runs,
        baseline=None if any(run.scale == reference for run in runs) else _given(facts, trials, baselines, reference),
        facts=texts,
        exclusive_phases=all(trial.exclusive_phases for trial in trials),
        waits_are_known=all(trial.waits_are_known for trial in trials),
        steps_in_turn=all(trial.steps_in_turn for trial in trials),
        timed_iterations=any(trial.timed_iterations for trial in trials),
        workload=Workload(facts),
        gpus=_gpus(facts),
    )


def _gpus(facts: Mapping[str, Any]) -> tuple[str, ...] | None:
    if "num_gpus" not in facts:
        return None
    return tuple(facts.get("accelerators") or ("",)) if uses_gpus(facts) else ()


def _given(facts: Mapping[str, Any], trials: Sequence[TrialRead], baselines: Sequence[Baseline], reference: Scale) -> Run | None:
    """Return the baseline recorded for a workload: from its file, or the one that its trials compared with."""
    ids = {trial.workload for trial in trials} - {""}
    for baseline in baselines:
        is_theirs = baseline.workload.id in ids if ids else matches(facts, baseline.workload.facts)
        if baseline.scale == reference and is_theirs:
            time = baseline.provenance.get("time", "")
            source = "from the experiment's baseline file" + (f", measured {time}" if time else "")
            name = baseline.provenance.get("trial", "")
            return Run(name=name, scale=reference, steady=baseline.steady, notes=(source,))
    recorded = [trial.unit_sps for trial in trials if trial.unit_sps > 0]
    if not recorded:
        return None
    # The last trial used the most refined stored baseline; a probed one belongs to its own trial. Only throughputs are known.
    probed = [trial.run.baseline_sps for trial in trials if trial.run.baseline_sps > 0]
    sps = (fmean(probed) if probed else recorded[-1]) * reference.parallelism
    steady = Steady(sps=sps, error=NAN, iterations=0, env_steps=NAN, seconds=NAN, converged=False, settled=False)
    of_probes = "the mean of those probed in the trials, each of which is compared with its own"
    return Run(name="", scale=reference, steady=steady, notes=(of_probes if probed else "as recorded by the trials",))


def _titles(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a title for each workload, with what distinguishes it from others of the same algorithm and env."""
    plain = [_title(facts) for facts in groups]
    titles = []
    for facts, title in zip(groups, plain, strict=True):
        same = [other for other, its in zip(groups, plain, strict=True) if its == title]
        names = sorted({name for other in same for name in other})
        apart = [name for name in names if any(other.get(name) != facts.get(name) for other in same)]
        difference = ", ".join(f"{name}: {_text(facts.get(name))}" for name in apart[:_MOST_DIFFERENCES])
        titles.append(f"{title} ({difference})" if difference else title)
    return titles


def _title(facts: Mapping[str, Any]) -> str:
    algorithm, env = facts["algorithm"] or "unknown algorithm", facts.get("env")
    return f"{algorithm} on {last_name(env)}" if env else str(algorithm)


def _text(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _LONGEST_TEXT else f"{text[: _LONGEST_TEXT - 1]}…"
