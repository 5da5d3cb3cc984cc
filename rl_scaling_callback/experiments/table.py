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
from rl_scaling_callback.experiments.logs import loads
from rl_scaling_callback.experiments.recording import summarise
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
        "time_total_s",
    ),
    "sps": (
        "env_steps_per_second", "env_steps_per_sec", "steps_per_second", "steps_per_sec", "steps_s", "fps", "frames_per_second",
        "frames_per_sec", "samples_per_second", "samples_per_sec", "throughput",
    ),
}  # fmt: skip
"""Our columns, with the names that people give them, those to prefer first. Case and what precedes a slash don't matter."""

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
_DECIMAL_COMMA: Final = re.compile(r"(?<![\d,])\d+,(\d{1,2}|\d{4,})(?![\d,])")
"""A number whose comma can't separate thousands."""
_TOTAL: Final = re.compile(r"total|elapsed|wall|since")
_WORKLOAD: Final = re.compile(r"(^|_)(env|environment|task|game|algo(rithm)?|method|model|machine|host(name)?|node)(_|$)")
"""Names of columns that are never mere labels of a scale."""
_MIN_GROWTH, _MIN_GROWTHS = 1.25, 3
"""A column is taken for a lifetime count if it grows in every row: by this factor in each run, and so often in all of them."""
_MIN_LEFT: Final = 0.5
"""A column that leaves less than this share of the comparisons between scales is a label."""
_MAX_IN_TITLE: Final = 3
_MAX_NAMED: Final = 20

_SCALE: Final = "a column for the scale (num_env_runners or num_envs_per_env_runner; one that is missing counts as 1)"
_SPEED: Final = "one for the speed (sps; or time_this_iter_s, with env_steps unless all rows have equally many)"
_WANTED: Final = (
    f"Needed are {_SCALE} and {_SPEED}, with one row per iteration or configuration. Usual names such as num_workers, n_envs, "
    "seconds and fps are known; for others say which is which: --column sps=NAME, or columns={'sps': 'NAME'} in Python."
)


class _Row(NamedTuple):
    """A readable row: its scale and work, and the texts in its other columns."""

    scale: Scale
    env_steps: float
    seconds: float
    texts: Mapping[str, str]


def read_table(
    source: Location | Any, *, rule: SteadyRule, columns: Mapping[str, str] | None = None, pool: Collection[str] = ()
) -> Experiment:
    """Return the experiment in a table.

    Rows that differ in measurements only are the iterations of one run. All of them count, except for those that a column marks as
    warm-up. Where only throughputs or only times are given, all rows are assumed to have equally many env steps.
    For the arguments see `read_experiment`.

    Raises:
        ExperimentError: if a column is missing, no row can be read, or the file is too large.
        OSError: if the file can't be read.
    """
    text, name = (source.text, source.name) if isinstance(source, Location) else ("the DataFrame", "DataFrame")
    try:
        lines = list(_lines(source) if isinstance(source, Location) else _rows_of(source))
        left_out = [LeftOut(f"{name}, line {number}", line) for number, line in lines if isinstance(line, str)]
        if len(left_out) == len(lines) > 0:
            raise ValueError(left_out[0].reason)
    except (ValueError, csv.Error, RecursionError) as error:
        raise ExperimentError(f"{text} is not a table in CSV, TSV or JSON lines in UTF-8 ({error}). {_WANTED}") from None
    cells = [(number, line) for number, line in lines if not isinstance(line, str)]
    header = [*dict.fromkeys(column for _, row in cells for column in row if column is not None)]
    ours = _ours(text, header, columns or {}, pool)
    rows: list[_Row] = []
    for number, row in cells:
        if any(map(_text, row.values())):
            try:
                rows.append(_read_row(row, ours))
            except ValueError as error:
                left_out.append(LeftOut(f"{name}, line {number}", str(error)))
    if not rows:
        reason = f"no row can be read ({left_out[0].reason})" if left_out else "it has no rows"
        raise ExperimentError(f"{text}: {reason}. {_WANTED}")
    roles = _Roles.of(rows, [column for column in header if column not in ours.values()], pool)
    runs, notes = _runs([row for row in rows if not roles.is_warmup(row)] or rows, roles), []
    if renamed := [f"{each} is {theirs}" for each, theirs in ours.items() if each != theirs]:
        notes.append(f"Columns: {', '.join(renamed)}.")
    runs, grown = _of_iterations(runs, ours)
    if grown:
        notes.append(f"{' and '.join(grown)} only grow: lifetime counts, of which the increases count. First rows are left out.")
    if SECONDS in ours and not {STEPS, SPS} & {*ours}:
        notes.append("Env steps are unknown: all rows are taken to have equally many, and SPS counts iterations.")
    studies = _studies(posixpath.splitext(name)[0], runs, roles, ours, replace(rule, warmup_iterations=0))
    return Experiment(text, studies, tuple(left_out), (*notes, *roles.notes()))


