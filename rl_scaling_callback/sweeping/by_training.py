"""A sweep without probes, where they can't predict training: builds the Algorithm anew for each configuration and trains it.

It starts with one env runner with one env, and doubles along each axis from the best configuration so far as long as that pays off.
Then it measures the reference and the two best configurations again, in turn, which confirms them and shows how much measurements
vary. Each measurement is one entry of a race's round.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from rl_scaling_callback.analysis.choice import choose
from rl_scaling_callback.analysis.configurations import pooled
from rl_scaling_callback.analysis.probe_rounds import is_within
from rl_scaling_callback.analysis.race import Grid, Outcome, Race
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.probing import ProbeError
from rl_scaling_callback.core.scale import REFERENCE_SCALE, Scale
from rl_scaling_callback.core.steady import Steady, SteadyRule, SteadyWindow
from rl_scaling_callback.core.text import counted
from rl_scaling_callback.report.progress import ProgressView
from rl_scaling_callback.rllib.configs import evaluates
from rl_scaling_callback.sweeping import cluster
from rl_scaling_callback.sweeping.host import Host
from rl_scaling_callback.sweeping.outcome import Swept, Work, experiment_of, view

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

_RULE: Final = SteadyRule(warmup_iterations=1, min_iterations=3, max_iterations=5)
_LEAST_S: Final = 3.0
"""Train at least this long, because the speed of shared machines varies from second to second."""
_MOST_ITERATIONS: Final = 60
"""Asynchronous algorithms may get no samples for a long time if cores are few."""
_TIMES: Final = 3
_MOST_ROUNDS: Final = 5
"""Rounds go on until the choice was measured three times, and if it keeps changing, up to five."""


def sweep_by_training(
    config: AlgorithmConfig,
    race: Race,
    grid: Grid,
    *,
    budget_s: float | None = None,
    say: Callable[[str], None] = print,
    progress: Callable[[ProgressView], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> Swept:
    """Train configurations until the best one for a goal is known, and return the measurements.

    Args:
        config: the config to tune.
        race: the rules.
        grid: the numbers of env runners and of envs to try.
        budget_s: start no measurement after this time [s]; None for no limit.
        say: called with progress messages.
        progress: called with the standings after each measurement.
        clock: returns monotonic seconds.

    Raises:
        ProbeError: the reference can't be measured.
        TimeoutError: the cluster's resources are in use by others.
        KeyboardInterrupt: interrupted before the reference was measured.
    """
    if evaluates(vars(config)):
        config = config.copy(copy_frozen=False).evaluation(evaluation_interval=None)
    trained, race = _Trained(config, say), replace(race, independent=True)
    until = math.inf if budget_s is None else clock() + budget_s
    scales, interrupted = [REFERENCE_SCALE], False
    todo = [REFERENCE_SCALE, *({Scale(grid.runners[0], grid.envs[0])} - {REFERENCE_SCALE})]
    try:
        while todo:
            for scale in todo:
                if clock() >= until and trained.rounds[0]:
                    break
                trained.measure(scale)
                scales += [scale] * (scale not in scales)
                outcome = trained.judge(race, scales)
                progress(view(outcome, trained.failed, len(trained.rounds), max(0.0, until - clock())))
            todo = [] if clock() >= until else _next(trained, race, grid, outcome)
    except KeyboardInterrupt:
        if not trained.rounds[0]:
            raise
        say("Interrupted: showing the results so far")
        interrupted = True
    outcome = trained.judge(race, scales)
    times = sum(map(len, trained.rounds))
    work = {each.scale: trained.work(each.scale, each.sps) for each in outcome.candidates}
    source = f"{counted(times, 'training run')} of {counted(len(work), 'configuration')}"
    return Swept(experiment_of(config, trained.machine, outcome, work, trained.failed, source), interrupted)


class _Trained:
    """The measurements so far.

    Attributes:
        rounds: the steady states of each round.
        failed: configurations that can't be trained, with the reason.
    """

    def __init__(self, config: AlgorithmConfig, say: Callable[[str], None]) -> None:
        self._config, self._say = config, say
        self.rounds: list[dict[Scale, Steady]] = [{}]
        self.failed: dict[Scale, str] = {}

    def measure(self, scale: Scale) -> None:
        """Build the Algorithm at a scale and train it to a steady state."""
        self._say(f"Training with {scale}")
        try:
            self.rounds[-1][scale] = self._steady(scale)
        except ProbeError as error:
            if scale == REFERENCE_SCALE and not self.rounds[0]:
                raise
            self.failed[scale] = str(error)
            self._say(f"{scale} is left out: {error}")

    def _steady(self, scale: Scale) -> Steady:
        host = Host(cluster.at_scale(self._config, scale), probes=False, say=self._say)
        self.machine = host.machine
        window = SteadyWindow(_RULE)
        try:
            for _ in range(_MOST_ITERATIONS):
                iteration = host.train(scale)
                window.add(iteration.env_steps, iteration.seconds, iteration.parts)
                steady = window.read()
                if steady.settled and steady.seconds >= _LEAST_S and steady.sps > 0:
                    return steady
        finally:
            host.close()
        raise ProbeError(f"not steady after {_MOST_ITERATIONS} iterations, most of which sampled no env steps")

    def judge(self, race: Race, scales: Sequence[Scale]) -> Outcome:
        """Return the outcome of a race after these rounds."""
        rows = [[1 / each[scale].sps if scale in each else NAN for scale in scales] for each in self.rounds]
        return race.judge(scales, np.array(rows))

    def work(self, scale: Scale, sps: float) -> Work:
        """Return the work in an iteration; its parts add up to the estimated time, not to that of these runs."""
        steady = pooled([each[scale] for each in self.rounds if scale in each])
        parts = {name: seconds / steady.seconds / sps for name, seconds in steady.parts.items()}
        return Work(steady.env_steps / steady.iterations, parts)


def _next(trained: _Trained, race: Race, grid: Grid, outcome: Outcome) -> list[Scale]:
    """Return what to measure next; empty if the sweep is over."""
    larger = race.worth_adding(outcome, grid, near=[outcome.choice])
    more = [each for each in larger if not any(is_within(failed, each) for failed in trained.failed)]
    times = sum(outcome.choice in each for each in trained.rounds)
    if more or times >= _TIMES or len(trained.rounds) == _MOST_ROUNDS:
        return more
    trained.rounds.append({})
    rivals = [
        each for each in outcome.candidates if each.scale not in (REFERENCE_SCALE, outcome.choice) and each.scale not in outcome.out
    ]
    second = [choose(rivals, race.goal).best.scale] if rivals else []
    return [each for each in dict.fromkeys([REFERENCE_SCALE, outcome.choice, *second]) if each not in trained.failed]
