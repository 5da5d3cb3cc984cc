"""Reads a table of measurements: a CSV file with a row for each iteration or configuration."""

from __future__ import annotations

import csv
import io
import posixpath
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from rl_scaling_callback.analysis.runs import Experiment, Iteration, LeftOut, Run, Study
from rl_scaling_callback.core.formulas import NAN, ratio
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import SteadyRule, is_measurable
from rl_scaling_callback.experiments.recording import sum_up
from rl_scaling_callback.storage import ExperimentError, Place

COLUMNS: Final = ("num_env_runners", "num_envs_per_env_runner", "env_steps", "time_this_iter_s")
"""The usual columns of a table. `num_envs_per_env_runner` is 1 where it is missing; `sps` may stand for either of the last two, or
for both: then iterations count as equally long in env steps. Further columns are passed over."""


def read_table(place: Place, *, rule: SteadyRule) -> Experiment:
    """Return the experiment in a CSV file with columns such as `COLUMNS`.

    Rows of one configuration are the iterations of one run. All are measured: a table has no warm-up to skip.

    Args:
        place: the file.
        rule: when a run counts as precise enough.

    Raises:
        ExperimentError: a column is missing, no row can be read, or it is too large.
        OSError: the file can't be read.
    """
    runs: dict[Scale, list[Iteration]] = {}
    left_out: list[LeftOut] = []
    try:
        # Spreadsheets put a byte order mark first.
        rows = csv.DictReader(io.StringIO(place.read().decode("utf-8-sig"), newline=""), skipinitialspace=True)
        _check(place, rows.fieldnames or ())
        for row in rows:
            try:
                scale, env_steps, seconds = _read(row)
            except (TypeError, ValueError) as error:
                left_out.append(LeftOut(f"{place.name}, line {rows.line_num}", f"{error}; the row is left out"))
                continue
            iterations = runs.setdefault(scale, [])
            iterations.append(Iteration(len(iterations) + 1, env_steps, seconds))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ExperimentError(f"{place.text} is not a CSV file in UTF-8 ({error}). {_WANTED}") from None
    if not runs:
        reason = f"no row of it can be read ({left_out[0].reason})" if left_out else "it has no rows"
        raise ExperimentError(f"{place.text}: {reason}. {_WANTED}")
    measured = replace(rule, warmup_iterations=0)
    found = [sum_up(iterations, measured, name=str(scale), scale=scale) for scale, iterations in runs.items()]
    if not {*COLUMNS[2:]} & {*(rows.fieldnames or ())}:
        found = [_without_steps(run) for run in found]
    study = Study(title=posixpath.splitext(place.name)[0], runs=tuple(found))
    return Experiment(place.text, (study,), tuple(left_out))


_WANTED: Final = (
    f"A table has the columns {','.join(COLUMNS)}, and a row for each iteration. sps will do in place of env_steps, "
    "time_this_iter_s or both, and num_envs_per_env_runner is 1 where it is missing."
)


def _check(place: Place, header: object) -> None:
    names = set(header) if isinstance(header, (list, tuple)) else set()
    runners, _, *work = COLUMNS
    needed = [runners] if "sps" in names else [runners, *work]
    missing = [column for column in needed if column not in names]
    if missing:
        raise ExperimentError(f"{place.text} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}. {_WANTED}")


def _read(row: Mapping[str, str]) -> tuple[Scale, float, float]:
    """Return the scale, env steps and seconds of a row; where only its SPS is known, of one env step."""
    runners, envs, *work = COLUMNS
    scale = Scale(int(row[runners]), int(row.get(envs, "1")))
    given = [column for column in work if column in row]
    known = {column: float(row[column]) for column in (given if given == work else [*given, "sps"])}
    sps = known.get("sps", NAN)
    env_steps = known.get("env_steps", sps * known["time_this_iter_s"] if "time_this_iter_s" in known else 1.0)
    seconds = known.get("time_this_iter_s", ratio(env_steps, sps))
    if not (env_steps > 0 and is_measurable(env_steps, seconds)):
        told = " and ".join(f"{column} is {row[column]!r}" for column in known)
        raise ValueError(f"{told}; allowed are 1 to 1e15 env steps in 1e-9 to 1e9 s")
    return scale, env_steps, seconds


def _without_steps(run: Run) -> Run:
    """Return a run of which only the throughput is known."""
    return replace(run, steady=replace(run.steady, env_steps=NAN, seconds=NAN), samples=())
