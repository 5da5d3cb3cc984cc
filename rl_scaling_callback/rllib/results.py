"""Reads RLlib results of either API stack, with or without the callback's keys."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from rl_scaling_callback.core import schema
from rl_scaling_callback.core.attribution import LEARNER, PHASES, RECORDED
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.rllib.names import LIFETIME_STEPS, RETURNS, STEPS, found
from rl_scaling_callback.rllib.values import mapping, number


class Reading(NamedTuple):
    """The measurements in a result.

    Attributes:
        env_steps: env steps sampled in this iteration; 0 if there were none, NaN if the result lacks them.
        seconds: `time_this_iter_s`; NaN if it is missing or not above 0. `read_measured` excludes evaluation if its time is known,
            and returns NaN if the callback found the duration implausible, because the clock jumped or the machine was suspended.
        problem: why a value is NaN, and what to do; "" if everything could be read.
        lifetime: env steps of the whole trial if the result counts only those; otherwise NaN.
        parts: seconds of each of `INJECTED_PARTS`; None if not measured or not read.
        evaluation_is_known: whether the time of evaluation is known.
    """

    env_steps: float
    seconds: float
    problem: str = ""
    lifetime: float = NAN
    parts: tuple[float, ...] | None = None
    evaluation_is_known: bool = False


def read_iteration(result: Mapping[str, Any], lifetime_before: float = NAN) -> Reading:
    """Return the env steps and seconds of the iteration that `result` describes, from any release of RLlib.

    On the old API stack the top-level `num_env_steps_sampled` counts the trial's lifetime, and `num_env_steps_sampled_this_iter`
    this iteration. On the new stack this iteration's count is in `env_runners`. For other names see `names`.

    Args:
        result: RLlib's result.
        lifetime_before: `lifetime` of the previous iteration; NaN if unknown.
    """
    env_steps, problem, lifetime = _read_env_steps(result, lifetime_before)
    seconds = number(result.get("time_this_iter_s"))
    if not seconds > 0:
        problem = problem or (
            f"time_this_iter_s is {result.get('time_this_iter_s')!r}, not a time above 0 (did the clock jump?): "
            "this iteration's SPS stays NaN"
        )
        seconds = NAN
    return Reading(env_steps, seconds, problem, lifetime)


def _read_env_steps(result: Mapping[str, Any], before: float) -> tuple[float, str, float]:
    """Return the env steps of the iteration, why they are NaN, and the lifetime count if there is only that."""
    this_iteration, _ = STEPS
    if this_iteration in result:
        return *_count(this_iteration, result[this_iteration]), NAN
    runners = result.get("env_runners")
    if isinstance(runners, (dict, Mapping)) and "num_env_steps_sampled" not in result:  # see `mapping`
        # An asynchronous algorithm may finish an iteration before the first sample has arrived.
        return *_count("env_runners/num_env_steps_sampled", runners.get("num_env_steps_sampled", 0)), NAN
    # Several releases log a count of 0 that is never set. Next to a count of env steps, it may be that of the agents.
    for name in STEPS if "num_env_steps_sampled" not in result else ():
        if number(result.get(name)) > 0:
            return number(result[name]), "", NAN
    for value in found(result, LIFETIME_STEPS):
        # Without a count of the iteration (also on the old stack with count_steps_by="agent_steps"), take the increase.
        if number(value) > 0 or "num_env_steps_sampled" in result:
            return _growth(result, number(value), before)
    return NAN, "the result has no env_runners: this algorithm samples no env steps (offline?), so there is no SPS", NAN


def _count(name: str, value: Any) -> tuple[float, str]:
    env_steps = number(value)
    return (env_steps, "") if env_steps >= 0 else (NAN, f"{name} is {value!r}, not a count: this iteration's SPS stays NaN")


def _growth(result: Mapping[str, Any], lifetime: float, before: float) -> tuple[float, str, float]:
    if result.get("training_iteration") == 1:
        before = 0.0
    if lifetime >= before:
        return lifetime - before, "", lifetime
    problem = "the result has only the lifetime count of env steps: the first iteration after a restore or a gap has no SPS"
    return NAN, problem, lifetime


REPORTS: Final = "_scaling_env_runners"
"""The key under which env runners report to the Algorithm's process. `take_reports` removes it before RLlib sees it."""

