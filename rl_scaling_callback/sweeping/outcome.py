"""Turns the outcome of a race into progress and, at the end, into an experiment to report on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import ray

from rl_scaling_callback.analysis.race import Outcome
from rl_scaling_callback.analysis.runs import Experiment, LeftOut, Run, Study
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import Steady
from rl_scaling_callback.report.progress import ProgressView, Row
from rl_scaling_callback.rllib.configs import is_asynchronous, iterations_are_timed, steps_in_turn
from rl_scaling_callback.rllib.hardware import Host as Machine

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig


class Swept(NamedTuple):
    """The measurements of a sweep, and whether the user interrupted it."""

    experiment: Experiment
    interrupted: bool


class Work(NamedTuple):
    """What an iteration of a configuration consists of.

    Attributes:
        env_steps: its env steps.
        parts: seconds of each part per env step; empty if unknown.
        notes: caveats.
    """

    env_steps: float
    parts: Mapping[str, float]
    notes: tuple[str, ...] = ()


def view(outcome: Outcome, failed: Mapping[Scale, str], rounds: int, seconds_left: float) -> ProgressView:
    """Return the state of a sweep for display."""

    def state(scale: Scale) -> str:
        return "failed" if scale in failed else "out" if scale in outcome.out else ""

    figures = zip(outcome.scales, outcome.speedup.tolist(), outcome.speedup_error.tolist(), strict=True)
    rows = [Row(scale, speedup, error, state(scale)) for scale, speedup, error in figures]
    return ProgressView(rows, outcome.choice, rounds, seconds_left)


def experiment_of(
    config: AlgorithmConfig,
    machine: Machine,
    outcome: Outcome,
    work: Mapping[Scale, Work],
    failed: Mapping[Scale, str],
    source: str,
) -> Experiment:
    """Return an experiment with one run per configuration, whose only iteration is the one to expect.

    Args:
        config: the config.
        machine: where it ran.
        outcome: the estimates.
        work: the work of each configuration.
        failed: configurations that can't be measured, with the reason.
        source: what was measured, in words.
    """
    runs, settings = [], vars(config)
    for each in outcome.candidates:
        done = work[each.scale]
        iteration = Steady(
            sps=each.sps,
            error=each.own_error,
            iterations=1,
            env_steps=done.env_steps,
            seconds=done.env_steps / each.sps,
            converged=True,
            settled=True,
            parts={name: seconds * done.env_steps for name, seconds in done.parts.items()},
        )
        name = f"sweep of {each.scale}"
        runs.append(Run(name=name, scale=each.scale, steady=iteration, cores=machine.cores, cpus=each.cpus, notes=done.notes))
    algorithm: Any = config.algo_class
    env = config.env if isinstance(config.env, str) else getattr(config.env, "__name__", "env")
    overlaps = is_asynchronous(settings)
    study = Study(
        f"{algorithm.__name__} on {env}",
        tuple(runs),
        facts={"algorithm": algorithm.__name__, "env": str(env), "cpu": machine.cpu, "ray": ray.__version__},
        exclusive_phases=not overlaps,
        waits_are_known=overlaps,
        steps_in_turn=steps_in_turn(settings),
        timed_iterations=overlaps and iterations_are_timed(settings),
        swept=True,
    )
    return Experiment(source, (study,), tuple(LeftOut(str(scale), why) for scale, why in failed.items()))
