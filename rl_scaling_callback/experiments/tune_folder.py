"""Reads folders of Tune, of any release of Ray and at any depth, into one study per workload."""

from __future__ import annotations

import json
import os.path
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from statistics import fmean
from typing import Any, Final

from rl_scaling_callback.analysis.runs import Experiment, LeftOut, Run, Study
from rl_scaling_callback.baseline.model import Baseline, BaselineFileError
from rl_scaling_callback.baseline.store import EXPERIMENT_SUBDIRECTORY
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import Steady, SteadyRule
from rl_scaling_callback.core.text import listed
from rl_scaling_callback.core.workload import Workload
from rl_scaling_callback.experiments.logs import READERS
from rl_scaling_callback.experiments.trial_folder import PARAMS, Presence, TrialRead, overlapping, read_trial
from rl_scaling_callback.rllib.configs import uses_gpus
from rl_scaling_callback.rllib.facts import HARDWARE_AND_VERSIONS
from rl_scaling_callback.rllib.values import number
from rl_scaling_callback.storage import ExperimentError, Location

_SHOWN: Final = (
    "algorithm", "env", "env_config", "train_batch_size", "minibatch_size", "num_epochs", "batch_mode", "framework_str",
    "enable_env_runner_and_connector_v2", "gym_env_vectorize_mode", "model_config", "model", "policies", "num_learners",
    "num_gpus_per_learner", "num_gpus", "GPUs", "trial", "observation_filter", "training_intensity", "callbacks",
    *HARDWARE_AND_VERSIONS,
)  # fmt: skip
"""The facts to show, out of about 150."""

_SOFTWARE: Final = ("torch", "python", "platform")
"""Provenance of a baseline file that is added to a study's facts."""

_MAX_DIFFERENCES: Final = 3
_MAX_TEXT: Final = 120
_MAX_TEXT_IN_TITLE: Final = 50

_GPUS: Final = ("num_gpus", "num_gpus_per_learner", "num_gpus_per_env_runner")
"""Requests for GPUs."""

_OF_TUNE: Final = re.compile(r"_[0-9a-f]{5}_\d{5}|_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d")
"""The id or time in a name that Tune made for a trial."""

_REPETITION: Final = re.compile(r"(?<![a-z])(run|rep|repetition|seed|trial)[-_ ]?\d+|[-_ ]\d+$", re.IGNORECASE)
"""The number of a repetition in a name that somebody gave to a trial."""

_Group = tuple[dict[str, Any], list[TrialRead]]
"""The facts of a workload and its trials."""