ENV_RUNNER_RESULTS: Final = "env_runners"
"""The key under which RLlib merges the metrics of env runners sampling for training."""


@dataclass(frozen=True, slots=True)
class RunnerReport:
    """How one env runner spent its time in one iteration [s]; NaN if no step was timed.

    Attributes:
        busy: total sampling time.
        env_step: time in `env.step`, estimated from a sample of steps (see `sampling`).
        inference: the same for policy inference.
        reset: the same for env resets, beyond the time of an ordinary step.
        cpu: CPU time of its process.
        weights: time spent waiting for weights just before sampling.
        began: when its last sample began, by its host's clock [s]; only if sampling overlaps learning.
        ended: when that sample ended.
    """

    busy: float
    env_step: float = NAN
    inference: float = NAN
    reset: float = NAN
    cpu: float = NAN
    weights: float = NAN
    began: float = NAN
    ended: float = NAN

    @property
    def rest(self) -> float:
        """The remaining sampling time."""
        return self.busy - self.env_step - self.inference

    def __add__(self, later: RunnerReport) -> RunnerReport:
        """Return the sum of both. The next estimate covers samples in which no step was timed."""
        summed = ("busy", "env_step", "inference", "reset", "cpu", "weights")
        return replace(later, **{part: _known_sum(getattr(self, part), getattr(later, part)) for part in summed})


def _known_sum(first: float, second: float) -> float:
    return second if first != first else first if second != second else first + second


def take_reports(logged: Iterable[Any]) -> list[tuple[str, RunnerReport]]:
    """Remove and return the reports of env runners, each with the env runner's name.

    Args:
        logged: the return value of each env runner's `get_metrics()`, a dict.
    """
    reports = []
    for metrics in logged:
        reported = metrics.pop(REPORTS, None) if isinstance(metrics, dict) else None
        for runner, parts in mapping(reported).items():
            report = RunnerReport(*(number(mapping(parts).get(part)) for part in RunnerReport.__slots__))
            if report.busy >= 0:
                reports.append((str(runner), report))
    return reports


LEARNER_RESULTS: Final = "learners"
"""The key under which RLlib merges the metrics of its learners."""


def take_learner_reports(logged: Iterable[Any]) -> list[dict[str, float]]:
    """Remove and return the reports of learners in other processes: seconds by phase."""
    reports = (metrics.pop(REPORTS, None) for metrics in logged if isinstance(metrics, dict))
    return [{str(phase): number(seconds) for phase, seconds in report.items()} for report in reports if isinstance(report, Mapping)]


def read_dropped(result: Mapping[str, Any]) -> float:
    """Return the env steps of this iteration that aggregator actors dropped; 0 without such actors."""
    return number(mapping(result.get("aggregator_actors", {})).get("num_env_steps_dropped_lifetime", 0))


def read_fleet(result: Mapping[str, Any]) -> tuple[float, float]:
    """Return the number of env runners that RLlib considers healthy, and the number of restarts so far."""
    state = mapping(result.get("fault_tolerance")) or result
    return number(state.get("num_healthy_workers")), number(state.get("num_remote_worker_restarts"))


def read_since_restore(result: Mapping[str, Any]) -> float:
    """Return the number of the iteration since the trial was started or restored, from 1; NaN if unknown."""
    return number(result.get("iterations_since_restore"))


def read_cpu_utilisation(result: Mapping[str, Any]) -> float:
    """Return the CPU utilisation of the Algorithm's node [%]; NaN if unknown, as in most iterations under a second."""
    return number(mapping(result.get("perf")).get("cpu_util_percent"))


@dataclass(frozen=True, slots=True)
class Circumstances:
    """The content of a result other than its env steps and duration. Unknown numbers are NaN.

    Attributes:
        iteration: number of the iteration, from 1.
        since_restore: the same since the trial was started or restored.
        done: True in the last result of a trial that ended normally.
        host: name of the Algorithm's host; "" if unknown.
        ended: when the iteration ended [s since 1970], to the second.
        episode_return: mean return of recent episodes.
        lifetime_steps: env steps sampled over the trial's lifetime.
        seconds_before: duration of all earlier iterations [s], including those before a restore.
        cpu_utilisation: CPU utilisation of the Algorithm's node [%]; may be missing in iterations under a second.
        ram_utilisation: RAM utilisation of that node [%].
        vram_utilisation: VRAM utilisation of the fullest GPU [%]; requires GPUtil.
    """

    iteration: float
    since_restore: float
    done: bool
    host: str
    ended: float
    episode_return: float
    lifetime_steps: float
    seconds_before: float
    cpu_utilisation: float
    ram_utilisation: float
    vram_utilisation: float


