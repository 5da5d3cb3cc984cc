"""What both ways of sweeping share: the task, and its result with the experiment to report on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import ray

from rl_scaling_callback.analysis.configurations import Configuration
from rl_scaling_callback.analysis.race import Grid, Race
from rl_scaling_callback.analysis.runs import Experiment, LeftOut, Run, Study
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.text import percent, rounded
from rl_scaling_callback.rllib.configs import is_asynchronous, iterations_are_timed, steps_in_turn
from rl_scaling_callback.rllib.hardware import Machine

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
        clock: returns monotonic seconds.
    """

    config: AlgorithmConfig
    race: Race
    grid: Grid
    budget_s: float | None = None
    say: Callable[[str], None] = print
    clock: Callable[[], float] = time.monotonic


class SweepResult(NamedTuple):
    """The measurements of a sweep, whether the user interrupted it, and the learner's threads to set at a scale, if any."""

    experiment: Experiment
    interrupted: bool
    learner_threads: Mapping[Scale, int]


def leader(number: int, choice: Configuration) -> str:
    """Return `"Round 3: 2r×8e leads, 3.41× ± 12 %"`."""
    error = f" {percent(choice.speedup_error)}" if choice.speedup_error > 0 else ""
    return f"Round {number}: {choice.scale} leads, {rounded(choice.speedup, 2, '×')}{error}"


def experiment_of(
    config: AlgorithmConfig, machine: Machine, runs: Sequence[Run], failed: Mapping[Scale, str], source: str, *, estimated: bool
) -> Experiment:
    """Return the experiment of a sweep.

    Args:
        config: the swept config.
        machine: the machine of the Algorithm's process.
        runs: the runs.
        failed: configurations that can't be measured, with the reason.
        source: what was measured.
        estimated: whether each run is an iteration to expect, with an error relative to the others, instead of a measured window.
    """
    settings, algorithm = vars(config), cast(Any, config.algo_class)
    env = config.env if isinstance(config.env, str) else getattr(config.env, "__name__", "env")
    overlaps = is_asynchronous(settings)
    study = Study(
        f"{algorithm.__name__} on {env}",
        tuple(runs),
        facts={"algorithm": algorithm.__name__, "env": str(env), "cpu": machine.cpu, "ray": ray.__version__},
        phases_overlap=overlaps,
        steps_in_turn=steps_in_turn(settings),
        timed_iterations=overlaps and iterations_are_timed(settings),
        swept=estimated,
    )
    return Experiment(source, (study,), tuple(LeftOut(str(scale), why) for scale, why in failed.items()))
