"""Reads measurements from a CSV file with one row per iteration or configuration."""

from __future__ import annotations

import csv
import io
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from rl_scaling_callback.analysis.runs import Experiment, Iteration, LeftOut, Run, Study
from rl_scaling_callback.core.formulas import NAN, ratio
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import SteadyRule, is_measurable
from rl_scaling_callback.experiments.recording import summarise
from rl_scaling_callback.storage import ExperimentError, Location

CSV_COLUMNS: Final = ("num_env_runners", "num_envs_per_env_runner", "env_steps", "time_this_iter_s")
"""The usual columns of a table. `num_envs_per_env_runner` defaults to 1, unless the name of an unknown column contains "env".
`sps` can replace either of the last two, or both, in which case all iterations are assumed to have equally many env steps. Other
columns are ignored."""


def read_table(location: Location, *, rule: SteadyRule) -> Experiment:
    """Return the experiment in a CSV file with columns such as `CSV_COLUMNS`.

    Rows of one configuration are the iterations of one run. All of them count: a table is taken to contain no warm-up.

    Args:
        location: the file.
        rule: the rule for the required precision.

    Raises:
        ExperimentError: if a column is missing, no row can be read, or the file is too large.
        OSError: if the file can't be read.
    """
    runs: dict[Scale, list[Iteration]] = {}
    left_out: list[LeftOut] = []
    try:
        # Spreadsheets write a byte order mark.
        rows = csv.DictReader(io.StringIO(location.read().decode("utf-8-sig"), newline=""), skipinitialspace=True)
        rows.fieldnames = header = [name.strip() for name in rows.fieldnames or ()]
        _check(location, header)
        for row in rows:
            try:
                scale, env_steps, seconds = _read(row)
            except ValueError as error:
                left_out.append(LeftOut(f"{location.name}, line {rows.line_num}", str(error)))
                continue
            iterations = runs.setdefault(scale, [])
            iterations.append(Iteration(len(iterations) + 1, env_steps, seconds))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ExperimentError(f"{location.text} is not a CSV file in UTF-8 ({error}). {_WANTED}") from None
    if not runs:
        reason = f"no row can be read ({left_out[0].reason})" if left_out else "it has no rows"
        raise ExperimentError(f"{location.text}: {reason}. {_WANTED}")
    measured = replace(rule, warmup_iterations=0)
    found = [summarise(iterations, measured, name=str(scale), scale=scale) for scale, iterations in runs.items()]
    if not {*CSV_COLUMNS[2:]} & {*header}:
        found = [_without_steps(run) for run in found]
    study = Study(title=posixpath.splitext(location.name)[0], runs=tuple(found))
    return Experiment(location.text, (study,), tuple(left_out))


_WANTED: Final = (
    f"Expected are the columns {','.join(CSV_COLUMNS)} and one row per iteration. sps can replace env_steps, "
    "time_this_iter_s or both; num_envs_per_env_runner is 1 if no column is about envs."
)


def _check(location: Location, header: Sequence[str]) -> None:
    runners, envs, *work = CSV_COLUMNS
    needed = [runners] if "sps" in header else [runners, *work]
    if any("env" in name.lower() for name in {*header} - {*CSV_COLUMNS}):
        needed.append(envs)  # rather than ignore a misspelt one
    missing = [column for column in needed if column not in header]
    twice = [column for column in (*CSV_COLUMNS, "sps") if header.count(column) > 1]
    if missing or twice:
        problem = f"lacks {', '.join(missing)}" if missing else f"has {', '.join(twice)} twice"
        raise ExperimentError(f"{location.text} {problem}; its columns are {', '.join(header) or 'empty'}. {_WANTED}")


def _read(row: Mapping[str, str]) -> tuple[Scale, float, float]:
    """Return the scale, env steps and seconds of a row; for one env step if only SPS is known."""
    if None in row:
        raise ValueError("it has more fields than the header. Write numbers without thousands separators")
    runners, envs, *work = CSV_COLUMNS
    scale = Scale(_count(row, runners), _count(row, envs) if envs in row else 1)
    given = [column for column in work if column in row]
    known = {column: _number(row, column) for column in (given if given == work else [*given, "sps"])}
    sps = known.get("sps", NAN)
    env_steps = known.get("env_steps", sps * known["time_this_iter_s"] if "time_this_iter_s" in known else 1.0)
    seconds = known.get("time_this_iter_s", ratio(env_steps, sps))
    if not (env_steps > 0 and is_measurable(env_steps, seconds)):
        given_values = " and ".join(f"{column} is {row[column]!r}" for column in known)
        raise ValueError(f"{given_values}; allowed are 1 to 1e15 env steps in 1e-9 to 1e9 s")
    return scale, env_steps, seconds


def _number(row: Mapping[str, str], column: str) -> float:
    try:
        return float(row[column])
    except (TypeError, ValueError):  # None if the row is too short
        raise ValueError(f"{column} is {row[column]!r}, not a number") from None


def _count(row: Mapping[str, str], column: str) -> int:
    number = _number(row, column)
    if not number.is_integer():
        raise ValueError(f"{column} is {row[column]!r}; allowed are whole numbers")
    return int(number)


def _without_steps(run: Run) -> Run:
    """Return the run with only its throughput known."""
    return replace(run, steady=replace(run.steady, env_steps=NAN, seconds=NAN), samples=())
