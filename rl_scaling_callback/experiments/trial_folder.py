"""Reads one trial of a Tune experiment from its folder: its results one by one, and its config."""

from __future__ import annotations

import ast
import csv
import io
import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from statistics import median_low
from typing import Any, BinaryIO, Final

import orjson

from rl_scaling_callback.analysis.runs import Iteration, Run
from rl_scaling_callback.core.formulas import NAN, ratio
from rl_scaling_callback.core.steady import SteadyRule, is_measurable
from rl_scaling_callback.core.text import counted
from rl_scaling_callback.experiments.studies import summarise
from rl_scaling_callback.rllib import configs, results
from rl_scaling_callback.rllib.configs import read_facts
from rl_scaling_callback.rllib.names import DEFAULT_SCALE, default_scale, is_rllib, number
from rl_scaling_callback.storage import ExperimentError, Location

PARAMS: Final = "params.json"
_ERRORS: Final = ("error.txt", "error.pkl")

_MAX_LINE: Final = 32 << 20
"""Maximum length of a result [bytes], to bound memory. PPO's have about 17 kB."""

_USED: Final = (
    *results.MEASURED_KEYS, "sps_per_cpu", "baseline_sps", "comparable", "exclusive", "cores/others", "steady/drift", "steady/sps",
    "steady/speedup", "baseline/error", "account/exact", *(f"tuned/{name}" for name in (*DEFAULT_SCALE, "learner_threads")),
)  # fmt: skip
"""The injected keys to read."""
_UNKNOWN: Final = dict.fromkeys(_USED, NAN)

_NUMBERS: Final = ("since_restore", "healthy", "cpu_utilisation", "ram_utilisation", "episode_return", "lifetime_steps")
"""The numbers of RLlib's result to keep of each iteration."""

_BREAK_S: Final = 5.0
"""A trial that logs nothing for longer than this in addition to an iteration may have been paused for others [s]."""

_SUSPICIOUS: Final = 50.0
"""Iterations longer than this many times the median get a note. They still count, since the cause is unknown."""

# Files

Results = Iterator[dict[str, Any] | None]
"""The results in a file, in order; None for each line that can't be read, except for an incomplete last one."""


def _read_lines(stream: BinaryIO) -> Results:
    is_whole = True
    while line := stream.readline(_MAX_LINE):
        is_rest, is_whole = not is_whole, line.endswith(b"\n")
        result = None
        if not is_rest and len(line) < _MAX_LINE:
            with suppress(ValueError, RecursionError):
                result = _loads(line)
        if isinstance(result, dict):
            yield result
        elif is_whole and (is_rest or line.strip()):
            yield None


def _loads(line: bytes) -> Any:
    with suppress(ValueError):
        return orjson.loads(line)
    # Tune writes NaN, which is not valid JSON. The json module accepts it, but is three times slower.
    with suppress(ValueError):
        return orjson.loads(line.replace(b'": NaN', b'": null'))
    return json.loads(line.decode("utf-8", "replace"))


def _read_rows(stream: BinaryIO) -> Results:
    """Yield the results in a `progress.csv`, nested as in a `result.json`."""
    rows = csv.DictReader(io.TextIOWrapper(stream, "utf-8-sig", "replace", newline=""))
    is_broken = False
    try:
        for row in rows:
            if is_broken:
                yield None
            is_broken = None in row or None in row.values()
            # Tune appends a second header when it restores some trials.
            if not is_broken and [*row] != [*row.values()]:
                yield _nested(row)
    except csv.Error:  # a field longer than 128 kB
        yield None


