"""Reads measurements from a table with one row per iteration, run or configuration: CSV, TSV, JSON lines or a DataFrame.

Columns that are not ours are factors: rows that differ in them are not repeats of each other, and each combination of their values
is a study. Exceptions are columns that number repetitions or iterations, other measurements, and labels, such as names of settings:
they differ from scale to scale, so that too little would be left to compare. They only separate rows of the same scale.
"""

from __future__ import annotations

import csv
import io
import json
import posixpath
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Final, NamedTuple

from rl_scaling_callback.analysis.runs import Experiment, Iteration, LeftOut, Run, Study
from rl_scaling_callback.core.formulas import NAN, ratio
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import SteadyRule, is_measurable
from rl_scaling_callback.core.text import listed
from rl_scaling_callback.experiments.studies import flat, grouped, short, summarise, titles
from rl_scaling_callback.storage import ExperimentError, Location

COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "num_env_runners": (
        "num_rollout_workers", "num_workers", "n_workers", "workers", "num_runners", "env_runners", "runners",
    ),
    "num_envs_per_env_runner": (
        "num_envs_per_runner", "num_envs_per_worker", "envs_per_env_runner", "envs_per_runner", "envs_per_worker", "num_envs",
        "n_envs", "nenvs", "envs", "num_env", "num_environments", "num_parallel_envs", "parallel_envs",
    ),
    "env_steps": (
        "num_env_steps_sampled_this_iter", "num_env_steps_sampled", "num_env_steps", "steps", "num_steps", "timesteps", "frames",
        "timesteps_this_iter", "num_env_steps_sampled_lifetime", "env_steps_lifetime", "total_timesteps", "timesteps_total",
        "global_step",
    ),
    "time_this_iter_s": (
        "iteration_time_s", "iteration_time", "iter_time_s", "iter_time", "time_per_iteration", "seconds", "secs", "sec", "time_s",
        "time_sec", "time_seconds", "time", "duration_s", "duration", "wall_time_s", "wall_time", "elapsed_s", "elapsed",
        "time_elapsed", "time_total_s",
    ),
    "sps": (
        "env_steps_per_second", "env_steps_per_sec", "steps_per_second", "steps_per_sec", "steps_s", "fps", "frames_per_second",
        "frames_per_sec", "samples_per_second", "samples_per_sec", "throughput",
    ),
}  # fmt: skip
"""Our columns, with the names that people give them, those to prefer first. Case and what precedes a slash don't matter."""

RUNNERS, ENVS, STEPS, SECONDS, SPS = COLUMNS
_NEEDED: Final = {"a column for the scale": (RUNNERS, ENVS), "a column for the speed": (SPS, SECONDS)}

_NAMES: Final = {
    "repetition": (
        "repetition", "rep", "repeat", "replicate", "replica", "run", "seed", "trial", "experiment", "exp", "id", "run_id",
        "trial_id",
    ),
    "iteration": ("iteration", "iterations", "iter", "it", "training_iteration", "epoch", "update", "n_updates", "index"),
    "warm-up": ("is_warmup", "is_warm_up", "warmup", "warm_up"),
}  # fmt: skip
"""Names of columns that tell repetitions apart, number the iterations and mark rows as warm-up. The first hold whole numbers."""
_MEASURED: Final = re.compile(
    r"(^|_)(fps|sps|throughput|speedup|efficiency|rewards?|returns?|loss|util(i[sz]ation)?|percent|lifetime|latency|date|timestamp"
    r"|memory|ram|vram|error|std)(_|$)|_(per_sec(ond)?|s|ms|secs?|seconds|time)$"
)
"""Names of columns with other measurements."""
_LOGGED: Final = ("rollout/", "train/")
"""Starts of the names of what Stable-Baselines3 measures; cells are empty until the first episode or update has ended."""
_WORKLOAD: Final = re.compile(r"(^|_)(env|environment|task|game|algo(rithm)?|method|model|machine|host(name)?|node)(_|$)")
"""Names of columns that are never mere labels of a scale."""
_TOTAL: Final = re.compile(r"total|elapsed|wall|since")
_YES: Final = ("true", "1", "1.0", "yes")
_THOUSANDS: Final = re.compile(r"[+-]?[1-9]\d{0,2}([, _'\u00a0\u202f]\d{3})+(\.\d+)?")
_DECIMAL_COMMA: Final = re.compile(r"\s*[+-]?(\d+|\d{1,3}(\.\d{3})+),\d+\s*")
"""A number with a decimal comma, unless it separates thousands."""
_MIN_GROWTH, _MIN_GROWTHS = 1.25, 3
"""A column is taken for a lifetime count if it grows in every row: by this factor in each run, and so often in all of them."""
_MIN_LEFT: Final = 0.5
"""A column that leaves less than this share of the comparisons between scales is a label."""
_MAX_NAMES: Final = 500
_EXCESS: Final = "it has more fields than the header. Quote numbers with thousands separators"
_WANTED: Final = (
    "Needed are a column for the scale (num_env_runners or num_envs_per_env_runner; one that is missing counts as 1) and one for "
    "the speed (sps; or time_this_iter_s, with env_steps unless all rows have equally many), with one row per iteration or "
    "configuration. Usual names such as num_workers, n_envs, seconds and fps are known; for others say which is which: "
    "--column sps=NAME, or columns={'sps': 'NAME'} in Python."
)


