"""Reads measurements from a table with one row per iteration, run or configuration: CSV, TSV, JSON lines or a DataFrame.

Columns that are not ours are factors: rows that differ in them are not repeats of each other. They make one study for each
combination of their values. Not factors are columns that tell repetitions apart, measurements, and labels, which name the rows: each
of their values occurs at one scale only, so that nothing could be compared within a value.
"""

from __future__ import annotations

import csv
import io
import json
import posixpath
import re
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final, NamedTuple

import orjson

from rl_scaling_callback.analysis.runs import Experiment, Iteration, LeftOut, Run, Study
from rl_scaling_callback.core.formulas import NAN, ratio
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import SteadyRule, is_measurable
from rl_scaling_callback.experiments.recording import summarise
from rl_scaling_callback.storage import ExperimentError, Location

COLUMNS: Final[Mapping[str, frozenset[str]]] = {
    "num_env_runners": frozenset({
        "num_rollout_workers", "num_workers", "n_workers", "nworkers", "workers", "num_runners", "env_runners", "runners",
    }),
    "num_envs_per_env_runner": frozenset({
        "num_envs_per_runner", "num_envs_per_worker", "envs_per_env_runner", "envs_per_runner", "envs_per_worker", "num_envs",
        "n_envs", "nenvs", "envs", "num_env", "num_environments", "num_parallel_envs", "parallel_envs",
    }),
    "env_steps": frozenset({
        "num_env_steps", "num_env_steps_sampled", "num_env_steps_sampled_this_iter", "num_env_steps_sampled_lifetime",
        "env_steps_lifetime", "env_steps_total", "steps", "num_steps", "timesteps", "total_timesteps", "timesteps_total",
        "timesteps_this_iter", "frames", "num_frames", "global_step",
    }),
    "time_this_iter_s": frozenset({
        "seconds", "secs", "sec", "time", "time_s", "time_sec", "time_seconds", "iteration_time", "iteration_time_s", "iter_time",
        "iter_time_s", "time_per_iteration", "time_per_iteration_s", "duration", "duration_s", "elapsed", "elapsed_s", "wall_time",
        "wall_time_s", "walltime", "time_total_s", "runtime", "runtime_s",
    }),
    "sps": frozenset({
        "fps", "steps_per_sec", "steps_per_second", "steps_s", "env_steps_per_sec", "env_steps_per_second", "env_steps_s",
        "frames_per_sec", "frames_per_second", "samples_per_sec", "samples_per_second", "throughput", "env_steps_sps",
    }),
}  # fmt: skip
"""Our columns, with the names that people give them. A name is compared in lower case, and after its last slash."""

RUNNERS, ENVS, STEPS, SECONDS, SPS = COLUMNS
_REPETITIONS: Final = {
    "repetition", "rep", "repeat", "replicate", "replica", "run", "seed", "trial", "experiment", "exp", "id", "run_id", "trial_id",
}  # fmt: skip
"""Columns that tell repetitions of a measurement apart, if they hold whole numbers."""
_ITERATIONS: Final = {"iteration", "iter", "it", "training_iteration", "epoch", "update", "index"}
_WARMUPS: Final = {"is_warmup", "is_warm_up", "warmup", "warm_up"}
_MEASURED: Final = re.compile(
    r"(^|_)(fps|sps|throughput|speedup|efficiency|rewards?|returns?|loss|util(i[sz]ation)?|percent|lifetime|latency|date|timestamp"
    r"|memory|ram|vram|error|std)(_|$)|_(per_sec(ond)?|s|ms|secs?|seconds|time)$"
)
"""Names of columns with other measurements."""
_THOUSANDS: Final = re.compile(r"[+-]?\d{1,3}([, _'\u00a0\u202f]\d{3})+(\.\d+)?")
_LEAST_GROWTH: Final = 1.25
"""A count is taken for a lifetime count if it grows in every row, and by at least this factor in each run."""

_WANTED: Final = (
    "Expected are columns for the scale, num_env_runners or num_envs_per_env_runner or both, and for the work, sps or "
    "env_steps,time_this_iter_s, with one row per iteration or configuration. Usual names such as num_workers, n_envs, seconds and "
    "fps are known; for others say which is which: --column sps=NAME, or columns={'sps': 'NAME'} in Python."
)


