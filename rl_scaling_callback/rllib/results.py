"""Reads RLlib results of either API stack, with or without the callback's keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from rl_scaling_callback.core import schema
from rl_scaling_callback.core.attribution import CONNECTORS, LEARNER, PHASES, RECORDED
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.rllib.names import STEPS, found, mapping, number

ENV_RUNNER_RESULTS: Final = "env_runners"
"""The key under which RLlib merges the metrics of env runners sampling for training."""

LEARNER_RESULTS: Final = "learners"
"""The key under which RLlib merges the metrics of its learners."""

REPORTS: Final = "_scaling_env_runners"
"""The key under which env runners and learners report to the Algorithm's process, which removes it before RLlib sees it."""

_OF_LEARNERS: Final = {LEARNER: "learner/busy", CONNECTORS: "learner/connectors"}

INJECTED_PARTS: Final[Mapping[str, str]] = {
    part: f"time/{part}" if part in PHASES else _OF_LEARNERS.get(part, f"runners/{part}") for part in RECORDED
}
"""The key under which the callback injects each part of an iteration."""

MEASURED_KEYS: Final = ("sps", "env_steps", "time/evaluate", *INJECTED_PARTS.values())
"""The injected keys that `read_iteration` uses."""

_VRAM: Final = "vram_util_percent"


def read_number(result: Mapping[str, Any], name: str) -> float:
    """Return one of `names.NUMBERS`, from a result of any release of RLlib; NaN if it is missing.

    Utilisations are those of the Algorithm's node [%], and may be missing in iterations under a second.
    """
    return number(next(found(result, name), None))


def read_vram_utilisation(result: Mapping[str, Any]) -> float:
    """Return the VRAM utilisation of the fullest GPU of the Algorithm's node [%]; NaN without GPUtil."""
    # RLlib's "percent" is GPUtil's fraction from 0 to 1, one per GPU.
    shares = (number(share) for name, share in mapping(result.get("perf")).items() if str(name).startswith(_VRAM))
    return max((100 * share for share in shares if share >= 0), default=NAN)


class Reading(NamedTuple):
    """The measurements in a result.

    The duration is without evaluation if its time is known. It is NaN if it is missing, not above 0, or the callback found it
    implausible, because the clock jumped or the machine was suspended.
    """

    env_steps: float  # of this iteration; 0 if there were none, NaN if the result lacks them
    seconds: float
    problem: str  # why a value is NaN, and what to do; "" if everything could be read
    parts: tuple[float, ...] | None  # seconds of each of `attribution.RECORDED`; None if the callback didn't measure them
    evaluation_is_known: bool


def read_iteration(result: Mapping[str, Any], lifetime_before: float = NAN, injected: Mapping[str, float] | None = None) -> Reading:
    """Return the measurements of the iteration that `result` describes, from any release of RLlib.

    Args:
        result: RLlib's result.
        lifetime_before: the number "lifetime_steps" of the previous result.
        injected: what `read_injected` returns for `MEASURED_KEYS`; None for a result without the callback's keys.
    """
    injected = injected or {}
    env_steps, problem = _read_env_steps(result, lifetime_before)
    seconds = number(result.get("time_this_iter_s"))
    if not seconds > 0:
        problem = problem or (
            f"time_this_iter_s is {result.get('time_this_iter_s')!r}, not a time above 0 (did the clock jump?): "
            "this iteration's SPS stays NaN"
        )
        seconds = NAN
    # Only the running trial can compare the wall clock with a monotonic one. If it rejected the time, reject it here too.
    if injected.get("env_steps", NAN) > 0 and injected["sps"] != injected["sps"] and not problem:
        seconds, problem = NAN, "the clock jumped during an iteration, so its duration is unknown"
    evaluation_s = injected.get("time/evaluate", NAN)
    is_known = evaluation_s == evaluation_s
    is_split = injected.get("time/sample", NAN) >= 0
    parts = tuple(injected.get(key, NAN) for key in INJECTED_PARTS.values()) if is_split else None
    return Reading(env_steps, seconds - (evaluation_s if is_known else 0.0), problem, parts, is_known)