class _Row(NamedTuple):
    """A readable row: its scale and work, and the texts in its other columns."""

    scale: Scale
    env_steps: float
    seconds: float
    texts: Mapping[str, str]

    def of(self, columns: Iterable[str]) -> tuple[str, ...]:
        """Return the texts in some columns."""
        return tuple(self.texts.get(column, "") for column in columns)


def read_table(source: Location | Any, rule: SteadyRule, columns: Mapping[str, str], pool: Collection[str]) -> Experiment:
    """Return the experiment in a table. For the arguments and errors see `read_experiment`.

    Rows that differ in measurements only are the iterations of one run. All of them count, except for those that a column marks as
    warm-up. Where only throughputs or only times are given, all rows are assumed to have equally many env steps.
    """
    text, name = (source.text, source.name) if isinstance(source, Location) else ("the DataFrame", "DataFrame")
    try:
        lines = dict(_lines(source) if isinstance(source, Location) else _rows_of(source))
        if lines and all(None in line for line in lines.values()):
            raise ValueError(lines[min(lines)][None])
    except (ValueError, csv.Error, RecursionError) as error:
        raise ExperimentError(f"{text} is not a table in CSV, TSV or JSON lines in UTF-8 ({error}). {_WANTED}") from None
    header = [*dict.fromkeys(column for line in lines.values() for column in line if column is not None)]
    ours = _ours(text, header, columns, pool)
    others = [column for column in header if column not in ours.values()]
    if {STEPS, SECONDS, SPS} <= {*ours}:  # one is redundant
        del ours[next((each for each in (SPS, SECONDS, STEPS) if each not in columns), SPS)]
    rows: list[_Row] = []
    left_out: list[LeftOut] = []
    for number, line in lines.items():
        if any(map(_text, line.values())):
            try:
                rows.append(_read_row(line, ours))
            except ValueError as error:
                left_out.append(LeftOut(f"{name}, line {number}", str(error)))
    if not rows:
        reason = f"no row can be read ({left_out[0].reason})" if left_out else "it has no rows"
        raise ExperimentError(f"{text}: {reason}. {_WANTED}")
    roles = _roles(rows, others, pool)
    rows = [row for row in rows if not any(mark.lower() in _YES for mark in row.of(roles["warm-up"]))] or rows
    groups = [(facts, _runs(its, roles)) for facts, its in _separated(rows, roles)]
    grown = _take_increases([run for _, runs in groups for run in runs.values()], ours)
    groups.sort(key=lambda group: -len({run[0].scale for run in group[1].values() if run}))
    titled, _ = titles([posixpath.splitext(name)[0]] * len(groups), [facts for facts, _ in groups])
    may_vary = STEPS not in ours and {SPS, SECONDS} <= {*ours}
    studies = [
        Study(title, tuple(_summary(*run, ours, rule) for run in runs.items() if run[1]), facts=facts, steps_vary=may_vary)
        for title, (facts, runs) in zip(titled, groups, strict=True)
    ]
    return Experiment(text, tuple(each for each in studies if each.runs), tuple(left_out), tuple(_notes(ours, roles, grown)))


