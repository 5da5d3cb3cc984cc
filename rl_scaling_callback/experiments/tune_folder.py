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

from rl_scaling_callback.analysis.interference import overlapping
from rl_scaling_callback.analysis.runs import Experiment, LeftOut, Run, Study
from rl_scaling_callback.baseline.model import Baseline
from rl_scaling_callback.baseline.store import EXPERIMENT_SUBDIRECTORY
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import Steady, SteadyRule
from rl_scaling_callback.core.workload import Workload
from rl_scaling_callback.experiments.baselines import last_name, matches, read_baselines
from rl_scaling_callback.experiments.recording import any_of
from rl_scaling_callback.experiments.trial_folder import LOGS, PARAMS, Presence, TrialRead, read_trial
from rl_scaling_callback.rllib.configs import uses_gpus
from rl_scaling_callback.rllib.values import number
from rl_scaling_callback.rllib.workload import CIRCUMSTANCES
from rl_scaling_callback.storage import ExperimentError, Location

_SHOWN: Final = (
    "algorithm", "env", "env_config", "train_batch_size", "minibatch_size", "num_epochs", "batch_mode", "framework_str",
    "enable_env_runner_and_connector_v2", "gym_env_vectorize_mode", "model_config", "model", "policies", "num_learners",
    "num_gpus_per_learner", "num_gpus", "GPUs", "trial", "observation_filter", "training_intensity", "callbacks", *CIRCUMSTANCES,
)  # fmt: skip
"""The facts to show, out of about 150."""

_SOFTWARE: Final = ("torch", "python", "platform")
"""Provenance of a baseline file that is added to a study's facts."""

_MOST_DIFFERENCES: Final = 3

_LONGEST_TEXT: Final = 120
_LONGEST_IN_TITLE: Final = 50

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

    Args:
        folder: the folder, or a trial's file of results.
        reference: scale of the reference.
        rule: the rule for warm-up and steady state.
        pool: facts of the workload that don't separate studies; `"trial"` for the names that somebody gave to trials.
        progress: called after each trial with the number of trials read and the total.

    Raises:
        ExperimentError: if it contains no trial.
        OSError: if the storage can't be reached.
    """
    if folder.name in LOGS and folder.is_file:
        files = folder.parent.names()[1]
        places = [(folder.parent, [name for name in files if name == folder.name or name not in LOGS])]
    else:
        places = list(_places(folder, set()))
    stores = [place for place, _ in places if place.name == EXPERIMENT_SUBDIRECTORY]
    trials = [(place, files) for place, files in places if place.name != EXPERIMENT_SUBDIRECTORY]
    if not trials:
        raise ExperimentError(_nothing(folder))
    baselines: list[Baseline] = []
    left_out: list[LeftOut] = []
    for store in stores:
        found, damaged = read_baselines(store)
        baselines += found
        left_out += damaged
    states: dict[str, dict[str, dict[str, Any]]] = {}
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
    separated = _separated(known, pool)
    groups = sorted(_by_workload(separated, baselines), key=_size, reverse=True)
    titles, apart = _titles([facts for facts, _ in groups])
    studies = [_study(title, facts, trials, baselines, reference) for title, (facts, trials) in zip(titles, groups, strict=True)]
    told = [f"Trials that differ in {any_of(apart)} are separate studies; --pool merges them on purpose."] if apart else []
    return Experiment(folder.text, tuple(studies), tuple(left_out), tuple(told))


def _size(group: _Group) -> tuple[int, int]:
    """Return the number of scales and trials of a workload."""
    _, trials = group
    return len({trial.run.scale for trial in trials}), len(trials)


def _places(folder: Location, seen: set[str]) -> Iterator[tuple[Location, list[str]]]:
    """Yield the folders of trials and of baselines, at any depth and each once, with the names of the files in them."""
    real = os.path.realpath(folder.path)
    if real in seen:  # by a link
        return
    seen.add(real)
    folders, files = folder.names()
    if not {*LOGS, PARAMS}.isdisjoint(files) or folder.name == EXPERIMENT_SUBDIRECTORY:
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
        f"(a folder with a {' or '.join(LOGS)}). Tune writes one for each trial once it starts; pass storage_path/name of its "
        "RunConfig, or a folder that contains it."
    )


def _stored_config(trial: Location, states: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Return the config of a trial from Tune's state of its experiment, which is read once."""
    experiment = trial.parent
    if experiment.path not in states:
        states[experiment.path] = _stored_configs(experiment)
    return states[experiment.path].get(trial.name, {})


def _stored_configs(experiment: Location) -> dict[str, dict[str, Any]]:
    """Return the configs of the trials by the names of their folders, from Tune's state of an experiment, without pickles."""
    states = [name for name in experiment.names()[1] if name.startswith("experiment_state") and name.endswith(".json")]
    return {trial: config for name in states for trial, config in _configs_in(experiment.below(name)).items()}


