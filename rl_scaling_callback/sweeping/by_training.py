"""A sweep without probes, where they can't predict training: builds the Algorithm anew for each configuration and trains it.

It starts with one env runner with one env, and doubles along each axis from the best configuration so far as long as that pays off.
Then it measures the reference and the two best configurations again, in turn, which confirms them and shows how much measurements
vary. Each measurement is a run, as a trial is, and so are the figures and the choice.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from rl_scaling_callback.analysis.choice import choose
from rl_scaling_callback.analysis.configurations import Configuration, configurations
from rl_scaling_callback.analysis.probe_rounds import is_within
from rl_scaling_callback.analysis.runs import Experiment, Run
from rl_scaling_callback.core.probing import ProbeError
from rl_scaling_callback.core.scale import REFERENCE_SCALE, Scale
from rl_scaling_callback.core.steady import Steady, SteadyRule, SteadyWindow
from rl_scaling_callback.core.text import counted
from rl_scaling_callback.rllib.hardware import Machine
from rl_scaling_callback.sweeping.host import Host
from rl_scaling_callback.sweeping.task import SweepResult, Task, at_scale

_RULE: Final = SteadyRule(warmup_iterations=1, min_iterations=3, max_iterations=5)
_MIN_S: Final = 3.0
"""Train at least this long, because the speed of shared machines varies from second to second."""
_MAX_ITERATIONS: Final = 60
"""Asynchronous algorithms may get no samples for a long time if cores are few."""
_REPEATS: Final = 3
_MAX_ROUNDS: Final = 5
"""Rounds go on until the choice was measured three times, and if it keeps changing, up to five."""


def sweep_by_training(task: Task) -> SweepResult:
    """Train configurations until the best one for a goal is known, and return the measurements.

    Raises:
        ProbeError: the reference can't be measured.
        TimeoutError: the cluster's resources are in use by others.
        KeyboardInterrupt: interrupted before the reference was measured.
    """
    sweep = _Sweep(task)
    todo, interrupted = [*dict.fromkeys([REFERENCE_SCALE, Scale(task.grid.runners[0], task.grid.envs[0])])], False
    try:
        while todo:
            for scale in todo:
                sweep.measure(scale)
            todo = sweep.next()
    except (KeyboardInterrupt, TimeoutError) as error:
        if not sweep.runs:
            raise
        interrupted = task.end_early(error)
    return SweepResult(sweep.experiment(), interrupted, {})


class _Sweep:
    """The measurements so far."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.runs: list[Run] = []
        self._round = 1
        self._failed: dict[Scale, str] = {}
        self._machine: Machine | None = None

    def measure(self, scale: Scale) -> None:
        """Build the Algorithm at a scale and train it to a steady state."""
        self.task.say(f"Training with {scale}")
        try:
            host = Host(at_scale(self.task.config, scale), probes=False, say=self.task.say)
            try:
                steady = _steady(host, scale)
            finally:
                host.close()
        except ProbeError as error:
            if not self.runs:
                raise
            self._failed[scale] = str(error)
            if scale != REFERENCE_SCALE:  # It can't be relied on, even if it was measured before.
                self.runs = [run for run in self.runs if run.scale != scale]
            self.task.say(f"{scale} is left out: {error}")
            return
        self._machine = host.machine
        cores, cpus = host.machine.cores, self.task.race.cpus(scale)
        self.runs.append(Run(name=f"sweep of {scale}", scale=scale, steady=steady, cores=cores, cpus=cpus))
        self.task.tell_leader(self._round, choose(self._configurations(), self.task.race.goal)[0])

    def experiment(self) -> Experiment:
        """Return the experiment so far."""
        assert self._machine is not None
        measured = counted(len({run.scale for run in self.runs}), "configuration")
        source = f"{counted(len(self.runs), 'training run')} of {measured}"
        return self.task.experiment(self._machine, self.runs, self._failed, source, from_probes=False)

    def _configurations(self) -> list[Configuration]:
        return [each for each in configurations(self.experiment().studies[0]) if each.speedup > 0]

    def next(self) -> list[Scale]:
        """Return what to measure next, in a new round if no larger configuration is worth it; empty if the sweep is over."""
        race, known = self.task.race, self._configurations()
        choice = choose(known, race.goal)[0].scale
        larger = race.worth_adding(known, self.task.grid, [choice])
        tried = {run.scale for run in self.runs}
        if more := [each for each in larger if each not in tried and not any(is_within(failed, each) for failed in self._failed)]:
            return more
        if Counter(run.scale for run in self.runs)[choice] >= _REPEATS or self._round == _MAX_ROUNDS:
            return []
        self._round += 1
        rest = [each for each in known if each.scale not in (REFERENCE_SCALE, choice)]
        second = [choose(rest, race.goal)[0].scale] if rest else []
        return [each for each in dict.fromkeys([REFERENCE_SCALE, choice, *second]) if each not in self._failed]


def _steady(host: Host, scale: Scale) -> Steady:
    window = SteadyWindow(_RULE)
    for _ in range(_MAX_ITERATIONS):
        iteration = host.train(scale)
        window.add(iteration.env_steps, iteration.seconds, iteration.parts)
        steady = window.read()
        if steady.settled and steady.seconds >= _MIN_S and steady.sps > 0:
            return steady
    raise ProbeError(f"not steady after {_MAX_ITERATIONS} iterations, most of which sampled no env steps")