# Files


def _lines(file: Location) -> Iterator[tuple[int, Mapping[Any, Any]]]:
    """Yield the number of each line and its cells by column; by None, why it can't be read."""
    text = file.read().decode("utf-8-sig")  # Spreadsheets write a byte order mark.
    start = text.lstrip()[:1]
    if start == "[":
        yield from enumerate(map(_cells, json.loads(text)), 1)
    elif start == "{":
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                try:
                    yield number, _cells(json.loads(line))
                except (ValueError, RecursionError) as error:
                    yield number, {None: f"it is not a JSON object: {error}"}
    else:
        header = re.search(r".*\w.*", text)  # blank lines may precede it
        delimiter = max(",;\t|", key=header[0].count if header else "".count)
        rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, restval="")
        while rows.fieldnames is not None and not any(map(str.strip, rows.fieldnames)):
            rows.fieldnames = None
        rows.fieldnames = names = [name.strip() for name in rows.fieldnames or ()]
        if twice := [name for name in dict.fromkeys(names) if name and names.count(name) > 1]:
            raise ValueError(f"it has {', '.join(twice)} twice")
        yield 1, dict.fromkeys(names)
        lines = [(rows.line_num, {None: _EXCESS} if None in row else row) for row in rows]
        cells = [cell for _, row in lines for cell in row.values() if _DECIMAL_COMMA.fullmatch(cell)]
        if delimiter != "," and not all(_THOUSANDS.fullmatch(cell.strip()) for cell in cells):
            decimal = {cell: cell.replace(".", "").replace(",", ".") for cell in cells}
            lines = [(number, {column: decimal.get(cell, cell) for column, cell in row.items()}) for number, row in lines]
        yield from lines


def _cells(row: Any) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise ValueError(f"{str(row)[:20]!r} is not an object")
    return flat(row, "/")


def _rows_of(frame: Any) -> Iterator[tuple[int, Mapping[Any, Any]]]:
    """Yield the number of each row of a DataFrame and its cells by column, including those of a named index."""
    frame = frame.reset_index() if any(name is not None for name in frame.index.names) else frame
    names = ["/".join(map(str, name)) if isinstance(name, tuple) else str(name) for name in frame.columns]
    yield from enumerate((dict(zip(names, row, strict=True)) for row in frame.itertuples(index=False)), 1)


# Our columns


def _ours(text: str, header: Sequence[str], given: Mapping[str, str], pool: Collection[str]) -> dict[str, str]:
    """Return the column of the table for each of ours that it has."""
    names = short(listed(header), _MAX_NAMES)
    unknown = [f"{each} is not one of ours ({', '.join(COLUMNS)})" for each in given if each not in COLUMNS]
    unknown += [f"there is no column {theirs}" for theirs in (*given.values(), *pool) if theirs not in header]
    if unknown:
        raise ExperimentError(f"{text}: {unknown[0]}; its columns are {names}")
    free = [column for column in sorted(header, key=lambda column: column.count("/")) if column not in {*given.values(), *pool}]
    plain = {_plain(column): column for column in reversed(free)}
    usual = {each: next((plain[name] for name in (each, *others) if name in plain), "") for each, others in COLUMNS.items()}
    ours = {each: theirs for each, theirs in {**usual, **given}.items() if theirs}
    if lacking := [what for what, some in _NEEDED.items() if {*some}.isdisjoint(ours)]:
        found = f"its columns are {names}" if names else "it is empty"
        raise ExperimentError(f"{text} lacks {listed(lacking)}; {found}. {_WANTED}")
    return ours


