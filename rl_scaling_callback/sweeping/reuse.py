"""What was measured before, and a sweep need not do again: runs of the same workload on the same hardware."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.tune.utils.util import SafeFallbackEncoder  # type: ignore[attr-defined]

from rl_scaling_callback import rllib
from rl_scaling_callback.analysis.runs import Run
from rl_scaling_callback.baseline.model import Workload
from rl_scaling_callback.core.steady import SteadyRule
from rl_scaling_callback.experiments import read_experiment
from rl_scaling_callback.experiments.baselines import matches, read_baselines
from rl_scaling_callback.rllib import number
from rl_scaling_callback.rllib.hardware import Host
from rl_scaling_callback.storage import Place

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig


def workload_of(config: AlgorithmConfig, host: Host) -> Workload:
    """Return the workload of a config on a host, as a log would tell it."""
    logged: dict[str, Any] = json.loads(json.dumps(config.to_dict(), cls=SafeFallbackEncoder))
    facts = rllib.read_workload(rllib.read_logged_config(logged))
    facts["algorithm"] = getattr(config.algo_class, "__name__", None)
    return Workload({**facts, "cpu": host.cpu, "cores": host.cores, "ray": ray.__version__})


def runs_of(workload: Workload, places: Iterable[str | Path], rule: SteadyRule) -> list[Run]:
    """Return the runs of a workload that earlier experiments and lasting baselines hold.

    Args:
        workload: what is trained, and on what.
        places: folders or URIs of experiments and of lasting baselines (`baseline_dir`).
        rule: when a run counts as warm and steady.

    Raises:
        ExperimentError: an experiment can't be read.
        ValueError: a place holds no run of this workload; says what differs.
    """
    found: list[Run] = []
    for place in places:
        runs, others = _lasting(workload, place)
        if not (runs or others):
            runs, others = runs_of_experiment(workload, place, rule)
        if not runs:
            apart = min((differences(workload, other) for other in others), key=len, default=[])
            raise ValueError(f"{place} holds no trial of this workload: {'; '.join(apart) or 'it is no experiment of RLlib'}")
        found += runs
    return found


def lasting_runs(workload: Workload, baseline_dir: str | Path) -> list[Run]:
    """Return the lasting baselines of a workload, as the runs that measured them; none where there is none yet.

    Raises:
        ExperimentError: the storage can't be reached.
    """
    return _lasting(workload, baseline_dir)[0]


def _lasting(workload: Workload, place: str | Path) -> tuple[list[Run], list[Workload]]:
    """Return the runs behind a workload's baselines, and the workloads of the other baselines."""
    runs, others = [], []
    for baseline in read_baselines(Place.of(place))[0]:
        # A workload that the user named is the same by its name alone.
        same = workload.id == baseline.workload.id if workload.vouched else matches(workload.facts, baseline.workload.facts)
        if same:
            cores = number(baseline.workload.facts.get("cores"))
            runs.append(
                Run(
                    name=baseline.provenance.get("trial", baseline.owner), scale=baseline.scale, steady=baseline.steady, cores=cores
                )
            )
        else:
            others.append(baseline.workload)
    return runs, others


def runs_of_experiment(workload: Workload, place: str | Path, rule: SteadyRule) -> tuple[list[Run], list[Workload]]:
    """Return the runs of a workload in an experiment, and its other workloads."""
    runs: list[Run] = []
    others = []
    for study in read_experiment(place, rule=rule).studies:
        if study.workload is not None and not differences(workload, study.workload):
            runs += study.runs
        elif study.workload is not None:
            others.append(study.workload)
    return runs, others


def differences(here: Workload, there: Workload) -> list[str]:
    """Return what differs of what a log tells; of the algorithm, where it does."""
    compared = here.facts.keys() & {name for name, fact in there.facts.items() if name != "algorithm" or fact is not None}
    mine, its = ({name: each.facts[name] for name in compared} for each in (here, there))
    return Workload(mine).differences(Workload(its))
