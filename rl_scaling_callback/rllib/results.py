"""What a result of RLlib says, on either API stack, with or without the callback's own keys."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from rl_scaling_callback.core import schema
from rl_scaling_callback.core.attribution import LEARNER, PHASES, RECORDED
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.rllib.values import mapping, number


class Iteration(NamedTuple):
    """Env steps and seconds of one iteration.

    Attributes:
        env_steps: env steps sampled in this iteration; 0 where there were none, NaN where the result does not say.
        seconds: `time_this_iter_s`; NaN where it is missing or not above 0.
        problem: why something is NaN, and what to do; "" when all could be read.
        lifetime: env steps of the whole trial where the result counts only those; NaN elsewhere.
    """

    env_steps: float
    seconds: float
    problem: str = ""
    lifetime: float = NAN


def read_iteration(result: Mapping[str, Any], lifetime_before: float = NAN) -> Iteration:
    """Return the env steps and seconds of the iteration that `result` describes.

    On the old API stack the top-level `num_env_steps_sampled` counts the whole life of the trial, and
    `num_env_steps_sampled_this_iter` this iteration; on the new one this iteration's count is in `env_runners`.

    Args:
        result: RLlib's result.
        lifetime_before: `lifetime` of the iteration before; NaN where it is not known.
    """
    lifetime = NAN
    if "num_env_steps_sampled" in result and "num_env_steps_sampled_this_iter" not in result:
        # The old stack with count_steps_by="agent_steps" says how many env steps there were only by how the count grew.
        lifetime = number(result["num_env_steps_sampled"])
        env_steps, problem = _read_growth(result, lifetime, lifetime_before)
    else:
        env_steps, problem = _read_env_steps(result)
    seconds = number(result.get("time_this_iter_s"))
    if not seconds > 0:
        problem = problem or (
            f"time_this_iter_s is {result.get('time_this_iter_s')!r}, not a time above 0 (did the clock jump?): "
            "this iteration's SPS stays NaN"
        )
        seconds = NAN
    return Iteration(env_steps, seconds, problem, lifetime)


def _read_growth(result: Mapping[str, Any], lifetime: float, before: float) -> tuple[float, str]:
    if result.get("training_iteration") == 1:
        before = 0.0
    if lifetime >= before:
        return lifetime - before, ""
    return NAN, "only the lifetime's env steps are counted here: the first iteration after a restore has no SPS"


def _read_env_steps(result: Mapping[str, Any]) -> tuple[float, str]:
    if "num_env_steps_sampled_this_iter" in result:
        where, value = "num_env_steps_sampled_this_iter", result["num_env_steps_sampled_this_iter"]
    else:
        runners = result.get("env_runners")
        if not isinstance(runners, Mapping):
            return NAN, "the result has no env_runners: this algorithm samples no env steps (offline?), so there is no SPS"
        # An asynchronous algorithm may finish an iteration before the first sample has arrived.
        where, value = "env_runners/num_env_steps_sampled", runners.get("num_env_steps_sampled", 0)
    env_steps = number(value)
    if not env_steps >= 0:
        return NAN, f"{where} is {value!r}, not a count: this iteration's SPS stays NaN"
    return env_steps, ""


REPORTS: Final = "_scaling_env_runners"
"""The key under which env runners report to the Algorithm's process; `take_reports` removes it before RLlib sees it."""

ENV_RUNNER_RESULTS: Final = "env_runners"
"""The key under which RLlib merges what its env runners logged while they sampled for training."""


@dataclass(frozen=True, slots=True)
class RunnerReport:
    """What one env runner did in one iteration [s]; NaN where no step was timed.

    Attributes:
        busy: all of its sampling.
        env_step: its part in `env.step`, estimated from single steps (see `sampling`).
        inference: the same of policy inference.
        cpu: CPU time of its process.
        weights: time that it waited for weights right before it sampled.
        began: when its last sample began, by its host's clock [s]; only where env runners sample beside the learner.
        ended: when that sample ended.
    """

    busy: float
    env_step: float = NAN
    inference: float = NAN
    cpu: float = NAN
    weights: float = NAN
    began: float = NAN
    ended: float = NAN

    @property
    def rest(self) -> float:
        """The rest of its sampling."""
        return self.busy - self.env_step - self.inference

    def __add__(self, later: RunnerReport) -> RunnerReport:
        """Return both together. A sample in which no step was timed is part of the next one's estimate."""
        summed = ("busy", "env_step", "inference", "cpu", "weights")
        return replace(later, **{part: _known_sum(getattr(self, part), getattr(later, part)) for part in summed})


def _known_sum(first: float, second: float) -> float:
    return second if first != first else first if second != second else first + second


def take_reports(logged: Iterable[Any]) -> list[tuple[str, RunnerReport]]:
    """Return what env runners reported, each with the env runner's name, and remove it.

    Args:
        logged: what each env runner's `get_metrics()` returned, a dict each.
    """
    reports = []
    for metrics in logged:
        told = metrics.pop(REPORTS, None) if isinstance(metrics, dict) else None
        for runner, parts in mapping(told).items():
            report = RunnerReport(*(number(mapping(parts).get(part)) for part in RunnerReport.__slots__))
            if report.busy >= 0:
                reports.append((str(runner), report))
    return reports


LEARNER_RESULTS: Final = "learners"
"""The key under which RLlib merges what its learners logged."""


def take_learner_reports(logged: Iterable[Any]) -> list[dict[str, float]]:
    """Return what learners in other processes reported, seconds by phase, and remove it from what they logged."""
    told = (metrics.pop(REPORTS, None) for metrics in logged if isinstance(metrics, dict))
    return [{str(phase): number(seconds) for phase, seconds in report.items()} for report in told if isinstance(report, Mapping)]


