"""Reads folders of Tune, of any release of Ray and at any depth, into one study per workload."""

from __future__ import annotations

import os.path
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any, Final

from rl_scaling_callback.analysis.runs import Experiment, LeftOut, Run, Study
from rl_scaling_callback.baseline.store import EXPERIMENT_SUBDIRECTORY, Baseline, BaselineFileError
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import Steady, SteadyRule
from rl_scaling_callback.core.text import listed
from rl_scaling_callback.core.trial import Workload
from rl_scaling_callback.experiments.studies import grouped, short, titles
from rl_scaling_callback.experiments.trial_folder import PARAMS, READERS, RecordedTrial
from rl_scaling_callback.rllib.configs import GPUS, HARDWARE_AND_VERSIONS, is_asynchronous, total_gpus, uses_gpus
from rl_scaling_callback.rllib.names import number
from rl_scaling_callback.storage import ExperimentError, Location

_SHOWN: Final = (
    "algorithm", "env", "env_config", "train_batch_size", "minibatch_size", "num_epochs", "batch_mode", "framework_str",
    "enable_env_runner_and_connector_v2", "gym_env_vectorize_mode", "model_config", "model", "policies", "num_learners",
    "num_gpus_per_learner", "num_gpus", "GPUs", "trial", "observation_filter", "training_intensity", "callbacks",
    *HARDWARE_AND_VERSIONS,
)  # fmt: skip
"""The facts to show, out of about 150."""

_MIN_OVERLAP_S: Final = 1.0
"""Overlaps up to this long [s] are ignored: results are logged with their time to the second."""

_OF_TUNE: Final = re.compile(r"_[0-9a-f]{5}_\d{5}|_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d")
"""The id or time in a name that Tune made for a trial."""

_REPETITION: Final = re.compile(r"(?<![a-z])(run|rep|repetition|seed|trial)[-_ ]?\d+|[-_ ]\d+$", re.IGNORECASE)
"""The number of a repetition in a name that somebody gave to a trial."""


def read_folder(
    folder: Location, reference: Scale, rule: SteadyRule, pool: Collection[str], progress: Callable[[int, int], None] | None
) -> Experiment:
    """Return the experiment in a folder that Tune wrote. For the arguments and errors see `read_experiment`."""
    if folder.name in READERS and not folder.is_folder:
        files = folder.parent.names()[1]
        places = [(folder.parent, [name for name in files if name == folder.name or name not in READERS])]
    else:
        places = list(_places(folder, set()))
    folders = [(place, files) for place, files in places if place.name != EXPERIMENT_SUBDIRECTORY]
    if not folders:
        raise ExperimentError(_nothing(folder))
    trials: list[RecordedTrial] = []
    for place, files in folders:
        name = place.path.removeprefix(folder.path).strip("/") or place.name
        trials.append(RecordedTrial.read(place, files, rule, name))
        if progress is not None:
            progress(len(trials), len(folders))
    _mark_copies_and_overlaps(trials)
    left_out = [LeftOut(trial.name, trial.reason) for trial in trials if trial.reason]
    trials = [trial for trial in trials if not trial.reason]
    _add_hardware(
        trials, [store.below(file) for store, files in places if store.name == EXPERIMENT_SUBDIRECTORY for file in files], left_out
    )
    unknown = {*pool} - {"trial", "GPUs"} - {name for trial in trials for name in trial.facts}
    if trials and unknown:
        raise ExperimentError(f"{folder.text}: pool is {min(unknown)}, which is no setting of a trial here")
    _separate(trials, pool)
    # A workload that the user named unites trials with different facts.
    groups = [*grouped(trials, lambda trial: (trial.workload or Workload(trial.facts).id, trial.facts.get("trial"))).values()]
    groups.sort(key=lambda group: (-len({trial.run.scale for trial in group}), -len(group)))
    titled, apart = titles([_title(group[0].facts) for group in groups], [group[0].facts for group in groups])
    studies = [_study(title, group, reference) for title, group in zip(titled, groups, strict=True)]
    differ = listed((f"{name} (a folder's name)" if name == "trial" else name for name in apart), "or")
    notes = [f"Trials that differ in {differ} are separate studies; --pool NAME merges them on purpose."] if apart else []
    return Experiment(folder.text, tuple(studies), tuple(left_out), tuple(notes))


