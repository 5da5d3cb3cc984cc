"""What both ways of sweeping share: the task, the progress of a race, and the experiment to report on at its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import ray

from rl_scaling_callback.analysis.race import Grid, Outcome, Race
from rl_scaling_callback.analysis.runs import Experiment, LeftOut, Run, Study
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import Steady
from rl_scaling_callback.report.progress import ProgressView, Row
from rl_scaling_callback.rllib.configs import is_asynchronous, iterations_are_timed, steps_in_turn
from rl_scaling_callback.rllib.hardware import Host as Machine

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig


@dataclass(frozen=True, slots=True)
class Task:
    """What a sweep is to find, and whom it tells about it.

    Attributes:
        config: the config to tune.
        race: the rules.
        grid: the numbers of env runners and of envs to try.
        budget_s: time limit [s]; None for the default of the way of sweeping.
        say: called with progress messages.
        progress: called with the standings after each round of probes or training run.
        clock: returns monotonic seconds.
    """

    config: AlgorithmConfig
    race: Race
    grid: Grid
    budget_s: float | None = None
    say: Callable[[str], None] = print
    progress: Callable[[ProgressView], None] = lambda _: None
    clock: Callable[[], float] = time.monotonic


class Swept(NamedTuple):
    """The measurements of a sweep, whether the user interrupted it, and the threads to set for the learner, None for none."""

    experiment: Experiment
    interrupted: bool
    learner_threads: int | None = None


class Work(NamedTuple):
    """What an iteration of a configuration consists of: its env steps, seconds of each part per env step, and caveats."""

    env_steps: float
    parts: Mapping[str, float]
    notes: tuple[str, ...] = ()


def view(outcome: Outcome, failed: Mapping[Scale, str], rounds: int, seconds_left: float) -> ProgressView:
    """Return the state of a sweep for display."""

    def state(scale: Scale) -> str:
        return "failed" if scale in failed else "out" if scale in outcome.out else ""

    figures = zip(outcome.scales, outcome.speedup.tolist(), outcome.speedup_error.tolist(), strict=True)
    rows = [Row(scale, speedup, error, state(scale)) for scale, speedup, error in figures]
    return ProgressView(rows, outcome.choice, rounds, max(0.0, seconds_left))


def experiment_of(
    config: AlgorithmConfig,
    machine: Machine,
    outcome: Outcome,
    work: Mapping[Scale, Work],
    failed: Mapping[Scale, str],
    source: str,
) -> Experiment:
    """Return an experiment with one run per configuration, whose only iteration is the one to expect.

    Configurations that can't be measured (`failed`) have a reason. `source` says what was measured.
    """
    runs, settings = [], vars(config)
    for each in outcome.candidates:
        env_steps, parts, notes = work[each.scale]
        iteration = Steady(
            sps=each.sps,
            error=each.own_error,
            iterations=1,
            env_steps=env_steps,
            seconds=env_steps / each.sps,
            converged=True,
            settled=True,
            parts={name: seconds * env_steps for name, seconds in parts.items()},
        )
        name = f"sweep of {each.scale}"
        runs.append(Run(name=name, scale=each.scale, steady=iteration, cores=machine.cores, cpus=each.cpus, notes=notes))
    algorithm: Any = config.algo_class
    env = config.env if isinstance(config.env, str) else getattr(config.env, "__name__", "env")
    overlaps = is_asynchronous(settings)
    study = Study(
        f"{algorithm.__name__} on {env}",
        tuple(runs),
        facts={"algorithm": algorithm.__name__, "env": str(env), "cpu": machine.cpu, "ray": ray.__version__},
        phases_overlap=overlaps,
        steps_in_turn=steps_in_turn(settings),
        timed_iterations=overlaps and iterations_are_timed(settings),
        swept=True,
    )
    return Experiment(source, (study,), tuple(LeftOut(str(scale), why) for scale, why in failed.items()))
