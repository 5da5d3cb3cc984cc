"""A sweep without probes, where they can't predict training: builds the Algorithm anew for each configuration and trains it.

It starts with one env runner with one env, and doubles along each axis from the best configuration so far as long as that pays off.
Then it measures the reference and the two best configurations again, in turn, which confirms them and shows how much measurements
vary. Each measurement is one entry of a race's round.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from rl_scaling_callback.analysis.choice import choose
from rl_scaling_callback.analysis.configurations import pooled
from rl_scaling_callback.analysis.probe_rounds import is_within
from rl_scaling_callback.analysis.race import Outcome
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.probing import ProbeError
from rl_scaling_callback.core.scale import REFERENCE_SCALE, Scale
from rl_scaling_callback.core.steady import Steady, SteadyRule, SteadyWindow
from rl_scaling_callback.core.text import counted
from rl_scaling_callback.rllib.hardware import Host as Machine
from rl_scaling_callback.sweeping import cluster
from rl_scaling_callback.sweeping.host import Host
from rl_scaling_callback.sweeping.outcome import Swept, Task, Work, experiment_of, view

_RULE: Final = SteadyRule(warmup_iterations=1, min_iterations=3, max_iterations=5)
_MIN_S: Final = 3.0
"""Train at least this long, because the speed of shared machines varies from second to second."""
_MAX_ITERATIONS: Final = 60
"""Asynchronous algorithms may get no samples for a long time if cores are few."""
_REPEATS: Final = 3
_MAX_ROUNDS: Final = 5
"""Rounds go on until the choice was measured three times, and if it keeps changing, up to five."""


def sweep_by_training(task: Task) -> Swept:
    """Train configurations until the best one for a goal is known, and return the measurements.

    No measurement starts after the time limit, by default there is none.

    Raises:
        ProbeError: the reference can't be measured.
        TimeoutError: the cluster's resources are in use by others.
        KeyboardInterrupt: interrupted before the reference was measured.
    """
    trained = _Trained(replace(task, race=replace(task.race, independent=True)))
    until = math.inf if task.budget_s is None else task.clock() + task.budget_s
    todo, interrupted = [*{REFERENCE_SCALE: None, Scale(task.grid.runners[0], task.grid.envs[0]): None}], False
    try:
        while todo:
            for scale in todo:
                if task.clock() >= until and trained.rounds[0]:
                    break
                trained.measure(scale)
                outcome = trained.judge()
                task.progress(view(outcome, trained.failed, len(trained.rounds), until - task.clock()))
            todo = [] if task.clock() >= until else trained.next(outcome)
    except KeyboardInterrupt:
        if not trained.rounds[0]:
            raise
        task.say("Interrupted: showing the results so far")
        interrupted = True
    outcome = trained.judge()
    work = {each.scale: trained.work(each.scale, each.sps) for each in outcome.candidates}
    source = f"{counted(sum(map(len, trained.rounds)), 'training run')} of {counted(len(work), 'configuration')}"
    return Swept(experiment_of(task.config, trained.machine, outcome, work, trained.failed, source), interrupted)


@dataclass(slots=True)
class _Trained:
    """The measurements so far.

    Attributes:
        task: what to find.
        rounds: the steady states of each round.
        scales: the configurations, in the order in which they were first trained.
        failed: those that can't be trained, with the reason.
        machine: the machine of the last Algorithm's process.
    """

    task: Task
    rounds: list[dict[Scale, Steady]] = field(default_factory=lambda: [{}])
    scales: dict[Scale, None] = field(default_factory=dict)
    failed: dict[Scale, str] = field(default_factory=dict)
    machine: Machine = field(init=False)

    def measure(self, scale: Scale) -> None:
        """Build the Algorithm at a scale and train it to a steady state."""
        self.task.say(f"Training with {scale}")
        try:
            self.rounds[-1][scale] = self._steady(scale)
        except ProbeError as error:
            if scale == REFERENCE_SCALE and not self.rounds[0]:
                raise
            self.failed[scale] = str(error)
            self.task.say(f"{scale} is left out: {error}")
        self.scales[scale] = None

    def _steady(self, scale: Scale) -> Steady:
        host = Host(cluster.at_scale(self.task.config, scale), probes=False, say=self.task.say)
        self.machine = host.machine
        window = SteadyWindow(_RULE)
        try:
            for _ in range(_MAX_ITERATIONS):
                iteration = host.train(scale)
                window.add(iteration.env_steps, iteration.seconds, iteration.parts)
                steady = window.read()
                if steady.settled and steady.seconds >= _MIN_S and steady.sps > 0:
                    return steady
        finally:
            host.close()
        raise ProbeError(f"not steady after {_MAX_ITERATIONS} iterations, most of which sampled no env steps")

    def judge(self) -> Outcome:
        """Return the outcome of the race after these rounds."""
        rows = [[1 / each[scale].sps if scale in each else NAN for scale in self.scales] for each in self.rounds]
        return self.task.race.judge([*self.scales], np.array(rows))

    def next(self, outcome: Outcome) -> list[Scale]:
        """Return what to measure next, in a new round if no larger configuration is worth it; empty if the sweep is over."""
        race, choice = self.task.race, outcome.choice
        larger = race.worth_adding(outcome, self.task.grid, near=[choice])
        more = [each for each in larger if not any(is_within(failed, each) for failed in self.failed)]
        if more or sum(choice in each for each in self.rounds) >= _REPEATS or len(self.rounds) == _MAX_ROUNDS:
            return more
        self.rounds.append({})
        rivals = [each for each in outcome.candidates if each.scale not in {REFERENCE_SCALE, choice, *outcome.out}]
        second = [choose(rivals, race.goal)[0].scale] if rivals else []
        return [each for each in dict.fromkeys([REFERENCE_SCALE, choice, *second]) if each not in self.failed]

    def work(self, scale: Scale, sps: float) -> Work:
        """Return the work in an iteration; its parts add up to the estimated time, not to that of these runs."""
        steady = pooled([each[scale] for each in self.rounds if scale in each])
        parts = {name: seconds / steady.seconds / sps for name, seconds in steady.parts.items()}
        return Work(steady.env_steps / steady.iterations, parts)
