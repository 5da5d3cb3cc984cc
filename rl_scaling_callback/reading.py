"""Reads RLlib's results and configs. The only place that knows RLlib's key names and API stacks; it needs no Ray.

What can't be read is NaN, with the reason as a text for the one warning.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from rl_scaling_callback import keys
from rl_scaling_callback.account import PARTS
from rl_scaling_callback.formulas import NAN
from rl_scaling_callback.scale import Scale


@dataclass(frozen=True, slots=True)
class Iteration:
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


def number(value: object) -> float:
    """Return a real number as a plain float, NaN for anything else: booleans, texts, None, infinities."""
    if type(value) is float:
        return value if math.isfinite(value) else NAN
    if isinstance(value, bool) or value is None or isinstance(value, (str, bytes)):
        return NAN
    try:
        converted = float(value)  # type: ignore[arg-type]  # NumPy scalars and the like: float() is the judge
    except (TypeError, ValueError, OverflowError):
        return NAN
    return converted if math.isfinite(converted) else NAN


def read_scale(config: Mapping[str, Any]) -> Scale:
    """Return the scale of a trial from `vars(AlgorithmConfig)` or a config dict.

    Raises:
        ValueError: the config does not say it.
    """
    runners, envs = config.get("num_env_runners"), config.get("num_envs_per_env_runner")
    if not isinstance(runners, int) or not isinstance(envs, int):
        raise ValueError(f"num_env_runners is {runners!r} and num_envs_per_env_runner is {envs!r}; allowed are whole numbers")
    return Scale(runners, envs)


def samples_env(config: Mapping[str, Any]) -> bool:
    """Return whether training samples env steps: False for algorithms that learn from recorded data only."""
    return not (config.get("_is_online") is False or config.get("input_") not in (None, "sampler"))


def evaluates(config: Mapping[str, Any]) -> bool:
    """Return whether training stops now and then for an evaluation."""
    return bool(config.get("evaluation_interval")) and not evaluation_is_parallel(config)


def iterations_are_timed(config: Mapping[str, Any]) -> bool:
    """Return whether an iteration lasts a given time, so that its steps vary with the throughput (APPO, IMPALA, SAC)."""
    return number(config.get("min_time_s_per_iteration")) > 0


def steps_before_learning(config: Mapping[str, Any]) -> float:
    """Return the env steps that are sampled before learning starts (SAC, DQN): iterations until then are not the steady work."""
    steps = number(config.get("num_steps_sampled_before_learning_starts"))
    return steps if steps > 0 else 0.0


def evaluation_is_parallel(config: Mapping[str, Any]) -> bool:
    """Return whether evaluation runs beside training, and so takes no time of its own."""
    return bool(config.get("evaluation_parallel_to_training"))


def uses_gpus(config: Mapping[str, Any]) -> bool:
    """Return whether the learners or env runners of the trial ask for GPUs."""
    return any(number(config.get(key)) > 0 for key in ("num_gpus", "num_gpus_per_learner", "num_gpus_per_env_runner"))


def has_other_workers(config: Mapping[str, Any]) -> bool:
    """Return whether processes beside the Algorithm's and its env runners work for the trial, such as learners of their own."""
    counts = ("num_learners", "num_aggregator_actors_per_learner", "evaluation_num_env_runners")
    own_envs = config.get("remote_worker_envs") or str(plain(config.get("gym_env_vectorize_mode"))).lower() == "async"
    return bool(own_envs) or any(number(config.get(key)) > 0 for key in counts)


def is_new_stack(config: Mapping[str, Any]) -> bool:
    """Return whether the trial runs on RLlib's new API stack."""
    return bool(config.get("enable_env_runner_and_connector_v2"))


def is_asynchronous(config: Mapping[str, Any]) -> bool:
    """Return whether sampling overlaps learning (IMPALA, APPO): then phases don't follow one another."""
    return "broadcast_interval" in config