_VRAM: Final = re.compile(r"vram_util_percent\d+$")


def read_circumstances(result: Mapping[str, Any]) -> Circumstances:
    """Return the content of a result other than its env steps and duration, from any release of RLlib."""
    perf = mapping(result.get("perf"))
    host = result.get("hostname")
    # RLlib's "percent" is GPUtil's fraction from 0 to 1, one per GPU.
    vram = (100 * number(share) for key, share in perf.items() if _VRAM.match(str(key)))
    return Circumstances(
        iteration=number(result.get("training_iteration")),
        since_restore=read_since_restore(result),
        done=result.get("done") is True,
        host=host if isinstance(host, str) else "",
        ended=number(result.get("timestamp")),
        episode_return=number(next(found(result, RETURNS), None)),
        lifetime_steps=number(next(found(result, LIFETIME_STEPS), None)),
        seconds_before=number(result.get("time_total_s")) - number(result.get("time_this_iter_s")),
        cpu_utilisation=read_cpu_utilisation(result),
        ram_utilisation=number(perf.get("ram_util_percent")),
        vram_utilisation=max((used for used in vram if used >= 0), default=NAN),
    )


INJECTED_PARTS: Final[Mapping[str, str]] = {
    part: "learner/busy" if part == LEARNER else f"time/{part}" if part in PHASES else f"runners/{part}" for part in RECORDED
}
"""The key under which the callback injects each part of an iteration."""

MEASURED_KEYS: Final = ("sps", "env_steps", "time/evaluate", *INJECTED_PARTS.values())
"""The injected keys that `read_measured` uses."""


def read_measured(result: Mapping[str, Any], injected: Mapping[str, float], lifetime_before: float = NAN) -> Reading:
    """Return the iteration in the form that a steady window needs, from a result with or without the callback's keys.

    Args:
        result: RLlib's result.
        injected: its injected values from `read_injected`, including `MEASURED_KEYS`.
        lifetime_before: `lifetime` of the previous iteration; NaN if unknown.
    """
    reading = read_iteration(result, lifetime_before)
    evaluation_s = injected.get("time/evaluate", NAN)
    is_known = evaluation_s == evaluation_s
    seconds, problem = reading.seconds - (evaluation_s if is_known else 0.0), reading.problem
    # Only the running trial can compare the wall clock with a monotonic one. If it rejected the time, reject it here too.
    if injected.get("env_steps", NAN) > 0 and injected["sps"] != injected["sps"] and not problem:
        seconds, problem = NAN, "the clock jumped during an iteration, so its duration is unknown"
    parts = tuple(injected.get(key, NAN) for key in INJECTED_PARTS.values())
    is_split = injected.get("time/sample", NAN) >= 0
    return reading._replace(seconds=seconds, problem=problem, parts=parts if is_split else None, evaluation_is_known=is_known)


def read_injected(result: Mapping[str, Any], names: Iterable[str]) -> dict[str, float]:
    """Return injected numbers by key: empty for a result without the callback, NaN for a missing key."""
    scaling = result.get(schema.ROOT)
    if not isinstance(scaling, Mapping):
        return {}
    values = {}
    for name in names:
        level, _, leaf = name.rpartition("/")
        values[name] = number(mapping(scaling.get(level) if level else scaling).get(leaf))
    return values


def read_injected_text(result: Mapping[str, Any], name: str) -> str:
    """Return an injected text by key, such as `workload` or `baseline/source`; "" if there is none."""
    level, _, leaf = name.rpartition("/")
    scaling = mapping(result.get(schema.ROOT))
    text = mapping(scaling.get(level) if level else scaling).get(leaf)
    return text if isinstance(text, str) else ""