def read_dropped(result: Mapping[str, Any]) -> float:
    """Return the env steps of this iteration that aggregator actors had no room for; 0 where there are no such actors."""
    return number(mapping(result.get("aggregator_actors")).get("num_env_steps_dropped_lifetime", 0))


def read_fleet(result: Mapping[str, Any]) -> tuple[float, float]:
    """Return how many env runners RLlib holds for healthy, and how many restarts there were so far."""
    state = result.get("fault_tolerance")
    state = state if isinstance(state, Mapping) else result
    return number(state.get("num_healthy_workers")), number(state.get("num_remote_worker_restarts"))


def read_since_restore(result: Mapping[str, Any]) -> float:
    """Return the number of the iteration since the trial was started or restored, from 1; NaN where not known."""
    return number(result.get("iterations_since_restore"))


def read_cpu_utilisation(result: Mapping[str, Any]) -> float:
    """Return the utilisation [%] of the Algorithm's node; NaN where not known: an iteration under a second may have none."""
    return number(mapping(result.get("perf")).get("cpu_util_percent"))


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a result says beside its env steps and seconds.

    Attributes:
        iteration: number of the iteration, from 1; NaN where not known, as all numbers here.
        since_restore: the same since the trial was started or restored.
        done: True in the last result of a trial that ended in good order.
        host: name of the Algorithm's host; "" where not known.
        episode_return: mean return of the episodes that ended lately.
        lifetime_steps: env steps sampled in the trial's life.
        cpu_utilisation: of the Algorithm's node [%]; an iteration under a second may have none.
        ram_utilisation: the same of its memory.
        vram_utilisation: of the fullest GPU's memory [%]; only where GPUtil is installed.
    """

    iteration: float
    since_restore: float
    done: bool
    host: str
    episode_return: float
    lifetime_steps: float
    cpu_utilisation: float
    ram_utilisation: float
    vram_utilisation: float


_VRAM: Final = re.compile(r"vram_util_percent\d+$")


def read_circumstances(result: Mapping[str, Any]) -> Circumstances:
    """Return what a result says beside its env steps and seconds, on either API stack."""
    runners, perf = mapping(result.get("env_runners")), mapping(result.get("perf"))
    host = result.get("hostname")
    # What RLlib calls a percentage is GPUtil's share from 0 to 1, one for each GPU.
    vram = (100 * number(share) for key, share in perf.items() if _VRAM.match(str(key)))
    # On the old stack this is the lifetime's count; the new one has it in env_runners only, as the iteration's.
    lifetime = result.get("num_env_steps_sampled_lifetime", result.get("num_env_steps_sampled"))
    return Circumstances(
        iteration=number(result.get("training_iteration")),
        since_restore=read_since_restore(result),
        done=result.get("done") is True,
        host=host if isinstance(host, str) else "",
        episode_return=number(runners.get("episode_return_mean", runners.get("episode_reward_mean"))),
        lifetime_steps=number(lifetime),
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


@dataclass(frozen=True, slots=True)
class Measured:
    """An iteration as a steady window takes it.

    Attributes:
        env_steps: env steps sampled in it; NaN where not known.
        seconds: its duration, evaluation left out where its time is known. NaN where it is not known, and where the callback found
            that it can't be true: the clock jumped, or the machine was suspended.
        parts: seconds of each of `INJECTED_PARTS`; None where they were not measured.
        evaluation_is_known: whether the time of evaluation is known.
        problem: why something is NaN; "" when all could be read.
        lifetime: see `Iteration`.
    """

    env_steps: float
    seconds: float
    parts: tuple[float, ...] | None
    evaluation_is_known: bool
    problem: str
    lifetime: float


def read_measured(result: Mapping[str, Any], injected: Mapping[str, float], lifetime_before: float = NAN) -> Measured:
    """Return the iteration that a logged result describes, with or without the callback's own keys.

    Args:
        result: RLlib's result.
        injected: what `read_injected` found in it, `MEASURED_KEYS` among it.
        lifetime_before: `lifetime` of the iteration before; NaN where it is not known.
    """
    iteration = read_iteration(result, lifetime_before)
    evaluation_s = injected.get("time/evaluate", NAN)
    is_known = evaluation_s == evaluation_s
    seconds, problem = iteration.seconds - (evaluation_s if is_known else 0.0), iteration.problem
    # Only the running trial can compare the wall clock with one that never jumps; where it did not trust the time, nobody may.
    if injected.get("env_steps", NAN) > 0 and injected["sps"] != injected["sps"] and not problem:
        seconds, problem = NAN, "the clock jumped during an iteration, whose time is not known"
    parts = tuple(injected.get(key, NAN) for key in INJECTED_PARTS.values())
    is_split = injected.get("time/sample", NAN) >= 0
    return Measured(iteration.env_steps, seconds, parts if is_split else None, is_known, problem, iteration.lifetime)


def read_injected(result: Mapping[str, Any], names: Iterable[str]) -> dict[str, float]:
    """Return numbers that the callback injected, by their keys; none for a result without it, NaN for one that is missing."""
    scaling = result.get(schema.ROOT)
    if not isinstance(scaling, Mapping):
        return {}
    values = {}
    for name in names:
        level, _, leaf = name.rpartition("/")
        values[name] = number(mapping(scaling.get(level) if level else scaling).get(leaf))
    return values


def read_workload_id(result: Mapping[str, Any]) -> str:
    """Return the id of the workload that the callback injected; "" where there is none."""
    workload = mapping(result.get(schema.ROOT)).get("workload")
    return workload if isinstance(workload, str) else ""