def timer_phases(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the phase of each timer that the Algorithm's code runs in."""
    phases = dict(_TIMER_PHASES)
    if not evaluation_is_parallel(config):
        phases.update(dict.fromkeys(_EVALUATION_TIMERS, "evaluate"))
    return phases


_TIMER_PHASES: Final[Mapping[str, str]] = {
    "env_runner_sampling_timer": "sample",
    "sample": "sample",
    "learner_update_timer": "learn",
    "replay_buffer_add_data_timer": "learn",
    "replay_buffer_sampling_timer": "learn",
    "replay_buffer_update_prios_timer": "learn",
    "synch_weights": "sync",
    "synch_env_connectors": "sync",
}
_EVALUATION_TIMERS: Final = ("evaluation_iteration", "offline_evaluation_iteration_timer", "restore_eval_env_runners")

SAMPLE_TIMER: Final = "sample"
"""The timer that an env runner's sample runs in."""

STEP_TIMERS: Final[Mapping[str, str]] = {"rlmodule_inference_timer": "inference", "env_step_timer": "env_step"}
"""The part of sampling that each timer inside a step stands for, in the order of the step."""

LEARNER_PHASES: Final[Mapping[str, str]] = {
    "learner_thread_update_timer": "busy",
    "learner_thread_in_queue_wait_timer": "waiting",
}
"""The phase of each timer that the learner's own thread runs in (IMPALA, APPO)."""

REPORTS: Final = "_scaling_env_runners"
"""The key under which env runners report to the Algorithm's process; taken out of the result before anybody sees it."""


@dataclass(frozen=True, slots=True)
class RunnerReport:
    """What one env runner did in one iteration [s]; NaN where no step was timed.

    Attributes:
        busy: all of its sampling.
        env_step: its part in `env.step`, estimated from single steps (see `sampling`).
        inference: the same of policy inference.
        cpu: CPU time of its process.
    """

    busy: float
    env_step: float = NAN
    inference: float = NAN
    cpu: float = NAN

    @property
    def rest(self) -> float:
        """The rest of its sampling."""
        return self.busy - self.env_step - self.inference


def take_runner_reports(result: Mapping[str, Any]) -> list[RunnerReport]:
    """Return what the env runners reported in this iteration, and remove it from the result: it is none of RLlib's metrics."""
    evaluation = result.get("evaluation")
    if isinstance(evaluation, Mapping):
        _take_reports(evaluation)
    return _take_reports(result)


def _take_reports(result: Mapping[str, Any]) -> list[RunnerReport]:
    runners = result.get("env_runners")
    reports = runners.pop(REPORTS, None) if isinstance(runners, dict) else None
    if not isinstance(reports, Mapping):
        return []
    return [
        RunnerReport(*(number(report.get(part)) for part in ("busy", "env_step", "inference", "cpu")))
        for report in reports.values()
        if isinstance(report, Mapping) and number(report.get("busy")) >= 0
    ]


def read_fleet(result: Mapping[str, Any]) -> tuple[float, float]:
    """Return how many env runners RLlib holds for healthy, and how many restarts there were so far."""
    state = result.get("fault_tolerance")
    state = state if isinstance(state, Mapping) else result
    return number(state.get("num_healthy_workers")), number(state.get("num_remote_worker_restarts"))


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
    """

    iteration: float
    since_restore: float
    done: bool
    host: str
    episode_return: float
    lifetime_steps: float
    cpu_utilisation: float
    ram_utilisation: float


def read_circumstances(result: Mapping[str, Any]) -> Circumstances:
    """Return what a result says beside its env steps and seconds, on either API stack."""
    runners, perf = _mapping(result.get("env_runners")), _mapping(result.get("perf"))
    host = result.get("hostname")
    # On the old stack this is the lifetime's count; the new one has it in env_runners only, as the iteration's.
    lifetime = result.get("num_env_steps_sampled_lifetime", result.get("num_env_steps_sampled"))
    return Circumstances(
        iteration=number(result.get("training_iteration")),
        since_restore=number(result.get("iterations_since_restore")),
        done=result.get("done") is True,
        host=host if isinstance(host, str) else "",
        episode_return=number(runners.get("episode_return_mean", runners.get("episode_reward_mean"))),
        lifetime_steps=number(lifetime),
        cpu_utilisation=number(perf.get("cpu_util_percent")),
        ram_utilisation=number(perf.get("ram_util_percent")),
    )


INJECTED_PARTS: Final[Mapping[str, str]] = {part: f"time/{part}" if part in keys.PHASES else f"runners/{part}" for part in PARTS}
"""The key under which the callback injects each part of an iteration."""


def read_injected(result: Mapping[str, Any], names: Iterable[str]) -> dict[str, float]:
    """Return numbers that the callback injected, by their keys; none for a result without it, NaN for one that is missing."""
    scaling = result.get(keys.ROOT)
    if not isinstance(scaling, Mapping):
        return {}
    values = {}
    for name in names:
        level, _, leaf = name.rpartition("/")
        values[name] = number(_mapping(scaling.get(level) if level else scaling).get(leaf))
    return values


def read_workload_id(result: Mapping[str, Any]) -> str:
    """Return the id of the workload that the callback injected; "" where there is none."""
    workload = _mapping(result.get(keys.ROOT)).get("workload")
    return workload if isinstance(workload, str) else ""


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


_WORKLOAD_KEYS: Final[Mapping[str, str]] = {
    "algorithm": "algo_class",
    "env": "env",
    "env_config": "env_config",
    "env_runner_class": "env_runner_cls",
    "vectorize_mode": "gym_env_vectorize_mode",
    "remote_worker_envs": "remote_worker_envs",
    "new_api_stack": "enable_env_runner_and_connector_v2",
    "framework": "framework_str",
    "minibatch_size": "minibatch_size",
    "num_epochs": "num_epochs",
    "batch_mode": "batch_mode",
    "training_intensity": "training_intensity",
    "rl_module": "_rl_module_spec",
    "model_config": "_model_config",
    "env_to_module_connector": "_env_to_module_connector",
    "module_to_env_connector": "_module_to_env_connector",
    "learner_connector": "_learner_connector",
    "learner_class": "_learner_class",
    "observation_filter": "observation_filter",
    "compress_observations": "compress_observations",
    "torch_compile_learner": "torch_compile_learner",
    "torch_compile_worker": "torch_compile_worker",
    "num_learners": "num_learners",
    "num_gpus_per_learner": "num_gpus_per_learner",
    "num_gpus_per_env_runner": "num_gpus_per_env_runner",
    "num_gpus": "num_gpus",
    "num_aggregator_actors_per_learner": "num_aggregator_actors_per_learner",
}
"""What must be equal for a fair comparison, and the config attribute that says it.

Learning rate, seed, gamma and the like don't change the work of a step. Runners, envs, CPUs per runner and fragment lengths
are what scaling is about. Evaluation is left out of steady figures.
"""


def read_workload(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts of a config that must be equal for a fair comparison, in plain JSON types.

    Args:
        config: `vars(AlgorithmConfig)`.
    """
    facts = {fact: plain(config.get(key)) for fact, key in _WORKLOAD_KEYS.items()}
    per_learner: Any = config.get("_train_batch_size_per_learner")
    learners = number(config.get("num_learners"))
    if number(per_learner) > 0:
        facts["train_batch_size"] = plain(per_learner * (int(learners) if learners > 1 else 1))
    else:
        facts["train_batch_size"] = plain(config.get("train_batch_size"))
    policies = config.get("policies")
    facts["policies"] = sorted(map(str, policies)) if isinstance(policies, (Mapping, set, list, tuple)) else plain(policies)
    if not config.get("enable_rl_module_and_learner"):
        facts["model"] = plain(config.get("model"))
    return facts


_LOGGED_AS: Final[Mapping[str, str]] = {"framework": "framework_str", "input": "input_"}
_CLASS = re.compile(r"<class '([^']*)'>")


def read_logged_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config as a logged result or `params.json` holds it, in the names of `vars(AlgorithmConfig)`.

    Classes become their names, as in `read_workload`, and addresses in memory, which each process has its own of, go. It
    does not say which algorithm it is of.
    """
    text = json.dumps({_LOGGED_AS.get(key, key): value for key, value in config.items()})
    attributes: dict[str, Any] = json.loads(_ADDRESS.sub("", _CLASS.sub(r"\1", text)))
    return attributes


_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_DEEPEST: Final = 12


def plain(value: object, depth: int = 0) -> Any:
    """Return `value` in plain JSON types, the same in every process: classes and functions by name, no memory addresses."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, enum.Enum):
        return plain(value.value, depth + 1)
    if depth >= _DEEPEST:
        return f"({type(value).__qualname__})"
    if isinstance(value, Mapping):
        return {str(key): plain(item, depth + 1) for key, item in sorted(value.items(), key=lambda pair: str(pair[0]))}
    if isinstance(value, (list, tuple)):
        return [plain(item, depth + 1) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((plain(item, depth + 1) for item in value), key=repr)
    if isinstance(value, type) or (callable(value) and hasattr(value, "__qualname__")):
        return f"{value.__module__}.{value.__qualname__}"
    if dataclasses.is_dataclass(value):
        # Not asdict(): it copies deeply, and what a spec holds may not be copied.
        return {field.name: plain(getattr(value, field.name, None), depth + 1) for field in dataclasses.fields(value)}
    if hasattr(value, "tolist"):  # NumPy scalars and arrays
        return plain(value.tolist(), depth + 1)
    return _ADDRESS.sub("", repr(value))