# Files


def _places(folder: Location, seen: set[str]) -> Iterator[tuple[Location, list[str]]]:
    """Yield the folders of trials and of baselines, at any depth and each once, with the names of the files in them."""
    real = os.path.realpath(folder.path)
    if real in seen:  # by a link
        return
    seen.add(real)
    folders, files = folder.names()
    if not {*READERS, PARAMS}.isdisjoint(files) or folder.name == EXPERIMENT_SUBDIRECTORY:
        yield folder, files
        return
    for name in folders:
        yield from _places(folder.below(name), seen)


def _nothing(folder: Location) -> str:
    tables = [name for name in folder.names()[1] if name.endswith((".csv", ".tsv", ".jsonl"))]
    but = f", but tables; pass one of them, such as {folder.below(tables[0]).text}" if tables else ""
    return (
        f"{folder.text} is not the folder of an experiment: it contains no trial{but}. Tune writes a folder with a "
        f"{' or '.join(READERS)} for each trial once it starts; pass storage_path/name of its RunConfig, or a folder above it."
    )


def _add_hardware(trials: Sequence[RecordedTrial], stored: Iterable[Location], left_out: list[LeftOut]) -> None:
    """Add to the facts of trials the hardware and versions that the baseline files of their workloads tell."""
    hardware: dict[str, dict[str, Any]] = {}
    for file in stored:
        if file.name.startswith("baseline-") and file.name.endswith(".json"):
            try:
                workload = Baseline.from_json(file.read()).workload
                hardware[workload.id] = {name: workload.facts[name] for name in HARDWARE_AND_VERSIONS if name in workload.facts}
            except (BaselineFileError, ExperimentError) as error:
                left_out.append(LeftOut(file.name, f"this baseline file is unusable: {error}"))
    for alike in _alike(trials):
        recorded = {trial.workload for trial in alike} - {""}
        for trial in alike:
            # A trial without the callback is assumed to have the workload of those with the same config, if they share one.
            trial.workload = trial.workload or (min(recorded) if len(recorded) == 1 else "")
            trial.facts |= hardware.get(trial.workload, {})
            trial.run = replace(trial.run, cores=number(trial.facts.get("cores")))


# What tells trials apart


def _mark_copies_and_overlaps(trials: Sequence[RecordedTrial]) -> None:
    """Leave out all copies of a trial but the longest, and mark trials that overlapped with another one."""
    longest_first = sorted(trials, key=lambda trial: trial.periods, reverse=True)
    same = [*grouped(longest_first, lambda trial: repr(trial.opening or id(trial))).values()]
    for copy in (copy for _, *copies in same for copy in copies):
        copy.reason = "a copy of another trial here"
    once = [trial for trial, *_ in same]
    for index in overlapping([(trial.host, trial.periods) for trial in once]):
        if not once[index].reason:
            once[index].run = replace(once[index].run, exclusive=0.0)


def overlapping(trials: Sequence[tuple[str, Sequence[tuple[float, float]]]]) -> set[int]:
    """Return the indices of the trials that ran at the same time as another one on their host.

    Args:
        trials: the host of each, "" if unknown, and when it ran: begin and end of each period without a break [s].
    """
    found: set[int] = set()
    latest: dict[str, tuple[float, int]] = {}
    periods = sorted((begin, end, host, index) for index, (host, ran) in enumerate(trials) if host for begin, end in ran)
    for begin, end, host, index in periods:
        last, other = latest.get(host, (begin, index))
        if other != index and min(last, end) - begin > _MIN_OVERLAP_S:
            found |= {index, other}
        if host not in latest or end > last:
            latest[host] = end, index
    return found