def read_folder(
    folder: Location,
    *,
    reference: Scale,
    rule: SteadyRule,
    pool: Collection[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Experiment:
    """Return the experiment in a folder that Tune wrote: a trial, an experiment, or experiments at any depth.

    For the arguments see `read_experiment`. In `pool`, `"trial"` stands for the names that somebody gave to trials.

    Raises:
        ExperimentError: if it contains no trial.
        OSError: if the storage can't be reached.
    """
    if folder.name in READERS and not folder.is_folder:
        files = folder.parent.names()[1]
        places = [(folder.parent, [name for name in files if name == folder.name or name not in READERS])]
    else:
        places = list(_places(folder, set()))
    trials = [(place, files) for place, files in places if place.name != EXPERIMENT_SUBDIRECTORY]
    if not trials:
        raise ExperimentError(_nothing(folder))
    files_of_baselines = [store.below(file) for store, files in places if store.name == EXPERIMENT_SUBDIRECTORY for file in files]
    baselines, left_out = _read_baselines(files_of_baselines, reference)
    states: dict[str, Mapping[str, Mapping[str, Any]]] = {}
    read: list[tuple[TrialRead | LeftOut, Presence]] = []
    for done, (trial, files) in enumerate(trials, 1):
        name = trial.path.removeprefix(folder.path).strip("/") or trial.name
        read.append(read_trial(trial, files, rule, name, partial(_stored_config, trial, states)))
        if progress is not None:
            progress(done, len(trials))
    whole, copies = _without_copies(read)
    left_out += [each for each in whole if isinstance(each, LeftOut)] + copies
    known = [each for each in whole if isinstance(each, TrialRead)]
    if unknown := {*pool} - {"trial", "GPUs"} - {name for each in known for name in each.facts}:
        raise ExperimentError(f"{folder.text}: pool is {min(unknown)}, which is no setting of a trial here")
    groups = sorted(_by_workload(_separated(known, pool), baselines), key=_size, reverse=True)
    titles, apart = _titles([facts for facts, _ in groups])
    studies = [_study(title, *group, baselines, reference) for title, group in zip(titles, groups, strict=True)]
    differ = listed((f"{name} (a folder's name)" if name == "trial" else name for name in apart), "or")
    told = [f"Trials that differ in {differ} are separate studies; --pool NAME merges them on purpose."] if apart else []
    return Experiment(folder.text, tuple(studies), tuple(left_out), tuple(told))


def _size(group: _Group) -> tuple[int, int]:
    """Return the number of scales and trials of a workload."""
    _, trials = group
    return len({trial.run.scale for trial in trials}), len(trials)


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
    folders, files = folder.names()
    tables = [name for name in files if name.endswith((".csv", ".tsv", ".jsonl"))]
    if tables:
        return f"{folder.text} contains no trial, but tables; pass one of them, such as {folder.below(tables[0]).text}"
    return (
        f"{folder.text} is not the folder of an experiment: {'it contains no trial' if folders or files else 'it is empty'} "
        f"(a folder with a {' or '.join(READERS)}). Tune writes one for each trial once it starts; pass storage_path/name of its "
        "RunConfig, or a folder that contains it."
    )


def _read_baselines(files: Iterable[Location], reference: Scale) -> tuple[dict[str, Baseline], list[LeftOut]]:
    """Return baselines by the id of their workload, those of the reference if there are several, and the unusable files."""
    found: dict[str, Baseline] = {}
    left_out: list[LeftOut] = []
    for file in files:
        if file.name.startswith("baseline-") and file.name.endswith(".json"):
            try:
                baseline = Baseline.from_json(file.read())
                if baseline.scale == reference or baseline.workload.id not in found:
                    found[baseline.workload.id] = baseline
            except (BaselineFileError, ExperimentError) as error:
                left_out.append(LeftOut(file.name, f"this baseline file is unusable: {error}"))
    return found, left_out


def _stored_config(trial: Location, states: dict[str, Mapping[str, Mapping[str, Any]]]) -> Mapping[str, Any]:
    """Return the config of a trial from Tune's state of its experiment, which is read once, and no pickle."""
    experiment = trial.parent
    if experiment.path not in states:
        files = [name for name in experiment.names()[1] if name.startswith("experiment_state") and name.endswith(".json")]
        states[experiment.path] = {place: config for name in files for place, config in _configs_in(experiment.below(name)).items()}
    return states[experiment.path].get(trial.name, {})


def _configs_in(state: Location) -> Mapping[str, Mapping[str, Any]]:
    """Return the configs of trials by the names of their folders."""
    with suppress(ExperimentError, ValueError, TypeError, AttributeError, RecursionError):  # foreign or damaged
        content = json.loads(state.read())
        trials = content.get("checkpoints") or [first for first, *_ in content.get("trial_data", ())]
        known = [json.loads(each) if isinstance(each, str) else each for each in trials]
        places = [str(each.get("relative_logdir") or each.get("logdir") or each.get("local_path")) for each in known]
        configs = [{**(each.get("evaluated_params") or {}), **(each.get("config") or {})} for each in known]
        return {place.rstrip("/").rpartition("/")[2]: config for place, config in zip(places, configs, strict=True)}
    return {}


# What tells trials apart


def _without_copies(read: Sequence[tuple[TrialRead | LeftOut, Presence]]) -> tuple[list[TrialRead | LeftOut], list[LeftOut]]:
    """Return the trials, each once and marked if it overlapped with another one, and the copies that are left out."""
    longest: dict[object, int] = {}
    for index, (_, ran) in enumerate(read):
        key = repr(ran.opening) if ran.opening else index
        other = longest.setdefault(key, index)
        if ran.spells > read[other][1].spells:
            longest[key] = index
    kept = sorted(longest.values())
    busy = {kept[index] for index in overlapping([read[index][1] for index in kept])}
    whole: list[TrialRead | LeftOut] = []
    copies: list[LeftOut] = []
    for index, (found, _) in enumerate(read):
        if index not in kept:
            copies.append(LeftOut(found.name if isinstance(found, LeftOut) else found.run.name, "a copy of another trial here"))
        elif index in busy and isinstance(found, TrialRead):
            whole.append(found._replace(run=replace(found.run, exclusive=0.0)))
        else:
            whole.append(found)
    return whole, copies


def _separated(read: Sequence[TrialRead], pool: Collection[str]) -> list[TrialRead]:
    """Return the trials with the facts that separate them: without pooled ones, and with the names that people gave them."""
    named = []
    for trials in _alike(read, (*pool, *_GPUS)):
        # Several env runners may share the same GPUs, a smaller part each the more there are.
        requests = {repr([trial.facts.get(name) for name in _GPUS]) for trial in trials}
        by_total = len({trial.gpus for trial in trials}) < len(requests)
        for trial in trials:
            dropped = {*pool, *_GPUS} if by_total else {*pool}
            facts = {name: value for name, value in trial.facts.items() if name not in dropped}
            if by_total and "GPUs" not in pool:
                facts["GPUs"] = f"{trial.gpus:g}"
            # The id that the callback recorded covers everything.
            named.append(trial._replace(facts=facts, workload="" if pool else trial.workload))
    separated: list[TrialRead] = []
    for trials in _alike(named):
        labels = {(trial.run.scale, _label(trial.run)) for trial in trials}
        tells = len(labels) > len({scale for scale, _ in labels}) and "trial" not in pool
        separated += [each._replace(facts={**each.facts, "trial": _label(each.run)}) if tells else each for each in trials]
    return separated


def _alike(trials: Iterable[TrialRead], without: Collection[str] = ()) -> Collection[list[TrialRead]]:
    """Return the trials in groups with equal facts, apart from some."""
    groups: dict[str, list[TrialRead]] = {}
    for trial in trials:
        facts = {name: value for name, value in trial.facts.items() if name not in without}
        groups.setdefault(Workload(facts).id, []).append(trial)
    return groups.values()


def _label(run: Run) -> str:
    """Return the name that somebody gave to a trial, without its scale and the number of a repetition; "" for a name of Tune's."""
    name = run.name.rpartition("/")[2]
    if _OF_TUNE.search(name):
        return ""
    scale = run.scale
    counts = {str(n) for n in (scale.num_env_runners, scale.num_envs_per_env_runner, scale.parallelism) if n > 1}
    return re.sub(r"\d+", lambda found: "#" if found[0] in counts else found[0], _REPETITION.sub("", name)).strip("-_ ")


def _by_workload(trials: Sequence[TrialRead], baselines: Mapping[str, Baseline]) -> Collection[_Group]:
    """Return the trials of each workload with its facts, including the hardware if a baseline file tells it."""
    ids: dict[str, set[str]] = {}
    for trial in trials:
        ids.setdefault(Workload(trial.facts).id, set()).update({trial.workload} - {""})
    groups: dict[tuple[str, str], _Group] = {}
    for trial in trials:
        config = Workload(trial.facts).id
        # A trial without the callback is assumed to have the workload of those with the same config, if they share one.
        workload = trial.workload or (next(iter(ids[config])) if len(ids[config]) == 1 else "")
        told = baselines[workload].workload.facts if workload in baselines else {}
        hardware = {name: told[name] for name in HARDWARE_AND_VERSIONS if name in told}
        trial = trial._replace(workload=workload, run=replace(trial.run, cores=number(hardware.get("cores"))))
        key = (workload or config, trial.facts.get("trial", ""))
        groups.setdefault(key, ({**trial.facts, **hardware}, []))[1].append(trial)
    return groups.values()


# Studies


def _study(
    title: str, facts: Mapping[str, Any], trials: Sequence[TrialRead], baselines: Mapping[str, Baseline], reference: Scale
) -> Study:
    runs = tuple(sorted((trial.run for trial in trials), key=lambda run: run.name))
    published = baselines.get(trials[0].workload)
    texts = {name: _text(facts[name]) for name in _SHOWN if facts.get(name) not in (None, "", [], {})}
    if published is not None:
        texts.update({name: published.provenance[name] for name in _SOFTWARE if name in published.provenance})
    if hosts := sorted({trial.host for trial in trials} - {""}):
        texts["host"] = ", ".join(hosts)
    gpus = tuple(facts.get("accelerators") or ("",)) if uses_gpus(facts) else ()
    return Study(
        title=title,
        runs=runs,
        baseline=None if any(run.scale == reference for run in runs) else _given(trials, published, reference),
        facts=texts,
        phases_overlap=any(trial.phases_overlap for trial in trials),
        steps_in_turn=all(trial.steps_in_turn for trial in trials),
        timed_iterations=any(trial.timed_iterations for trial in trials),
        gpus=gpus if "num_gpus" in facts else None,
    )


def _given(trials: Sequence[TrialRead], published: Baseline | None, reference: Scale) -> Run | None:
    """Return the baseline recorded for a workload: from its file, or the one that its trials compared with."""
    if published is not None and published.scale == reference:
        time = published.provenance.get("time", "")
        source = "from the experiment's baseline file" + (f", measured {time}" if time else "")
        alone = 0.0 if published.steady.disturbed else NAN
        name = published.provenance.get("trial", "")
        return Run(name=name, scale=reference, steady=published.steady, notes=(source,), exclusive=alone)
    recorded = [trial.unit_sps for trial in trials if trial.unit_sps > 0]
    if not recorded:
        return None
    # The last trial used the latest stored baseline; a probed one belongs to its own trial. Only throughputs are known.
    probed = [trial.run.baseline_sps for trial in trials if trial.run.baseline_sps > 0]
    sps = (fmean(probed) if probed else recorded[-1]) * reference.parallelism
    of_probes = "the mean of those probed in the trials, each of which is compared with its own"
    return Run(name="", scale=reference, steady=Steady(sps), notes=(of_probes if probed else "as recorded by the trials",))


def _titles(groups: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """Return a title for each workload, with what tells it from others of the same algorithm and env, and the names of all that."""
    plain = [_title(facts) for facts in groups]
    titles, everything = list(plain), dict[str, None]()
    for title in dict.fromkeys(plain):
        same = {index: _flat(groups[index]) for index, its in enumerate(plain) if its == title}
        apart = _telling([*same.values()])
        everything.update(dict.fromkeys(name.partition(".")[0] for name in apart))
        for index, facts in same.items():
            known = [name for name in apart if facts.get(name) not in (None, "")]
            differs = ", ".join(f"{name}: {_text(facts[name], _MAX_TEXT_IN_TITLE)}" for name in known)
            titles[index] = f"{title} ({differs})" if differs else title
    return titles, [*everything]


def _telling(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of the fewest facts that tell groups apart, as far as a few do, those with short texts first."""
    names = sorted({name for facts in groups for name in facts})
    texts = {name: [_text(facts.get(name)) for facts in groups] for name in names}
    names.sort(key=lambda name: max(map(len, texts[name])))
    chosen: list[str] = []

    def told(*more: str) -> int:
        return len({*zip(*(texts[name] for name in (*chosen, *more)), strict=True)}) or 1

    while len(chosen) < _MAX_DIFFERENCES and told(best := max(names, key=told)) > told():
        chosen.append(best)
    return chosen


def _flat(facts: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return facts with those of inner mappings as `outer.inner`."""
    flat: dict[str, Any] = {}
    for name, value in facts.items():
        flat |= _flat(value, f"{above}{name}.") if isinstance(value, Mapping) else {f"{above}{name}": value}
    return flat


def _title(facts: Mapping[str, Any]) -> str:
    env = str(facts.get("env") or "").rpartition(".")[2]  # a class without its module
    return " on ".join(filter(None, (facts["algorithm"], env))) or "unknown workload"


def _text(value: object, longest: int = _MAX_TEXT) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
