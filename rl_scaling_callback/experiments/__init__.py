"""Reads experiments: folders and files of Tune of any age, a `ResultGrid`, tables and DataFrames.

>>> from rl_scaling_callback.experiments import read_experiment
>>> experiment = read_experiment("~/ray_results/my_experiment")  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from rl_scaling_callback.analysis.runs import Experiment
from rl_scaling_callback.core.scale import REFERENCE_SCALE, Scale
from rl_scaling_callback.core.steady import DEFAULT_RULE, SteadyRule
from rl_scaling_callback.experiments.table import read_table
from rl_scaling_callback.experiments.trial_folder import READERS
from rl_scaling_callback.experiments.tune_folder import read_folder
from rl_scaling_callback.storage import ExperimentError, Location

__all__ = ["ExperimentError", "read_experiment"]


def read_experiment(
    source: str | Path | Any,
    *,
    reference: Scale = REFERENCE_SCALE,
    rule: SteadyRule = DEFAULT_RULE,
    columns: Mapping[str, str] | None = None,
    pool: Collection[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Experiment:
    """Return the runs of an experiment, grouped by workload, and what was left out, with the reasons.

    Only one trial is in memory at a time. Trials need not have used the callback: RLlib's own results contain steps and seconds.
    No pickle is ever loaded.

    Args:
        source: path or URI of a folder of Tune (a trial, an experiment, or experiments at any depth), of a `result.json` or
            `progress.csv`, or of a table in CSV, TSV or JSON lines (see `table`); or a Tune `ResultGrid` or a DataFrame.
        reference: scale of the reference. If no run has it, a baseline recorded by the experiment is used instead.
        rule: the rule for warm-up and steady state. Tables are taken to contain no warm-up, except for rows marked as such.
        columns: names of columns of a table by what they contain, such as `{"sps": "FPS"}`; usual names are known.
        pool: columns of a table, or settings of trials, that don't make separate studies: rows and trials that differ in them
            count as repeats. `"trial"` stands for the names that somebody gave to trials.
        progress: called after each trial with the number of trials read and the total.

    Raises:
        ExperimentError: if nothing can be read; the message gives the reason and a remedy.
    """
    if hasattr(source, "to_dict") and hasattr(source, "columns"):  # a DataFrame, recognised without importing pandas
        return read_table(source, rule, columns or {}, pool)
    location = Location.of(source)
    try:
        if location.is_folder or (location.is_file and location.name in READERS):
            if columns:
                raise ExperimentError(f"{location.text} is no table: columns ({', '.join(columns)}) are only known of tables")
            return read_folder(location, reference, rule, pool, progress)
        if location.is_file:
            return read_table(location, rule, columns or {}, pool)
    except OSError as error:
        raise ExperimentError(f"{location.text} can't be read: {error}") from error
    raise ExperimentError(
        f"{location.text} does not exist. Pass the folder that Tune wrote (storage_path/name of its RunConfig, or "
        "results.experiment_path), or a table."
    )