# Files


def _lines(file: Location) -> Iterator[tuple[int, Mapping[str, Any] | str]]:
    """Yield the number of each line and its cells by column, or why it can't be read."""
    text = file.read().decode("utf-8-sig")  # Spreadsheets write a byte order mark.
    start = text.lstrip()[:1]
    if start == "[":
        yield from enumerate(map(_flat, json.loads(text)), 1)
    elif start == "{":
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                try:
                    yield number, _flat(loads(line.encode()))
                except (ValueError, RecursionError) as error:
                    yield number, f"it is not a JSON object: {error}"
    else:
        delimiter = max(",;\t|", key=text.partition("\n")[0].count)
        if delimiter != "," and _DECIMAL_COMMA.search(text):
            text = re.sub(r"(?<=\d),(?=\d)", ".", text)
        rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
        rows.fieldnames = names = [name.strip() for name in rows.fieldnames or ()]
        if twice := [name for name in dict.fromkeys(names) if name and names.count(name) > 1]:
            raise ValueError(f"it has {', '.join(twice)} twice")
        yield 1, dict.fromkeys(names)
        yield from ((rows.line_num, row) for row in rows)


def _rows_of(frame: Any) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the number of each row of a DataFrame and its cells by column, including those of a named index."""
    frame = frame.reset_index() if any(name is not None for name in frame.index.names) else frame
    names = ["/".join(map(str, name)) if isinstance(name, tuple) else str(name) for name in frame.columns]
    yield from enumerate((dict(zip(names, row, strict=True)) for row in frame.itertuples(index=False)), 1)


def _flat(cells: Any) -> dict[str, Any]:
    """Return the cells of a row of JSON, with those of inner objects as `outer/inner`."""
    if not isinstance(cells, dict):
        raise ValueError(f"{str(cells)[:20]!r} is not an object")
    flat: dict[str, Any] = {}
    for name, value in cells.items():
        inner = _flat(value) if isinstance(value, dict) else None
        flat.update({name: value} if inner is None else {f"{name}/{key}": each for key, each in inner.items()})
    return flat


# Our columns


def _ours(text: str, header: Sequence[str], given: Mapping[str, str], pool: Collection[str]) -> dict[str, str]:
    """Return the column of the table for each of ours that it has."""
    unknown = [each for each in given if each not in COLUMNS]
    absent = [each for each in (*given.values(), *pool) if each not in header]
    if unknown or absent:
        what = f"{unknown[0]} is not one of ours ({', '.join(COLUMNS)})" if unknown else f"there is no column {absent[0]}"
        raise ExperimentError(f"{text}: {what}; its columns are {_named(header)}")
    free = [column for column in sorted(header, key=lambda column: column.count("/")) if column not in {*given.values(), *pool}]
    plain = {_plain(column): column for column in reversed(free)}
    ours = {}
    for each, others in COLUMNS.items():
        column = given.get(each) or next((plain[name] for name in (each, *others) if name in plain), None)
        if column is not None:
            ours[each] = column
    lacking = [] if {RUNNERS, ENVS} & {*ours} else ["a column for the scale"]
    lacking += [] if {SPS, SECONDS} & {*ours} else ["one for the speed" if lacking else "a column for the speed"]
    if lacking:
        columns = f"its columns are {_named(header)}" if header else "it is empty"
        raise ExperimentError(f"{text} lacks {listed(lacking)}; {columns}. {_WANTED}")
    if {STEPS, SECONDS} <= {*ours}:
        ours.pop(SPS, None)  # redundant
    return ours


def _named(header: Sequence[str]) -> str:
    further = [f"{len(header) - _MAX_NAMED} more"] if len(header) > _MAX_NAMED else []
    return listed([*header[:_MAX_NAMED], *further])


def _plain(column: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", column.rpartition("/")[2].lower().replace("#", "num_")).strip("_")


def _read_row(row: Mapping[str, Any], ours: Mapping[str, str]) -> _Row:
    """Return a row; its work is one env step if only SPS or only the time is known."""
    if None in row:
        raise ValueError("it has more fields than the header. Quote numbers with thousands separators")
    runners, envs = (_count(row, ours[each]) if each in ours else 1 for each in (RUNNERS, ENVS))
    scale = Scale(runners, envs)
    known = {each: _number(row, ours[each]) for each in (STEPS, SECONDS, SPS) if each in ours}
    sps = known.get(SPS, NAN)
    env_steps = known.get(STEPS, sps * known[SECONDS] if {SPS, SECONDS} <= {*known} else 1.0)
    seconds = known.get(SECONDS, ratio(env_steps, sps))
    if not (env_steps > 0 and is_measurable(env_steps, seconds)):
        given = " and ".join(f"{ours[each]} is {row[ours[each]]!r}" for each in known)
        raise ValueError(f"{given}; allowed are 1 to 1e15 env steps in 1e-9 to 1e9 s")
    return _Row(scale, env_steps, seconds, {name: _text(value) for name, value in row.items() if name not in ours.values()})


def _number(row: Mapping[str, Any], column: str) -> float:
    value = row.get(column)
    if isinstance(value, str) and _THOUSANDS.fullmatch(value.strip()):
        value = re.sub(r"[^0-9.+-]", "", value)
    try:
        return float(value)  # type: ignore[arg-type]  # None if the row is too short
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{column} is {value!r}, not a number") from None


def _count(row: Mapping[str, Any], column: str) -> int:
    number = _number(row, column)
    if not number.is_integer():
        raise ValueError(f"{column} is {row[column]!r}; allowed are whole numbers")
    return int(number)


def _text(value: Any) -> str:
    return "" if value is None or value != value else str(value).strip()


# The other columns


class _Roles(NamedTuple):
    """What the columns that are not ours are."""

    factors: tuple[str, ...]  # make studies
    labels: tuple[str, ...]  # name the configurations
    repetitions: tuple[str, ...]  # repeats may differ in them
    iterations: tuple[str, ...]  # number the iterations
    warmups: tuple[str, ...]  # mark rows as warm-up
    measured: tuple[str, ...]  # other measurements, which are not used

    @classmethod
    def of(cls, rows: Sequence[_Row], columns: Sequence[str], pool: Collection[str]) -> _Roles:
        """Return the roles of columns, by their names and values."""
        settings = [column for column in columns if column.startswith("config/")] or columns  # a DataFrame of Tune
        values = {column: [row.texts.get(column, "") for row in rows] for column in columns}
        warmups = tuple(column for column in columns if _plain(column) in _WARMUPS)
        iterations = tuple(column for column in columns if _plain(column) in _ITERATIONS)
        numbered = [column for column in columns if _plain(column) in _REPETITIONS and all(map(_is_count, values[column]))]
        scales = len({row.scale for row in rows})
        known = {*warmups, *iterations, *numbered, *pool}
        unknown = [each for each in settings if each not in known and len({*values[each]}) > 1]
        measured = tuple(each for each in unknown if _is_measured(each, values[each], scales))
        unknown = [each for each in unknown if each not in measured]
        # First what identifies workloads, then what leaves most to compare.
        unknown.sort(key=lambda column: (not _WORKLOAD.search(_plain(column)), -_comparisons(rows, [column])))
        factors: list[str] = []
        for column in unknown:
            enough = _MIN_LEFT * _comparisons(rows, factors)
            if _WORKLOAD.search(_plain(column)) or _comparisons(rows, [*factors, column]) >= enough:
                factors.append(column)
        factors = [column for column in settings if column in factors]
        labels = [column for column in settings if column in unknown and column not in factors]
        return cls(tuple(factors), tuple(labels), (*numbered, *pool), iterations, warmups, measured)

    def is_warmup(self, row: _Row) -> bool:
        """Whether a row is marked as warm-up."""
        return any(row.texts.get(column, "").lower() in ("true", "1", "1.0", "yes") for column in self.warmups)

    def notes(self) -> Iterator[str]:
        """Yield sentences on what tells studies apart."""
        if self.factors:
            factors = listed(self.factors, "or")
            yield f"Rows that differ in {factors} are not compared with each other; --pool NAME merges them on purpose."
        if self.labels:
            labels = listed(self.labels, "or")
            yield f"Too few scales agree in {labels} to separate by it: it only separates rows of the same scale."
        if self.measured:
            yield f"Taken for other measurements, and not used: {', '.join(self.measured)}."


def _is_count(text: str) -> bool:
    return text.removesuffix(".0").isdecimal()


def _is_measured(column: str, values: Sequence[str], scales: int) -> bool:
    """Return whether a column holds measurements, or an id for each row."""
    distinct = len({*values})
    numbers = [_THOUSANDS.fullmatch(value) or re.fullmatch(r"[+-]?[\d.]+(e[+-]?\d+)?", value, re.IGNORECASE) for value in values]
    is_fine = all(numbers) and any("." in value and not value.endswith(".0") for value in values) and distinct > len(values) / 2
    is_id = distinct == len(values) and (all(numbers) or len(values) > 2 * scales)
    return bool(_MEASURED.search(_plain(column))) or is_fine or is_id


def _comparisons(rows: Iterable[_Row], factors: Sequence[str]) -> int:
    """Return how many scales can be compared with another one within the same values of factors."""
    groups: dict[tuple[str, ...], set[Scale]] = {}
    for row in rows:
        groups.setdefault(_key(row, factors), set()).add(row.scale)
    return sum(len(scales) - 1 for scales in groups.values())


def _key(row: _Row, columns: Iterable[str]) -> tuple[str, ...]:
    return tuple(row.texts.get(column, "") for column in columns)


# Runs and studies


class _RunKey(NamedTuple):
    factors: tuple[str, ...]
    labels: tuple[str, ...]
    repetition: tuple[str, ...]
    scale: Scale


_Runs = dict[_RunKey, list[_Row]]


def _runs(rows: Iterable[_Row], roles: _Roles) -> _Runs:
    """Return the rows of each run, in the order of their iterations."""
    runs: _Runs = {}
    for row in rows:
        key = _RunKey(_key(row, roles.factors), _key(row, roles.labels), _key(row, roles.repetitions), row.scale)
        runs.setdefault(key, []).append(row)
    for run in runs.values():
        if roles.iterations and all(_is_count(row.texts[roles.iterations[0]]) for row in run):
            run.sort(key=lambda row: float(row.texts[roles.iterations[0]]))
    return runs


def _of_iterations(runs: _Runs, ours: Mapping[str, str]) -> tuple[_Runs, list[str]]:
    """Return the runs with the steps and seconds of each iteration, and the columns that were lifetime counts."""
    steps = STEPS in ours and _only_grows([[row.env_steps for row in run] for run in runs.values()])
    is_total = steps or bool(_TOTAL.search(_plain(ours.get(SECONDS, ""))))
    seconds = SECONDS in ours and is_total and _only_grows([[row.seconds for row in run] for run in runs.values()])
    if not (steps or seconds):
        return runs, []

    def increase(before: _Row, row: _Row) -> _Row:
        return row._replace(
            env_steps=row.env_steps - before.env_steps if steps else row.env_steps,
            seconds=row.seconds - before.seconds if seconds else row.seconds,
        )

    increased = {key: [increase(*pair) for pair in pairwise(run)] for key, run in runs.items() if len(run) > 1}
    return increased, [ours[each] for each, grows in ((STEPS, steps), (SECONDS, seconds)) if grows]


def _only_grows(runs: Iterable[Sequence[float]]) -> bool:
    several = [run for run in runs if len(run) > 1]
    grows = all(after > before for run in several for before, after in pairwise(run))
    enough = sum(len(run) - 1 for run in several) >= _MIN_GROWTHS
    return grows and enough and all(run[-1] >= _MIN_GROWTH * run[0] for run in several)


def _studies(title: str, runs: _Runs, roles: _Roles, ours: Mapping[str, str], rule: SteadyRule) -> tuple[Study, ...]:
    """Return a study for each combination of factors, the one with the most scales first."""
    first: dict[tuple[tuple[str, ...], Scale], tuple[str, ...]] = {}
    groups: dict[tuple[tuple[str, ...], tuple[str, ...]], list[Run]] = {}
    for key, rows in runs.items():
        is_first = first.setdefault((key.factors, key.scale), key.labels) == key.labels
        iterations = [Iteration(number, row.env_steps, row.seconds) for number, row in enumerate(rows, 1)]
        name = ", ".join(filter(None, (str(key.scale), *key.repetition)))
        run = summarise(iterations, rule, name=name, scale=key.scale)
        groups.setdefault((key.factors, () if is_first else key.labels), []).append(_known(run, ours))
    largest = sorted(groups.items(), key=lambda group: -len({run.scale for run in group[1]}))
    studies = []
    for (factors, labels), members in largest:
        # With many factors, only what differs from the largest study.
        usual = largest[0][0][0] if len(factors) > _MAX_IN_TITLE and factors != largest[0][0][0] else (None,) * len(factors)
        facts = {**dict(zip(roles.factors, factors, strict=True)), **dict(zip(roles.labels, labels, strict=False))}
        shown = [name for name, value, most in zip(roles.factors, factors, usual, strict=True) if value != most]
        shown += roles.labels[: len(labels)]
        differs = ", ".join(f"{name}: {facts[name] or 'none'}" for name in shown)
        studies.append(Study(f"{title} ({differs})" if differs else title, tuple(members), facts=facts))
    return tuple(studies)


def _known(run: Run, ours: Mapping[str, str]) -> Run:
    """Return the run without figures that were assumed."""
    if STEPS in ours or {SPS, SECONDS} <= {*ours}:
        return run
    seconds = run.steady.seconds if SECONDS in ours else NAN
    return replace(run, steady=replace(run.steady, env_steps=NAN, seconds=seconds), samples=())
