"""Finds earlier runs of the same workload on the same hardware, which a sweep need not repeat."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.tune.utils.util import SafeFallbackEncoder  # type: ignore[attr-defined]

from rl_scaling_callback import rllib
from rl_scaling_callback.analysis.runs import Run
from rl_scaling_callback.core.steady import SteadyRule
from rl_scaling_callback.core.workload import Workload
from rl_scaling_callback.experiments import read_experiment
from rl_scaling_callback.experiments.baselines import read_baselines
from rl_scaling_callback.rllib import introspection, number
from rl_scaling_callback.rllib.hardware import Host
from rl_scaling_callback.storage import Location

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig


@dataclass(frozen=True, slots=True)
class Sought:
    """The workload that a sweep measures.

    Attributes:
        exact: as seen by its trials' callbacks and stored with baselines.
        logged: as read from the log of an experiment.
    """

    exact: Workload
    logged: Workload


def sought_workload(config: AlgorithmConfig, host: Host) -> Sought:
    """Return the workload of a config on a host."""
    algorithm: Any = config.algo_class
    node = next((node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeManagerHostname"] == host.name), "")
    told: dict[str, Any] = json.loads(json.dumps(config.to_dict(), cls=SafeFallbackEncoder))
    logged = rllib.read_workload(rllib.read_logged_config(told))
    circumstances = {
        "cpu": host.cpu,
        "cores": host.cores,
        "accelerators": introspection.accelerators(node) if rllib.uses_gpus(vars(config)) else [],
        # Ray's default for actors, unless the user sets OMP_NUM_THREADS.
        "threads": number(os.environ.get("OMP_NUM_THREADS") or max(1, config.num_cpus_for_main_process)),
        "runner_threads": [number(os.environ.get("OMP_NUM_THREADS") or max(1, config.num_cpus_per_env_runner))],
        **introspection.versions(),
    }
    return Sought(
        exact=Workload({**introspection.facts_of(config, algorithm), **circumstances}),
        logged=Workload({**logged, "algorithm": getattr(algorithm, "__name__", None), **circumstances}),
    )


def runs_of(sought: Sought, places: Iterable[str | Path], rule: SteadyRule) -> list[Run]:
    """Return the runs of a workload found in earlier experiments and persistent baselines.

    Args:
        sought: the workload to look for.
        places: folders or URIs of experiments and of persistent baselines (`baseline_dir`).
        rule: when a run counts as warm and steady.

    Raises:
        ExperimentError: an experiment can't be read.
        ValueError: a folder has no run of this workload; the message says what differs.
    """
    found: list[Run] = []
    for place in places:
        runs, apart = _lasting(sought.exact, place)
        if not (runs or apart):
            runs, apart = runs_of_experiment(sought.logged, place, rule)
        if not runs:
            nearest = min(apart, key=len, default=[])
            raise ValueError(f"{place} has no trial of this workload: {'; '.join(nearest) or 'it is not an RLlib experiment'}")
        found += runs
    return found


def lasting_runs(workload: Workload, baseline_dir: str | Path) -> list[Run]:
    """Return the persistent baselines of a workload as runs; an empty list if there are none yet.

    Raises:
        ExperimentError: the storage can't be reached.
    """
    return _lasting(workload, baseline_dir)[0]


def _lasting(workload: Workload, place: str | Path) -> tuple[list[Run], list[list[str]]]:
    """Return a workload's baselines as runs, and the differences of other workloads' baselines."""
    runs, apart = [], []
    for baseline in read_baselines(Location.of(place))[0]:
        differences = _differences(workload, baseline.workload)
        if differences:
            apart.append(differences)
            continue
        name = baseline.provenance.get("trial", baseline.owner)
        cores = number(baseline.workload.facts.get("cores"))
        runs.append(Run(name=name, scale=baseline.scale, steady=baseline.steady, cores=cores))
    return runs, apart


def runs_of_experiment(workload: Workload, place: str | Path, rule: SteadyRule) -> tuple[list[Run], list[list[str]]]:
    """Return the runs of a workload in an experiment, and the differences of its other workloads."""
    runs: list[Run] = []
    apart = []
    for study in read_experiment(place, rule=rule).studies:
        if study.workload is None:
            continue
        differences = _differences(workload, study.workload)
        if differences:
            apart.append(differences)
        else:
            runs += study.runs
    return runs, apart


def _differences(here: Workload, there: Workload) -> list[str]:
    """Return the differences in the facts that both have; a log may lack the algorithm."""
    if here.id == there.id:
        return []
    # The user's name for a workload replaces all other facts.
    if "name" in here.facts or "name" in there.facts:
        return here.differences(there)
    compared = here.facts.keys() & {name for name, fact in there.facts.items() if fact is not None}
    mine, its = ({name: each.facts[name] for name in compared} for each in (here, there))
    return Workload(mine).differences(Workload(its))