def _plain(column: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", column.rpartition("/")[2].lower().replace("#", "num_")).strip("_")


def _text(value: Any) -> str:
    text = str(value).strip()
    is_missing = value is None or (not isinstance(value, str) and text in ("nan", "NaT", "<NA>"))
    return "" if is_missing else text


def _read_row(line: Mapping[Any, Any], ours: Mapping[str, str]) -> _Row:
    """Return a row; its work is one env step if only SPS or only the time is known."""
    if None in line:
        raise ValueError(line[None])
    texts = {name: _text(value) for name, value in line.items()}
    known = {each: _number(theirs, texts.get(theirs, "")) for each, theirs in ours.items()}
    for each in (RUNNERS, ENVS):
        if not known.setdefault(each, 1.0).is_integer():
            raise ValueError(f"{ours[each]} is {texts[ours[each]]!r}; allowed are whole numbers")
    scale = Scale(int(known[RUNNERS]), int(known[ENVS]))
    sps = known.get(SPS, NAN)
    env_steps = known.get(STEPS, sps * known[SECONDS] if {SPS, SECONDS} <= {*known} else 1.0)
    seconds = known.get(SECONDS, ratio(env_steps, sps))
    if not (env_steps > 0 and is_measurable(env_steps, seconds)):
        given = " and ".join(f"{ours[each]} is {texts[ours[each]]!r}" for each in (STEPS, SECONDS, SPS) if each in ours)
        raise ValueError(f"{given}; allowed are 1 to 1e15 env steps in 1e-9 to 1e9 s")
    return _Row(scale, env_steps, seconds, texts)


def _number(column: str, text: str) -> float:
    try:
        return float(re.sub(r"[^0-9.+-]", "", text) if _THOUSANDS.fullmatch(text) else text)
    except ValueError:
        raise ValueError(f"{column} is {text!r}, not a number") from None


# The other columns

_Roles = Mapping[str, Sequence[str]]
"""The other columns by what they are: those of `_NAMES`, `factor`, `label`, and `measured` for measurements that are not used."""


def _roles(rows: Sequence[_Row], columns: Sequence[str], pool: Collection[str]) -> _Roles:
    """Return what columns are, by their names and values."""
    settings = [column for column in columns if column.startswith("config/")] or columns  # a DataFrame of Tune
    scales = len({row.scale for row in rows})
    roles: dict[str, str] = {}
    for column in columns:
        values = [row.texts.get(column, "") for row in rows]
        named = [role for role, names in _NAMES.items() if _plain(column) in names]
        if column in pool or (named and (named[0] != "repetition" or all(map(_is_count, values)))):
            roles[column] = "repetition" if column in pool else named[0]
        elif column in settings and len({*values}) > 1:
            roles[column] = "measured" if _is_measured(column, values, scales) else "label"
    # Factors are first what identifies workloads, then what leaves most to compare.
    labels = [column for column, role in roles.items() if role == "label"]
    labels.sort(key=lambda column: (not _WORKLOAD.search(_plain(column)), -_comparisons(rows, [column])))
    factors: list[str] = []
    for column in labels:
        enough = _MIN_LEFT * _comparisons(rows, factors)
        if _WORKLOAD.search(_plain(column)) or _comparisons(rows, [*factors, column]) >= enough:
            factors.append(column)
            roles[column] = "factor"
    return {each: [column for column, role in roles.items() if role == each] for each in (*_NAMES, "factor", "label", "measured")}


def _is_count(text: str) -> bool:
    return text.removesuffix(".0").isdecimal()


def _is_measured(column: str, values: Sequence[str], scales: int) -> bool:
    """Return whether a column holds measurements, or an id for each row."""
    distinct = len({*values})
    numbers = [_THOUSANDS.fullmatch(value) or re.fullmatch(r"[+-]?[\d.]+(e[+-]?\d+)?", value, re.IGNORECASE) for value in values]
    is_fine = all(numbers) and any("." in value and not value.endswith(".0") for value in values) and distinct > len(values) / 2
    is_logged = column.startswith(_LOGGED) and "" in values
    is_id = distinct == len(values) and (all(numbers) or len(values) > 2 * scales)
    return bool(_MEASURED.search(_plain(column))) or is_logged or is_fine or is_id


def _comparisons(rows: Iterable[_Row], factors: Sequence[str]) -> int:
    """Return how many scales can be compared with another one within the same values of factors."""
    return sum(len({row.scale for row in group}) - 1 for group in grouped(rows, lambda row: row.of(factors)).values())


def _notes(ours: Mapping[str, str], roles: _Roles, grown: Sequence[str]) -> Iterator[str]:
    """Yield sentences on how the columns were read."""
    if renamed := [f"{each} is {theirs}" for each, theirs in ours.items() if each != theirs]:
        yield f"Columns: {', '.join(renamed)}."
    if grown:
        grow = "grow" if len(grown) > 1 else "grows"
        yield f"{' and '.join(grown)} only {grow}: lifetime counts, of which the increases count. First rows are left out."
    if SECONDS in ours and not {STEPS, SPS} & {*ours}:
        yield "Env steps are unknown: all rows are taken to have equally many, and SPS counts iterations."
    if roles["factor"]:
        factors = listed(roles["factor"], "or")
        yield f"Rows that differ in {factors} are not compared with each other; --pool NAME merges them on purpose."
    if roles["label"]:
        labels = listed(roles["label"], "or")
        yield f"Too few scales agree in {labels} to separate by it: it only separates rows of the same scale."
    if roles["measured"]:
        yield f"Taken for other measurements, and not used: {', '.join(roles['measured'])}."


# Runs and studies


def _separated(rows: Iterable[_Row], roles: _Roles) -> Iterator[tuple[dict[str, str], list[_Row]]]:
    """Yield the facts and rows of each study: a combination of factors, without rows of a scale that have other labels."""
    first: dict[tuple[Scale, tuple[str, ...]], tuple[str, ...]] = {}

    def key(row: _Row) -> tuple[str, ...]:
        factors, labels = row.of(roles["factor"]), row.of(roles["label"])
        return factors if first.setdefault((row.scale, factors), labels) == labels else (*factors, *labels)

    for values, its in grouped(rows, key).items():
        yield dict(zip((*roles["factor"], *roles["label"]), values, strict=False)), its


def _runs(rows: Iterable[_Row], roles: _Roles) -> dict[str, list[_Row]]:
    """Return the rows of each run by its name, in the order of their iterations."""
    runs = grouped(rows, lambda row: ", ".join(filter(None, (str(row.scale), *row.of(roles["repetition"])))))
    for run in runs.values():
        if roles["iteration"] and all(_is_count(row.of(roles["iteration"])[0]) for row in run):
            run.sort(key=lambda row: float(row.of(roles["iteration"])[0]))
    return runs


def _take_increases(runs: Sequence[list[_Row]], ours: Mapping[str, str]) -> list[str]:
    """Replace lifetime counts in the rows of runs by their increases; return the columns with such counts."""
    grown = {}
    if STEPS in ours and _only_grows([[row.env_steps for row in run] for run in runs]):
        grown["env_steps"] = ours[STEPS]
    is_total = SECONDS in ours and (grown or _TOTAL.search(_plain(ours[SECONDS])))
    if is_total and _only_grows([[row.seconds for row in run] for run in runs]):
        grown["seconds"] = ours[SECONDS]
    # What was derived from a throughput follows the increases.
    derived = ({"env_steps", "seconds"} - {*grown}) if SPS in ours else set()
    for run in runs if grown else ():
        for before, row in reversed([*pairwise(enumerate(run))]):
            (_, earlier), (place, later) = before, row
            increases = {of: getattr(later, of) - getattr(earlier, of) for of in grown}
            share = max(increases[of] / getattr(later, of) for of in grown)
            run[place] = later._replace(**increases, **{of: getattr(later, of) * share for of in derived})
        del run[:1]
    return [*grown.values()]


def _only_grows(runs: Iterable[Sequence[float]]) -> bool:
    several = [run for run in runs if len(run) > 1]
    grows = all(after > before for run in several for before, after in pairwise(run))
    enough = sum(len(run) - 1 for run in several) >= _MIN_GROWTHS
    return grows and enough and all(run[-1] >= _MIN_GROWTH * run[0] for run in several)


def _summary(name: str, rows: Sequence[_Row], ours: Mapping[str, str], rule: SteadyRule) -> Run:
    """Return a run without warm-up, and without figures that were assumed."""
    iterations = [Iteration(number, row.env_steps, row.seconds) for number, row in enumerate(rows, 1)]
    run = summarise(iterations, replace(rule, warmup_iterations=0), name=name, scale=rows[0].scale)
    if STEPS in ours or {SPS, SECONDS} <= {*ours}:
        return run
    seconds = run.steady.seconds if SECONDS in ours else NAN
    return replace(run, steady=replace(run.steady, env_steps=NAN, seconds=seconds), samples=())
