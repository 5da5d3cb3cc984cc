"""Runs of earlier experiments that a sweep need not do again: those of the same workload on the same hardware."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.tune.utils.util import SafeFallbackEncoder  # type: ignore[attr-defined]

from rl_scaling_callback import hardware, reading
from rl_scaling_callback.analysis.runs import Run
from rl_scaling_callback.baseline import Workload
from rl_scaling_callback.experiments import read_experiment
from rl_scaling_callback.steady import SteadyRule

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig


def runs_of(config: AlgorithmConfig, places: Iterable[str | Path], rule: SteadyRule) -> list[Run]:
    """Return the runs of earlier experiments that measured what the config trains.

    Args:
        config: what the sweep trains.
        places: folders or URIs of experiments.
        rule: when a run counts as warm and steady.

    Raises:
        ExperimentError: an experiment can't be read.
        ValueError: one holds no run of this workload; says what differs.
    """
    workload = _workload_of(config)
    found: list[Run] = []
    for place in places:
        studies = read_experiment(place, rule=rule).studies
        same = [study for study in studies if study.workload is not None and not _differences(workload, study.workload)]
        if not same:
            apart = min((_differences(workload, study.workload) for study in studies if study.workload), key=len, default=[])
            raise ValueError(f"{place} holds no trial of this workload: {'; '.join(apart) or 'it is no experiment of RLlib'}")
        found += [run for study in same for run in study.runs]
    return found


def _workload_of(config: AlgorithmConfig) -> Workload:
    """Return the workload as a log would tell it."""
    logged: dict[str, Any] = json.loads(json.dumps(config.to_dict(), cls=SafeFallbackEncoder))
    facts = reading.read_workload(reading.read_logged_config(logged))
    facts["algorithm"] = getattr(config.algo_class, "__name__", None)
    return Workload({**facts, "cpu": hardware.cpu_model(), "cores": hardware.usable_cores(), "ray": ray.__version__})


def _differences(here: Workload, there: Workload) -> list[str]:
    """Return what differs of what a log tells; of the algorithm, where it does."""
    compared = here.facts.keys() & {name for name, fact in there.facts.items() if name != "algorithm" or fact is not None}
    mine, its = ({name: each.facts[name] for name in compared} for each in (here, there))
    return Workload(mine).differences(Workload(its))
