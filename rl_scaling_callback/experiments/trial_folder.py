"""Reads one trial of a Tune experiment from its folder."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from statistics import median_low
from typing import Any, Final, NamedTuple

from rl_scaling_callback.analysis.runs import Iteration, LeftOut, Run
from rl_scaling_callback.core.attribution import LEARNER
from rl_scaling_callback.core.formulas import NAN, ratio
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import Steady, SteadyRule, is_measurable
from rl_scaling_callback.core.text import counted
from rl_scaling_callback.experiments.logs import READERS
from rl_scaling_callback.experiments.recording import summarise
from rl_scaling_callback.rllib.configs import (
    evaluates,
    is_asynchronous,
    iterations_are_timed,
    read_cpus,
    read_logged_config,
    read_scale,
    samples_env,
    steps_before_learning,
    steps_in_turn,
    total_gpus,
)
from rl_scaling_callback.rllib.facts import read_facts
from rl_scaling_callback.rllib.names import DEFAULT_SCALE, default_scale, is_rllib
from rl_scaling_callback.rllib.results import (
    MEASURED_KEYS,
    read_injected,
    read_injected_text,
    read_iteration,
    read_number,
    read_vram_utilisation,
)
from rl_scaling_callback.rllib.values import number
from rl_scaling_callback.storage import ExperimentError, Location

PARAMS: Final = "params.json"
_ERRORS: Final = ("error.txt", "error.pkl")

_USED: Final = (
    *MEASURED_KEYS, "sps_per_cpu", "baseline_sps", "comparable", "exclusive", "cores/others", "steady/drift", "steady/sps",
    "steady/speedup", "baseline/error", "account/exact",
)  # fmt: skip
"""The injected keys to read."""

_BREAK_S: Final = 5.0
"""A trial that logs nothing for longer than this in addition to an iteration may have been paused for others [s]."""

_SUSPICIOUS: Final = 50.0
"""Iterations longer than this many times the median get a note. They still count, since the cause is unknown."""


class TrialRead(NamedTuple):
    """A trial read from its folder.

    Attributes:
        run: its summary.
        facts: its workload without the hardware, which results lack.
        workload: id of its workload including the hardware, as recorded by its callback; "" if unknown.
        host: name of the Algorithm's host; "" if unknown.
        unit_sps: the final baseline of its callback, per unit of parallelism [steps/s]; NaN if there was none.
        gpus: GPUs that it requests in total.
        exclusive_phases: see `Study`, as for those that follow.
    """

    run: Run
    facts: Mapping[str, Any]
    workload: str
    host: str
    unit_sps: float
    gpus: float
    exclusive_phases: bool
    waits_are_known: bool
    steps_in_turn: bool
    timed_iterations: bool


class Presence(NamedTuple):
    """Where and when a trial ran.

    Attributes:
        host: name of the Algorithm's host; "" if unknown.
        spells: begin and end of each spell without a break [s since 1970]; empty if unknown.
        opening: process, scale and first iteration, which only copies of a trial share; empty if unknown.
    """

    host: str = ""
    spells: tuple[tuple[float, float], ...] = ()
    opening: tuple[Any, ...] = ()


def read_trial(
    folder: Location, files: Collection[str], rule: SteadyRule, name: str, stored: Callable[[], Mapping[str, Any]]
) -> tuple[TrialRead | LeftOut, Presence]:
    """Return the trial in a folder, or the reason why it is left out, and where and when it ran.

    Its config is that of its results, otherwise that in its `params.json`, otherwise the one that Tune stored.

    Args:
        folder: the trial's folder.
        files: names of the files in it.
        rule: the rule for warm-up and steady state.
        name: its name for readers.
        stored: returns its config as stored by Tune; empty if there is none.

    Raises:
        OSError: if the storage can't be reached.
    """
    failed = any(error in files for error in _ERRORS)
    log, logs = _Log(), [file for file in READERS if file in files]
    for file in logs:
        log.damaged = 0
        with folder.below(file).open() as stream:
            for result in READERS[file](stream):
                if result is None:
                    log.damaged += 1
                else:
                    log.add(result)
        if log.iterations:
            break
    if not log.iterations:
        return LeftOut(name, _why_nothing(bool(logs), failed, log.damaged)), Presence()
    for config in (partial(_params, folder, files), stored):
        if log.config.keys().isdisjoint(DEFAULT_SCALE):
            log.config = {**read_logged_config(config()), **log.config}
    return log.read(folder.name, name, rule, failed), log.presence


def _params(folder: Location, files: Collection[str]) -> Mapping[str, Any]:
    with suppress(ExperimentError, ValueError, RecursionError):
        params = json.loads(folder.below(PARAMS).read()) if PARAMS in files else {}
        repr(params)  # Raises RecursionError for configs nested too deeply for other code.
        return params if isinstance(params, dict) else {}
    return {}


def _why_nothing(has_results: bool, failed: bool, damaged: int) -> str:
    if failed:
        return "it ended with an error before its first iteration was done; see error.txt in its folder"
    if damaged:
        return f"none of the {damaged} lines of its results can be read"
    if has_results:
        return "no iteration was reported: it has not completed one yet, or was stopped before"
    return "there is no result.json or progress.csv in its folder: it has not started, or Tune's loggers are disabled"


class _Log:
    """Collects a few numbers of each result of a trial."""

    def __init__(self) -> None:
        self.iterations: list[Iteration] = []
        self.config: dict[str, Any] = {}
        self.damaged = 0
        self._logged: object = None
        self._tuned: Mapping[str, int] = {}
        self._is_rllib = False
        self._has_changed = False
        self._spells: list[tuple[float, float]] = []
        self._opening: tuple[Any, ...] = ()
        self._evaluation_is_known = True
        self._problem = ""
        # Of the last result:
        self._host = ""
        self._is_done = False
        self._scaling: dict[str, float] = {}
        self._workload_id = ""
        self._is_probed = False

    def add(self, result: Mapping[str, Any]) -> None:
        """Add a result. If a restored trial repeats iterations, the later ones count."""
        self._configure(result.get("config"), _tuned_scale(result))
        iteration, seconds = read_number(result, "iteration"), number(result.get("time_this_iter_s"))
        number_now = int(iteration) if iteration >= 1 else len(self.iterations) + 1
        while self.iterations and self.iterations[-1].number >= number_now:
            self.iterations.pop()
        before = self.iterations[-1] if self.iterations and self.iterations[-1].number == number_now - 1 else None
        scaling = read_injected(result, _USED)
        read = read_iteration(result, before.lifetime_steps if before else NAN, scaling)
        ended = read_number(result, "ended")
        self._add_spell(ended, seconds)
        self._opening = self._opening or (result.get("pid"), ended, read.seconds, read.env_steps)
        self._is_rllib = self._is_rllib or is_rllib(result)
        self._problem = self._problem or read.problem
        self._evaluation_is_known = self._evaluation_is_known and read.evaluation_is_known
        self.iterations.append(
            Iteration(
                number_now,
                read.env_steps,
                read.seconds,
                read.parts,
                since_restore=read_number(result, "since_restore"),
                exclusive=scaling.get("exclusive", NAN),
                others=scaling.get("cores/others", NAN),
                healthy=read_number(result, "healthy"),
                cpu_utilisation=read_number(result, "cpu_utilisation"),
                ram_utilisation=read_number(result, "ram_utilisation"),
                vram_utilisation=read_vram_utilisation(result),
                episode_return=read_number(result, "episode_return"),
                lifetime_steps=read_number(result, "lifetime_steps"),
                elapsed=(before.elapsed if before else number(result.get("time_total_s")) - seconds) + read.seconds,
            )
        )
        self._host = str(result.get("hostname") or "")
        self._is_done = result.get("done") is True
        self._scaling = scaling
        self._workload_id = read_injected_text(result, "workload")
        self._is_probed = read_injected_text(result, "baseline/source") == "probe"

    def _configure(self, logged: object, tuned: Mapping[str, int]) -> None:
        """Update the logged config; if the workload or scale changes, discard all earlier iterations.

        Args:
            logged: the config as logged.
            tuned: the scale that the trial has chosen itself, as config; empty if it hasn't.
        """
        if (logged is self._logged and tuned == self._tuned) or not isinstance(logged, Mapping):
            return
        config = {**read_logged_config(logged), **tuned}
        if self.config and _work_of(config) != _work_of(self.config):
            self.iterations.clear()
            self._has_changed = True
        self._logged, self._tuned, self.config = logged, tuned, config

    def _add_spell(self, ended: float, seconds: float) -> None:
        began = ended - seconds
        if not (self._spells and began <= self._spells[-1][1] + _BREAK_S):
            self._spells += [(began, ended)] if ended > 0 and seconds > 0 else []
        elif ended > self._spells[-1][1]:
            self._spells[-1] = self._spells[-1][0], ended

    @property
    def presence(self) -> Presence:
        """Where and when it ran."""
        scale = tuple(self.config.get(name) for name in DEFAULT_SCALE)
        return Presence(self._host, tuple(self._spells), (scale, *self._opening) if self._spells else ())

    def read(self, folder: str, name: str, rule: SteadyRule, failed: bool) -> TrialRead | LeftOut:
        """Return the trial, or the reason why it is left out."""
        algorithm = _algorithm(folder, self.config)
        notes = list(self._notes(failed))
        if not self._is_rllib and DEFAULT_SCALE.keys().isdisjoint(self.config):
            return LeftOut(name, "not a trial of RLlib: its results and config have none of RLlib's names")
        if not samples_env(self.config):
            return LeftOut(name, "it learns from recorded data (offline): it samples no env steps, so there is no throughput")
        notes += self._assume_missing(algorithm)
        try:
            scale = read_scale(self.config)
        except ValueError as error:
            nowhere = f"there is none in its results, in {PARAMS} or in Tune's state of the experiment"
            return LeftOut(name, f"its config has no valid scale: {error if self.config else nowhere}. Is it an RLlib trial?")
        facts, known = read_facts(self.config), self._scaling.get
        cpus = ratio(known("sps", NAN), known("sps_per_cpu", NAN))
        run = summarise(
            self.iterations,
            rule,
            learns_after=steps_before_learning(self.config),
            name=name,
            scale=scale,
            cpus=read_cpus(self.config) if math.isnan(cpus) else round(cpus, 6),
            baseline_sps=ratio(known("steady/sps", NAN), known("steady/speedup", NAN)) if self._is_probed else NAN,
            baseline_error=known("baseline/error", NAN) if self._is_probed else NAN,
        )
        steady = run.steady
        if steady.iterations == 0:
            return self._not_steady(name, rule, failed)
        healthy = [each.healthy for each in self.iterations[rule.warmup_iterations :] if each.healthy < scale.num_env_runners]
        if len(healthy) > steady.iterations / 2:
            return LeftOut(
                name,
                f"only {median_low(healthy):.0f} of its {scale.num_env_runners} env runners were healthy in most iterations: its "
                f"throughput is not that of {scale}. See Ray's logs for the cause",
            )
        batch = number(facts.get("train_batch_size"))
        fragments = scale.parallelism * number(self.config.get("rollout_fragment_length"))
        is_rounded = batch <= ratio(steady.env_steps, steady.iterations) <= batch + fragments
        return TrialRead(
            run=replace(run, batch=batch if is_rounded else NAN, notes=(*notes, *_limits(steady))),
            facts={**facts, "algorithm": algorithm},
            workload=self._workload_id,
            host=self._host,
            unit_sps=known("baseline_sps", NAN) if known("comparable") == 1 else NAN,
            gpus=total_gpus(self.config),
            exclusive_phases=not is_asynchronous(self.config),
            waits_are_known=is_asynchronous(self.config) and known("account/exact") == 1,
            steps_in_turn=steps_in_turn(self.config),
            timed_iterations=iterations_are_timed(self.config),
        )

    def _notes(self, failed: bool) -> Iterator[str]:
        # The error file remains if Tune retried the trial.
        if failed and not self._is_done:
            yield f"ended with an error after {counted(len(self.iterations), 'iteration')}"
        if self._has_changed:
            yield f"its config changed while it ran: only iterations from {self.iterations[0].number} on count"
        if self.damaged:
            yield f"{counted(self.damaged, 'damaged line')} of its results left out"
        if evaluates(self.config) and not self._evaluation_is_known:
            yield "its iterations include evaluation, whose time is unknown without the callback"
        seconds = [each.seconds for each in self.iterations if each.seconds > 0]
        if seconds and max(seconds) > _SUSPICIOUS * median_low(seconds):
            yield (
                f"one of its iterations took {max(seconds):,.0f} s, while {median_low(seconds):,.3g} s is typical: was the machine "
                "suspended or its clock changed?"
            )
        drift = self._scaling.get("steady/drift", NAN)
        if drift > 0 or drift < 0:
            yield f"its sampling cost per env step changed by {drift:+.0f} % while it ran, and so did its efficiency"
        if self._scaling.get("comparable") == 0:
            yield "its callback found no comparable baseline: workload, hardware or steps differ"

    def _assume_missing(self, algorithm: str | None) -> list[str]:
        """Complete a config that lacks the scale, because it has only the user's settings or wasn't kept, and say so."""
        runners, _ = DEFAULT_SCALE
        healthy = [int(each.healthy) for each in self.iterations if each.healthy > 0]
        assumed = default_scale(algorithm) if self.config or healthy else {}
        missing = {name: value for name, value in assumed.items() if name not in self.config}
        notes = {name: f"RLlib's default at that time, {value}, is assumed" for name, value in missing.items()}
        if healthy and runners in missing:
            missing[runners] = median_low(healthy)
            notes[runners] = f"as many as were healthy, {missing[runners]}, are assumed"
        self.config.update(missing)
        return [f"{name} is not in its config: {note}" for name, note in notes.items()]

    def _not_steady(self, name: str, rule: SteadyRule, failed: bool) -> LeftOut:
        count, warmup = len(self.iterations), rule.warmup_iterations
        learns_after = steps_before_learning(self.config)
        if learns_after and any(is_measurable(each.env_steps, each.seconds) for each in self.iterations):
            reason = f"; learning starts after {learns_after:,.0f} env steps, and warm-up takes {warmup} iterations more"
        elif count > warmup:
            reason = f", none of which can be measured: {self._problem or 'no env steps were sampled after warm-up'}"
        else:
            reason = f"; warm-up takes {warmup}, so at least {warmup + 1} are needed"
        return LeftOut(name, f"{counted(count, 'iteration')}{reason}{'; it ended with an error' * failed}")


def _limits(steady: Steady) -> Iterator[str]:
    """Yield whether sampling or learning limits a trial in which they overlap, and at which throughput; nothing if unknown.

    The learner could process more env steps while it is idle, and env runners could sample more while they wait for it.
    """
    busy, waited = steady.parts.get(LEARNER, NAN), steady.parts.get("learn", NAN)
    learner, sampling = ratio(steady.env_steps, busy), ratio(steady.env_steps, steady.seconds - waited)
    if learner > 0 and sampling > 0:
        yield (
            f"{'the learner limits' if learner < sampling else 'sampling limits'}: the learner can process {learner:,.0f} steps/s "
            f"(busy {min(1.0, busy / steady.seconds):.0%} of the time), the env runners can sample {sampling:,.0f}"
        )


def _work_of(config: Mapping[str, Any]) -> tuple[Scale, dict[str, Any]] | None:
    try:
        return read_scale(config), read_facts(config)
    except ValueError:
        return None


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


def _tuned_scale(result: Mapping[str, Any]) -> dict[str, int]:
    tuned = read_injected(result, [f"tuned/{name}" for name in DEFAULT_SCALE])
    return {name.partition("/")[2]: int(value) for name, value in tuned.items() if value >= 0}