def _read_env_steps(result: Mapping[str, Any], before: float) -> tuple[float, str]:
    """Return the env steps of the iteration, and why they are NaN.

    On the old API stack the top-level `num_env_steps_sampled` counts the trial's lifetime, and `num_env_steps_sampled_this_iter`
    this iteration. On the new stack this iteration's count is in `env_runners`. For other names see `names`.
    """
    this_iteration, _ = STEPS
    has_lifetime = "num_env_steps_sampled" in result
    if this_iteration in result:
        return _count(this_iteration, result[this_iteration])
    runners = result.get(ENV_RUNNER_RESULTS)
    if isinstance(runners, (dict, Mapping)) and not has_lifetime:  # see `mapping`
        # An asynchronous algorithm may finish an iteration before the first sample has arrived.
        return _count("env_runners/num_env_steps_sampled", runners.get("num_env_steps_sampled", 0))
    # Several releases log a count of 0 that is never set. Next to a count of env steps, it may be that of the agents.
    for name in () if has_lifetime else STEPS:
        if number(result.get(name)) > 0:
            return number(result[name]), ""
    # Without a count of the iteration (also on the old stack with count_steps_by="agent_steps"), take the increase.
    lifetime = next((value for value in map(number, found(result, "lifetime_steps")) if value > 0 or has_lifetime), None)
    if lifetime is None:
        return NAN, "the result has no env_runners: this algorithm samples no env steps (offline?), so there is no SPS"
    increase = lifetime - (0.0 if result.get("training_iteration") == 1 else before)
    if increase >= 0:
        return increase, ""
    return NAN, "the result has only the lifetime count of env steps: the first iteration after a restore or a gap has no SPS"


def _count(name: str, value: Any) -> tuple[float, str]:
    env_steps = number(value)
    return (env_steps, "") if env_steps >= 0 else (NAN, f"{name} is {value!r}, not a count: this iteration's SPS stays NaN")


def read_injected(result: Mapping[str, Any], names: Iterable[str]) -> dict[str, float]:
    """Return injected numbers by key: empty for a result without the callback, NaN for a missing key."""
    scaling = result.get(schema.ROOT)
    return {name: number(_leaf(scaling, name)) for name in names} if isinstance(scaling, Mapping) else {}


def read_injected_text(result: Mapping[str, Any], name: str) -> str:
    """Return an injected text by key, such as `workload` or `baseline/source`; "" if there is none."""
    text = _leaf(mapping(result.get(schema.ROOT)), name)
    return text if isinstance(text, str) else ""


def _leaf(scaling: Mapping[str, Any], name: str) -> Any:
    level, _, leaf = name.rpartition("/")
    return mapping(scaling.get(level) if level else scaling).get(leaf)


@dataclass(frozen=True, slots=True)
class RunnerReport:
    """How one env runner spent its time since its last report [s], by `clocks.SamplingClock`; NaN where not measured."""

    busy: float  # total sampling time
    env_step: float = NAN
    reset: float = NAN  # beyond the time of an ordinary step
    cpu: float = NAN  # CPU time of its process
    weights: float = NAN  # waiting for weights just before sampling
    began: float = NAN  # when its last sample began, by its host's clock; only if sampling overlaps learning
    ended: float = NAN

    def __add__(self, later: RunnerReport) -> RunnerReport:
        """Return the sum of both; the later one's beginning and end."""
        summed = {*self.__slots__} - {"began", "ended"}
        return replace(later, **{part: getattr(self, part) + getattr(later, part) for part in summed})


def take_reports(logged: Iterable[Any]) -> list[Mapping[str, Any]]:
    """Remove and return the reports in what env runners' or learners' `get_metrics()` returned."""
    reports = [metrics.pop(REPORTS, None) for metrics in logged if isinstance(metrics, dict)]
    return [report for report in reports if isinstance(report, Mapping)]


def runner_reports(taken: Iterable[Mapping[str, Any]]) -> list[tuple[str, RunnerReport]]:
    """Return the reports of env runners that `take_reports` returned, each with the env runner's name."""
    named = [(str(runner), mapping(parts)) for reported in taken for runner, parts in reported.items()]
    reports = [(name, RunnerReport(*(number(parts.get(part)) for part in RunnerReport.__slots__))) for name, parts in named]
    return [(name, report) for name, report in reports if report.busy >= 0]
