"""Reads RLlib's results and configs. The only place that knows RLlib's key names and API stacks; it needs no Ray.

What can't be read is NaN, with the reason as a text for the one warning.
"""

from __future__ import annotations

from rl_scaling_callback.rllib.configs import (
    LEARNER_PHASES,
    SAMPLE_TIMER,
    STEP_TIMERS,
    TIMER_PHASES,
    evaluates,
    evaluation_is_parallel,
    has_other_workers,
    is_asynchronous,
    is_new_stack,
    iterations_are_timed,
    read_cpus,
    read_logged_config,
    read_scale,
    samples_env,
    steps_before_learning,
    steps_follow_scale,
    uses_gpus,
)
from rl_scaling_callback.rllib.results import (
    ENV_RUNNER_RESULTS,
    INJECTED_PARTS,
    MEASURED_KEYS,
    REPORTS,
    Circumstances,
    Iteration,
    Measured,
    RunnerReport,
    read_circumstances,
    read_fleet,
    read_injected,
    read_iteration,
    read_measured,
    read_workload_id,
    take_reports,
)
from rl_scaling_callback.rllib.values import number, plain
from rl_scaling_callback.rllib.workload import CIRCUMSTANCES, read_workload

__all__ = [
    "CIRCUMSTANCES",
    "ENV_RUNNER_RESULTS",
    "INJECTED_PARTS",
    "LEARNER_PHASES",
    "MEASURED_KEYS",
    "REPORTS",
    "SAMPLE_TIMER",
    "STEP_TIMERS",
    "TIMER_PHASES",
    "Circumstances",
    "Iteration",
    "Measured",
    "RunnerReport",
    "evaluates",
    "evaluation_is_parallel",
    "has_other_workers",
    "is_asynchronous",
    "is_new_stack",
    "iterations_are_timed",
    "number",
    "plain",
    "read_circumstances",
    "read_cpus",
    "read_fleet",
    "read_injected",
    "read_iteration",
    "read_logged_config",
    "read_measured",
    "read_scale",
    "read_workload",
    "read_workload_id",
    "samples_env",
    "steps_before_learning",
    "steps_follow_scale",
    "take_reports",
    "uses_gpus",
]