def _nested(cells: Mapping[str, str]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, text in cells.items():
        if text:
            *above, key = name.split("/")
            inner = result
            for each in above:
                deeper = inner.setdefault(each, {})
                inner = deeper if isinstance(deeper, dict) else {}
            inner[key] = _value(text)
    return result


def _value(text: str) -> Any:
    if text in ("True", "False"):
        return text == "True"
    for read in (int, float):
        with suppress(ValueError):
            return read(text)
    if text.startswith("{"):  # Ray 0.5 wrote whole dicts as Python literals.
        with suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return ast.literal_eval(text)
    return text


READERS: Final[Mapping[str, Callable[[BinaryIO], Results]]] = {"result.json": _read_lines, "progress.csv": _read_rows}
"""What reads each of the files with a trial's results, best first."""


def _read_params(folder: Location, files: Collection[str]) -> dict[str, Any]:
    with suppress(ExperimentError, ValueError, RecursionError):
        params = json.loads(folder.below(PARAMS).read()) if PARAMS in files else {}
        return configs.read_logged_config(params) if isinstance(params, dict) else {}
    return {}


# Trials


class RecordedTrial:
    """A trial of Tune, read result by result; once all are read, only what its study needs is kept.

    Attributes:
        name: its name for readers.
        run: its summary, unless it is left out.
        reason: why it is left out; "" if it isn't.
        facts: its workload without the hardware, which results lack.
        workload: id of its workload including the hardware, as recorded by its callback; "" if unknown.
        host: name of the Algorithm's host; "" if unknown.
        periods: begin and end of each period without a break [s since 1970]; empty if unknown.
        opening: host, process, begin and work, which only copies of a trial share; empty if unknown.
        unit_sps: the final baseline of its callback, per unit of parallelism [steps/s]; NaN if there was none.
        steps_vary: whether the env steps of iterations vary with the throughput.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.run: Run
        self.reason = ""
        self.facts: dict[str, Any] = {}
        self.periods: list[tuple[float, float]] = []
        self._damaged = 0
        self._iterations: list[Iteration] = []
        self._config: dict[str, Any] = {}
        self._logged: tuple[Any, ...] = ()
        self._process: object = None
        self._is_rllib = False
        self._change = ""  # why its first iterations don't count
        self._evaluation_is_known = True
        self._problem = ""
        self._last: Mapping[str, Any] = {}
        self._injected = _UNKNOWN

    @classmethod
    def read(cls, folder: Location, files: Collection[str], rule: SteadyRule, name: str) -> RecordedTrial:
        """Return the trial in a folder with these files. Its config is that of its results, otherwise that in its `params.json`.

        Raises:
            OSError: if the storage can't be reached.
        """
        trial = cls(name)
        for file in (each for each in READERS if each in files and not trial._iterations):
            trial._damaged = 0
            with folder.below(file).open() as stream:
                for result in READERS[file](stream):
                    trial._add(result)
        if trial._config.keys().isdisjoint(DEFAULT_SCALE):
            trial._config = {**_read_params(folder, files), **trial._config}
        trial._finish(folder.name, files, rule)
        return trial

    def _add(self, result: dict[str, Any] | None) -> None:
        """Add a result, None for a damaged line. If a restored trial repeats iterations, the later ones count."""
        injected = _UNKNOWN | results.read_injected(result or {}, _USED)
        try:
            self._configure((result or {}).get("config"), injected)
        except RecursionError:
            result = None
        if result is None:
            self._damaged += 1
            return
        iteration, seconds = results.read_number(result, "iteration"), number(result.get("time_this_iter_s"))
        number_now = int(iteration) if iteration >= 1 else len(self._iterations) + 1
        while self._iterations and self._iterations[-1].number >= number_now:
            self._iterations.pop()
        before = self._iterations[-1] if self._iterations and self._iterations[-1].number == number_now - 1 else None
        read = results.read_iteration(result, before.lifetime_steps if before else NAN, injected)
        self._add_period(results.read_number(result, "ended"), seconds)
        self._process = self._process or result.get("pid")
        self._is_rllib = self._is_rllib or is_rllib(result)
        self._problem = self._problem or read.problem
        self._evaluation_is_known = self._evaluation_is_known and read.evaluation_is_known
        self._iterations.append(
            Iteration(
                number_now,
                read.env_steps,
                read.seconds,
                read.parts,
                exclusive=injected["exclusive"],
                others=injected["cores/others"],
                learner_threads=injected["tuned/learner_threads"],
                vram_utilisation=results.read_vram_utilisation(result),
                **{name: results.read_number(result, name) for name in _NUMBERS},
                elapsed=(before.elapsed if before else number(result.get("time_total_s")) - seconds) + read.seconds,
            )
        )
        self._last, self._injected = result, injected

    def _configure(self, logged: object, injected: Mapping[str, float]) -> None:
        """Update the config; if the workload or scale changes, discard all earlier iterations. It may raise RecursionError."""
        chosen = {name: injected[f"tuned/{name}"] for name in DEFAULT_SCALE}  # by a trial that tunes itself
        tuned = {name: int(value) for name, value in chosen.items() if value >= 0}
        if not isinstance(logged, Mapping) or (logged, tuned) == self._logged:
            return
        config = {**configs.read_logged_config(logged), **tuned}
        if self._config and _work_of(config) != _work_of(self._config):
            self._iterations.clear()
            self._change = "it tuned itself" if tuned else "its config changed while it ran"
        self._logged, self._config = (logged, tuned), config

    def _add_period(self, ended: float, seconds: float) -> None:
        began = ended - seconds
        if not (self.periods and began <= self.periods[-1][1] + _BREAK_S):
            self.periods += [(began, ended)] if ended > 0 and seconds > 0 else []
        elif ended > self.periods[-1][1]:
            self.periods[-1] = self.periods[-1][0], ended

    def _finish(self, folder: str, files: Collection[str], rule: SteadyRule) -> None:
        """Summarise what was read, and forget the rest."""
        config, known, algorithm = self._config, self._injected, _algorithm(folder, self._config)
        found = self._summary(rule, algorithm, any(error in files for error in _ERRORS))
        if isinstance(found, Run):
            self.run, self.facts = found, {**read_facts(config), "algorithm": algorithm}
        else:
            self.reason = found
        self.workload = results.read_injected_text(self._last, "workload")
        self.host = str(self._last.get("hostname") or "")
        self.opening = (self.host, self._process, self.periods[0][0], *_work_of(config)) if self.periods else ()
        self.unit_sps = known["baseline_sps"] if known["comparable"] == 1 else NAN
        self.steps_vary = configs.iterations_are_timed(config)
        self._iterations, self._config, self._logged, self._last = [], {}, (), {}

    def _summary(self, rule: SteadyRule, algorithm: str | None, failed: bool) -> Run | str:
        """Return the summary of the iterations, or why there is none."""
        if not self._iterations:
            return self._why_nothing(failed)
        if not self._is_rllib and DEFAULT_SCALE.keys().isdisjoint(self._config):
            return "not a trial of RLlib: its results and config have none of RLlib's names"
        if not configs.samples_env(self._config):
            return "it learns from recorded data (offline): it samples no env steps, so there is no throughput"
        notes = [*self._notes(failed), *self._assume_missing(algorithm)]
        try:
            scale = configs.read_scale(self._config)
        except ValueError as error:
            nowhere = f"there is none in its results or in {PARAMS}"
            return f"its config has no valid scale: {error if self._config else nowhere}. Is it an RLlib trial?"
        known, learns_after = self._injected, configs.steps_before_learning(self._config)
        if self._change and known["tuned/num_env_runners"] >= 0:
            learns_after = 0.0  # it has learned before it tuned itself
        cpus = ratio(known["sps"], known["sps_per_cpu"])
        is_probed = results.read_injected_text(self._last, "baseline/source") == "probe"
        run = summarise(
            self._iterations,
            rule,
            learns_after=learns_after,
            name=self.name,
            scale=scale,
            cpus=configs.read_cpus(self._config) if math.isnan(cpus) else round(cpus, 6),
            baseline_sps=ratio(known["steady/sps"], known["steady/speedup"]) if is_probed else NAN,
            baseline_error=known["baseline/error"] if is_probed else NAN,
            threads_compared=known["tuned/num_env_runners"] >= 0,
        )
        steady = run.steady
        if steady.iterations == 0:
            return self._why_not_steady(rule.warmup_iterations, learns_after) + "; it ended with an error" * failed
        healthy = [each.healthy for each in self._iterations[rule.warmup_iterations :] if each.healthy < scale.num_env_runners]
        if len(healthy) > steady.iterations / 2:
            return (
                f"only {median_low(healthy):.0f} of its {scale.num_env_runners} env runners were healthy in most iterations: its "
                f"throughput is not that of {scale}. See Ray's logs for the cause"
            )
        if steady.parts and configs.is_asynchronous(self._config) and known["account/exact"] != 1:
            run = replace(run, steady=replace(steady, parts={**steady.parts, "sample": NAN}))  # env runners' waits are unknown
        batch = number(read_facts(self._config).get("train_batch_size"))
        fragments = scale.parallelism * number(self._config.get("rollout_fragment_length"))
        is_rounded = batch <= ratio(steady.env_steps, steady.iterations) <= batch + fragments
        return replace(run, batch=batch if is_rounded else NAN, notes=tuple(notes))

    def _why_nothing(self, failed: bool) -> str:
        if failed:
            return "it ended with an error before its first iteration was done; see error.txt in its folder"
        if self._damaged:
            return f"none of the {self._damaged} lines of its results can be read"
        return f"no iteration was reported: none is done yet, it was stopped before, or Tune did not log to {' or '.join(READERS)}"

    def _why_not_steady(self, warmup: int, learns_after: float) -> str:
        count = counted(len(self._iterations), "iteration")
        if learns_after and any(is_measurable(each.env_steps, each.seconds) for each in self._iterations):
            return f"{count}; learning starts after {learns_after:,.0f} env steps, and warm-up takes {warmup} iterations more"
        if len(self._iterations) > warmup:
            return f"{count}, none of which can be measured: {self._problem or 'no env steps were sampled after warm-up'}"
        since = f" since {self._change}" if self._change else ""
        return f"{count}{since}; warm-up takes {warmup}, so at least {warmup + 1} are needed"

    def _notes(self, failed: bool) -> Iterator[str]:
        # The error file remains if Tune retried the trial.
        if failed and self._last.get("done") is not True:
            yield f"ended with an error after {counted(len(self._iterations), 'iteration')}"
        if self._change:
            yield f"{self._change}: only iterations from {self._iterations[0].number} on count"
        if self._damaged:
            yield f"{counted(self._damaged, 'damaged line')} of its results left out"
        if configs.evaluates(self._config) and not self._evaluation_is_known:
            yield "its iterations include evaluation, whose time is unknown without the callback"
        seconds = [each.seconds for each in self._iterations if each.seconds > 0]
        if seconds and max(seconds) > _SUSPICIOUS * median_low(seconds):
            yield (
                f"one of its iterations took {max(seconds):,.0f} s, while {median_low(seconds):,.3g} s is typical: was the machine "
                "suspended or its clock changed?"
            )
        drift = self._injected["steady/drift"]
        if drift > 0 or drift < 0:
            yield f"its sampling cost per env step changed by {drift:+.0f} % while it ran, and so did its efficiency"
        if self._injected["comparable"] == 0:
            yield "its callback found no comparable baseline: workload, hardware or steps differ"

    def _assume_missing(self, algorithm: str | None) -> Iterator[str]:
        """Complete a config that lacks the scale, because it has only the user's settings or wasn't kept, and say so."""
        healthy = [int(each.healthy) for each in self._iterations if each.healthy > 0]
        assumed = default_scale(algorithm) if self._config or healthy else {}
        for name in [each for each in assumed if each not in self._config]:
            self._config[name], reason = assumed[name], f"RLlib's default at that time, {assumed[name]}, is assumed"
            if healthy and name == "num_env_runners":
                self._config[name] = median_low(healthy)
                reason = f"as many as were healthy, {median_low(healthy)}, are assumed"
            yield f"{name} is not in its config: {reason}"


def _work_of(config: Mapping[str, Any]) -> tuple[Any, ...]:
    return *(config.get(name) for name in DEFAULT_SCALE), read_facts(config)


def _algorithm(folder: str, config: Mapping[str, Any]) -> str | None:
    """Return the algorithm from Tune's default folder name, `PPO_CartPole-v1_4bb93_…`; None for other names."""
    env = config.get("env")
    if isinstance(env, str):
        # Tune writes the class name without its module, and replaces slashes.
        for written in (env.replace("/", "_"), env.rpartition(".")[2]):
            algorithm, found, _ = folder.partition(f"_{written}_")
            if found and algorithm:
                return algorithm
    return None