def _configs_in(file: Location) -> dict[str, dict[str, Any]]:
    with suppress(ExperimentError, ValueError, TypeError, AttributeError, RecursionError):  # foreign or damaged
        state = json.loads(file.read())
        trials = state.get("checkpoints") or [first for first, *_ in state.get("trial_data", ())]
        known = [json.loads(each) if isinstance(each, str) else each for each in trials]
        places = [str(each.get("relative_logdir") or each.get("logdir") or each.get("local_path")) for each in known]
        configs = [{**(each.get("evaluated_params") or {}), **(each.get("config") or {})} for each in known]
        return {place.rstrip("/").rpartition("/")[2]: config for place, config in zip(places, configs, strict=True)}
    return {}


def _without_copies(read: Sequence[tuple[TrialRead | LeftOut, Presence]]) -> tuple[list[TrialRead | LeftOut], list[LeftOut]]:
    """Return the trials, each once and marked if it overlapped with another one, and the copies that are left out."""
    longest: dict[object, int] = {}
    for index, (_, ran) in enumerate(read):
        key = repr(ran.opening) if ran.opening else index
        other = longest.setdefault(key, index)
        if ran.spells > read[other][1].spells:
            longest[key] = index
    kept = sorted(longest.values())
    busy = overlapping([read[index][1][:2] for index in kept])
    whole: list[TrialRead | LeftOut] = []
    for position, (found, _) in enumerate(read[index] for index in kept):
        if position in busy and isinstance(found, TrialRead):
            found = replace(found, run=replace(found.run, exclusive=0.0))
        whole.append(found)
    others = (found for index, (found, _) in enumerate(read) if index not in {*kept})
    names = (each.name if isinstance(each, LeftOut) else each.run.name for each in others)
    return whole, [LeftOut(name, "a copy of another trial here") for name in names]


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
            named.append(replace(trial, facts=facts, workload="" if pool else trial.workload))
    separated: list[TrialRead] = []
    for trials in _alike(named, ()):
        labels = {(trial.run.scale, _label(trial.run)) for trial in trials}
        tells = len(labels) > len({scale for scale, _ in labels}) and "trial" not in pool
        separated += [replace(each, facts={**each.facts, "trial": _label(each.run)}) if tells else each for each in trials]
    return separated


def _alike(trials: Iterable[TrialRead], without: Collection[str]) -> list[list[TrialRead]]:
    """Return the trials in groups with equal facts, apart from some."""
    groups: dict[str, list[TrialRead]] = {}
    for trial in trials:
        facts = {name: value for name, value in trial.facts.items() if name not in without}
        groups.setdefault(Workload(facts).id, []).append(trial)
    return list(groups.values())


def _label(run: Run) -> str:
    """Return the name that somebody gave to a trial, without its scale and the number of a repetition; "" for a name of Tune's."""
    name = run.name.rpartition("/")[2]
    if _OF_TUNE.search(name):
        return ""
    scale = run.scale
    counts = {str(n) for n in (scale.num_env_runners, scale.num_envs_per_env_runner, scale.parallelism) if n > 1}
    return re.sub(r"\d+", lambda found: "#" if found[0] in counts else found[0], _REPETITION.sub("", name)).strip("-_ ")


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
            groups.setdefault(f"{key} {trial.facts.get('trial', '')}", ({**trial.facts, **known}, []))[1].append(trial)
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
            alone = 0.0 if baseline.disturbed else NAN
            return Run(name=name, scale=reference, steady=baseline.steady, notes=(source,), exclusive=alone)
    recorded = [trial.unit_sps for trial in trials if trial.unit_sps > 0]
    if not recorded:
        return None
    # The last trial used the latest stored baseline; a probed one belongs to its own trial. Only throughputs are known.
    probed = [trial.run.baseline_sps for trial in trials if trial.run.baseline_sps > 0]
    sps = (fmean(probed) if probed else recorded[-1]) * reference.parallelism
    steady = Steady(sps=sps, error=NAN, iterations=0, env_steps=NAN, seconds=NAN, converged=False, settled=False)
    of_probes = "the mean of those probed in the trials, each of which is compared with its own"
    return Run(name="", scale=reference, steady=steady, notes=(of_probes if probed else "as recorded by the trials",))


def _titles(groups: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """Return a title for each workload, with what tells it from others of the same algorithm and env, and the names of all that."""
    plain = [_title(facts) for facts in groups]
    titles, everything = list(plain), dict[str, None]()
    for title in dict.fromkeys(plain):
        same = {index: _flat(groups[index]) for index, its in enumerate(plain) if its == title}
        apart = _telling([*same.values()])
        everything.update(dict.fromkeys(name.partition(".")[0] for name in apart))
        for index, facts in same.items() if apart else ():
            differs = ", ".join(
                f"{name}: {_text(facts[name], _LONGEST_IN_TITLE)}" for name in apart if facts.get(name) not in (None, "")
            )
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

    while len(chosen) < _MOST_DIFFERENCES and told(best := max(names, key=told)) > told():
        chosen.append(best)
    return chosen


def _flat(facts: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return facts with those of inner mappings as `outer.inner`."""
    flat: dict[str, Any] = {}
    for name, value in facts.items():
        flat |= _flat(value, f"{above}{name}.") if isinstance(value, Mapping) else {f"{above}{name}": value}
    return flat


def _title(facts: Mapping[str, Any]) -> str:
    env = last_name(facts.get("env") or "")
    return " on ".join(filter(None, (facts["algorithm"], env))) or "unknown workload"


def _text(value: object, longest: int = _LONGEST_TEXT) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