def _separate(trials: Sequence[RecordedTrial], pool: Collection[str]) -> None:
    """Change the facts of trials to those that separate them: without pooled ones, and with the names that people gave them."""
    for alike in _alike(trials, {*pool, *GPUS}):
        # Several env runners may share the same GPUs, a smaller part each the more there are.
        totals = [total_gpus({**trial.facts, "num_env_runners": trial.run.scale.num_env_runners}) for trial in alike]
        by_total = len({*totals}) < len({repr([trial.facts.get(name) for name in GPUS]) for trial in alike})
        for trial, total in zip(alike, totals, strict=True):
            trial.facts = _without(trial.facts, {*pool, *(GPUS if by_total else ())})
            if by_total and "GPUs" not in pool:
                trial.facts["GPUs"] = f"{total:g}"
            if pool:
                trial.workload = ""  # the id that the callback recorded covers everything
    for alike in _alike(trials) if "trial" not in pool else ():
        labels = {(trial.run.scale, _label(trial.run)) for trial in alike}
        if len(labels) > len({scale for scale, _ in labels}):
            for trial in alike:
                trial.facts["trial"] = _label(trial.run) or None


def _without(facts: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if name not in names}


def _alike(trials: Iterable[RecordedTrial], without: Collection[str] = ()) -> Collection[list[RecordedTrial]]:
    """Return the trials in groups with equal facts, apart from some."""
    return grouped(trials, lambda trial: Workload(_without(trial.facts, without)).id).values()


def _label(run: Run) -> str:
    """Return the name that somebody gave to a trial, without its scale and the number of a repetition; "" for a name of Tune's."""
    name = run.name.rpartition("/")[2]
    if _OF_TUNE.search(name):
        return ""
    scale = run.scale
    counts = {str(n) for n in (scale.num_env_runners, scale.num_envs_per_env_runner, scale.parallelism) if n > 1}
    return re.sub(r"\d+", lambda found: "#" if found[0] in counts else found[0], _REPETITION.sub("", name)).strip("-_ ")


# Studies


def _title(facts: Mapping[str, Any]) -> str:
    env = str(facts.get("env") or "").rpartition(".")[2]  # a class without its module
    return " on ".join(filter(None, (facts["algorithm"], env))) or "unknown workload"


def _study(title: str, trials: Sequence[RecordedTrial], reference: Scale) -> Study:
    facts, runs = trials[0].facts, tuple(sorted((trial.run for trial in trials), key=lambda run: run.name))
    texts = {name: short(facts[name]) for name in _SHOWN if facts.get(name) not in (None, "", [], {})}
    if hosts := sorted({trial.host for trial in trials} - {""}):
        texts["host"] = ", ".join(hosts)
    gpus = tuple(facts.get("accelerators") or ("",)) if uses_gpus(facts) else ()
    return Study(
        title=title,
        runs=runs,
        baseline=None if any(run.scale == reference for run in runs) else _recorded_baseline(trials, reference),
        facts=texts,
        phases_overlap=is_asynchronous(facts),
        steps_vary=any(trial.steps_vary for trial in trials),
        gpus=gpus if "num_gpus" in facts else None,
    )


def _recorded_baseline(trials: Sequence[RecordedTrial], reference: Scale) -> Run | None:
    """Return the baseline that trials compared with, of which only the throughput is known; None if there was none."""
    recorded = [trial.unit_sps for trial in trials if trial.unit_sps > 0]
    if not recorded:
        return None
    # The last trial used the latest stored baseline; a probed one belongs to its own trial.
    probed = [trial.run.baseline_sps for trial in trials if trial.run.baseline_sps > 0]
    sps = (fmean(probed) if probed else recorded[-1]) * reference.parallelism
    of_probes = "the mean of those probed in the trials, each of which is compared with its own"
    return Run(name="", scale=reference, steady=Steady(sps), notes=(of_probes if probed else "as recorded by the trials",))