class _Row(NamedTuple):
    """A readable row: its scale, work, all of its cells, and its number."""

    scale: Scale
    env_steps: float
    seconds: float
    cells: Mapping[str, Any]
    number: int


def read_table(
    source: Location | Any, *, rule: SteadyRule, columns: Mapping[str, str] | None = None, pool: Collection[str] = ()
) -> Experiment:
    """Return the experiment in a table.

    Rows that agree in everything but measurements are the iterations of one run. All of them count, except for those that a column
    marks as warm-up. If only times are known, or only throughputs, all rows are assumed to have equally many env steps.

    Args:
        source: the file, or a DataFrame.
        rule: the rule for the required precision.
        columns: names of columns by what they contain.
        pool: columns in which repeats may differ.

    Raises:
        ExperimentError: if a column is missing, no row can be read, or the file is too large.
        OSError: if the file can't be read.
    """
    text, name = (source.text, source.name) if isinstance(source, Location) else ("the DataFrame", "DataFrame")
    try:
        cells = list(_read_file(source) if isinstance(source, Location) else source.to_dict("records"))
    except (ValueError, csv.Error, RecursionError) as error:
        raise ExperimentError(f"{text} is not a table in CSV, TSV or JSON lines in UTF-8 ({error}). {_WANTED}") from None
    header = [*dict.fromkeys(str(column) for row in cells for column in row if column is not None)]
    ours = _ours(text, header, columns or {}, pool)
    rows, left_out = _read_rows(name, cells, ours)
    if not rows:
        reason = f"no row can be read ({left_out[0].figures['error']})" if left_out else "it has no rows"
        raise ExperimentError(f"{text}: {reason}. {_WANTED}")
    table = _Table.of(rows, [column for column in header if column not in ours.values()], pool)
    notes = [f"Columns: {', '.join(f'{each} is {theirs}' for each, theirs in ours.items() if each != theirs)}."]
    notes = [each for each in notes if each != "Columns: ."]
    groups = table.runs()
    if STEPS in ours and (lifetime := _is_lifetime(groups, "env_steps")):
        both = SECONDS in ours and _is_lifetime(groups, "seconds")
        groups = {key: _increases(run, both) for key, run in groups.items() if len(run) > 1}
        which = f"{ours[STEPS]} and {ours[SECONDS]} only grow" if both else f"{ours[STEPS]} only grows"
        notes.append(f"{which}: taken as a lifetime count, so its increases count, and the first row of each run doesn't.")
        assert lifetime
    if not {STEPS, SPS} & {*ours}:
        notes.append("Env steps are unknown: all rows are taken to have equally many, and SPS is iterations/s.")
    notes += table.notes()
    studies = _studies(posixpath.splitext(name)[0], groups, replace(rule, warmup_iterations=0), ours)
    return Experiment(text, tuple(sorted(studies, key=lambda study: -len({run.scale for run in study.runs}))), tuple(left_out), tuple(notes))


def _read_file(file: Location) -> Iterator[Mapping[str, Any]]:
    text = file.read().decode("utf-8-sig")  # Spreadsheets write a byte order mark.
    start = text.lstrip()[:1]
    if start and start in "[{":
        for each in json.loads(text) if start == "[" else map(orjson.loads, filter(str.strip, text.splitlines())):
            if not isinstance(each, dict):
                raise ValueError(f"{str(each)[:20]!r} is not an object")
            yield {str(key): value for key, value in each.items()}
        return
    header, _, _ = text.partition("\n")
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if "\t" in header else ",", skipinitialspace=True)
    rows.fieldnames = names = [name.strip() for name in rows.fieldnames or ()]
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise ValueError(f"it has {', '.join(twice)} twice")
    if not names or not any(names):
        raise ValueError("it is empty")
    empty = True
    for row in rows:
        empty = False
        yield {**row, _LINE: rows.line_num}
    if empty:
        yield dict.fromkeys(names)


_LINE: Final = "\n"
"""The key of a row's line number: no column has this name."""
