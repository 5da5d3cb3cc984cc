"""Reads RLlib's results and configs. The only place that knows RLlib's key names and API stacks; it needs no Ray.

What can't be read is NaN, with the reason as a text for the one warning.
"""

from __future__ import annotations

from rl_scaling_callback.rllib.configs import (
    LEARNER_PHASES,
    SAMPLE_TIMER,
    STEP_TIMERS,
    evaluates,
    evaluation_is_parallel,
    has_other_workers,
    is_asynchronous,
    is_new_stack,
    iterations_are_timed,
    read_logged_config,
    read_scale,
    samples_env,
    steps_before_learning,
    timer_phases,
    uses_gpus,
)
from rl_scaling_callback.rllib.results import (
    INJECTED_PARTS,
    REPORTS,
    Circumstances,
    Iteration,
    RunnerReport,
    read_circumstances,
    read_fleet,
    read_injected,
    read_iteration,
    read_workload_id,
    take_runner_reports,
)
from rl_scaling_callback.rllib.values import number, plain
from rl_scaling_callback.rllib.workload import CIRCUMSTANCES, read_workload

__all__ = [
    "CIRCUMSTANCES",
    "INJECTED_PARTS",
    "LEARNER_PHASES",
    "REPORTS",
    "SAMPLE_TIMER",
    "STEP_TIMERS",
    "Circumstances",
    "Iteration",
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
    "read_fleet",
    "read_injected",
    "read_iteration",
    "read_logged_config",
    "read_scale",
    "read_workload",
    "read_workload_id",
    "samples_env",
    "steps_before_learning",
    "take_runner_reports",
    "timer_phases",
    "uses_gpus",
]
