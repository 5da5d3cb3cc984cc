"""A sweep by probes: measures every configuration many times, in seconds, inside one Algorithm.

Rounds of probes measure the configurations, including the reference, until the best one for the goal is known (see `race`): from
the second one on in random order. A few training iterations after each round measure what an iteration takes apart from sampling.
Eliminated configurations are not probed any more. As long as doubling the envs pays off, more envs are tried. In the end, training
iterations confirm the choice, and compare numbers of threads for the learner.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Final

from rl_scaling_callback.analysis.configurations import MAX_ERROR, Configuration
from rl_scaling_callback.analysis.probe_rounds import MIN_ITERATIONS, ROUNDS_S, ProbeRounds, UnlikeTrainingError
from rl_scaling_callback.analysis.race import Outcome
from rl_scaling_callback.analysis.runs import Run
from rl_scaling_callback.analysis.thread_choice import (
    MAX_BLOCKS,
    MIN_BLOCKS,
    PRECISE,
    ThreadChoice,
    compare_threads,
    thread_counts,
)
from rl_scaling_callback.core.estimates import as_percent, trimmed_mean
from rl_scaling_callback.core.probing import ProbeError
from rl_scaling_callback.core.scale import REFERENCE_SCALE, Scale
from rl_scaling_callback.core.steady import Steady
from rl_scaling_callback.core.text import counted
from rl_scaling_callback.rllib.threads import max_learner_threads
from rl_scaling_callback.sweeping.host import Host
from rl_scaling_callback.sweeping.task import SweepResult, Task, at_scale

_DISTURBED_S: Final = 30.0
"""Time limit for the rounds as long as a speedup has an error above `_KNOWN` [%], because the machine is disturbed."""
_KNOWN: Final = 10.0
_TRAINED_SHARE: Final = 0.5
"""Time of the training iterations per time of the probes. A few iterations suffice for what doesn't depend on sampling."""
_FIRST_ENVS: Final = 2
"""How many numbers of envs to start with if the grid may grow."""


def sweep_by_probes(task: Task, *, grows: bool = True) -> SweepResult:
    """Probe configurations until the best one for a goal is known, and return the measurements.

    Rounds end 12 s after the first one, or 30 s on a disturbed machine. What follows takes about 12 s, or longer if few training
    iterations with each configuration take longer.

    Args:
        task: what to find.
        grows: whether to start with one and two envs, and to try more as long as that pays off, instead of the whole grid.

    Raises:
        ProbeError: the config can't be probed.
        TimeoutError: the cluster's resources are in use by others.
    """
    scales = [REFERENCE_SCALE, *sorted(task.grid.smallest(_FIRST_ENVS if grows else None) - {REFERENCE_SCALE})]
    most = task.grid.runners[-1]
    task.say(f"Starting one Algorithm with {counted(most, 'env runner')} to probe {counted(len(scales), 'configuration')}")
    host = Host(at_scale(task.config, Scale(most, 1)), say=task.say)
    interrupted = False
    try:
        sweep = _Sweep(task, host)
        rounds = sweep.rounds
        try:
            outcome = rounds.run(scales, host.probe, sweep.end_of_rounds, sweep.train)
            if not outcome.over:
                task.say(f"Time is up before the race is decided: others may still beat {outcome.choice}")
            sweep.confirm(outcome)
            sweep.compare_threads(outcome)
        except (KeyboardInterrupt, ProbeError, TimeoutError) as error:
            if isinstance(error, UnlikeTrainingError) or len(rounds.iterations) < MIN_ITERATIONS:
                raise
            interrupted = task.end_early(error)
            if REFERENCE_SCALE not in rounds.probes[-1]:  # what else is in it can't be compared
                rounds.probes.pop()
            outcome = rounds.outcome()
    finally:
        host.close()
    source = f"{counted(sum(map(len, rounds.probes)), 'probe')} in {counted(len(rounds.probes), 'round')}"
    threads = sweep.threads
    experiment = task.experiment(host.machine, sweep.runs(outcome), rounds.failed, source, from_probes=True)
    return SweepResult(experiment, interrupted, {outcome.choice: threads.threads} if threads and threads.is_gain else {})


class _Sweep:
    """A running sweep; `threads` is the choice of the learner's threads, None if they weren't compared."""

    def __init__(self, task: Task, host: Host) -> None:
        self.task, self.host = task, host
        self.rounds = ProbeRounds(task.race, task.grid, task.clock, host.env_steps_per_update)
        self.threads: ThreadChoice | None = None
        self._until = -math.inf

    def end_of_rounds(self, outcome: Outcome) -> float:
        """Tell the standings, and return when the rounds end."""
        running = [each for each in outcome.candidates if each.scale not in outcome.out]
        number, is_known = len(self.rounds.probes), max(each.speedup_error for each in running) < _KNOWN
        end = self.rounds.first_round_ended + (ROUNDS_S if is_known else _DISTURBED_S)
        left = f"{len(running)} of {len(self.rounds.scales)} configurations left"
        self.task.tell_leader(number, outcome.best, f"; {left}, at most {max(0.0, end - self.task.clock()):.0f} s left")
        return end

    def train(self) -> None:
        """Train after a round, so that both see the machine at the same speed, with configurations that could be probed."""
        rounds = self.rounds
        trained_s = sum(each.seconds for each in rounds.iterations)
        while len(rounds.iterations) < MIN_ITERATIONS or trained_s < _TRAINED_SHARE * rounds.probed_s:
            rounds.iterations.append(self.host.train(self._next_to_train()))
            trained_s += rounds.iterations[-1].seconds

    def _next_to_train(self) -> Scale:
        """Return a configuration to learn the update's time from, the reference, and the choice so far, in turn."""
        rounds = self.rounds
        others = [scale for scale in rounds.running if scale != REFERENCE_SCALE]
        turn = len(rounds.iterations) % 3
        if turn == 1 or not others:
            return REFERENCE_SCALE
        # The choice is trained as often as the reference, which confirms its speedup.
        if turn == 2 and (choice := rounds.outcome().choice) in others:
            return choice
        times = Counter(each.scale for each in rounds.iterations)
        # Configurations with the most envs are fastest and most informative about the learner's cost per env.
        return min(others, key=lambda scale: (times[scale], -scale.parallelism))

    def confirm(self, outcome: Outcome) -> None:
        """Train with the reference and the choice in turn, where the rounds haven't, for a note on the choice, which stays."""
        rounds, choice = self.rounds, outcome.choice
        turn_s = sum(rounds.env_steps / each.sps for each in outcome.candidates if each.scale in (REFERENCE_SCALE, choice))
        self._until = self.task.clock() + max(ROUNDS_S, MIN_BLOCKS * turn_s)
        while choice != REFERENCE_SCALE:
            speedups = rounds.trained_speedups(choice)
            enough = MIN_BLOCKS if trimmed_mean(speedups).half_width < PRECISE else MAX_BLOCKS
            if len(speedups) >= enough or self.task.clock() >= self._until:
                break
            if not rounds.confirmations:
                self.task.say(f"Training with {choice}, {REFERENCE_SCALE} to confirm the result")
            last = (rounds.confirmations or rounds.iterations)[-1].scale
            for scale in [choice] if last == REFERENCE_SCALE else [REFERENCE_SCALE, choice]:
                rounds.confirmations.append(self.host.train(scale))

    def compare_threads(self, outcome: Outcome) -> None:
        """Train the choice with different numbers of the learner's threads, where cores are free and updates take notable time."""
        choice, sps, default = outcome.choice, outcome.best.sps, self.host.learner_threads
        config = {**vars(self.task.config), "num_env_runners": choice.num_env_runners}
        learn_share = self.rounds.parts(choice, 1 / sps)["learn"] * sps
        counts = thread_counts(max_learner_threads(config, self.host.machine.cores), default, learn_share)
        if not counts:
            return
        self.task.say(f"Training with {', '.join(map(str, counts))} threads for the learner's torch")
        steps = compare_threads(counts, int(default), has_time=lambda: self.task.clock() < self._until)
        try:
            threads = next(steps)
            while True:
                threads = steps.send(self.host.train(choice, threads))
        except StopIteration as end:
            self.threads = end.value
            self.task.say(f"{self.threads}")

    def runs(self, outcome: Outcome) -> list[Run]:
        """Return a run per configuration, whose only iteration is the one to expect."""
        rounds, machine = self.rounds, self.host.machine
        runs: list[Run] = []
        for each in outcome.candidates:
            seconds = rounds.env_steps / each.sps
            steady = Steady(
                sps=each.sps,
                error=each.relative_error,
                iterations=1,
                env_steps=rounds.env_steps,
                seconds=seconds,
                parts={name: part * rounds.env_steps for name, part in rounds.parts(each.scale, 1 / each.sps).items()},
            )
            is_choice = each.scale == outcome.choice
            found = [_comparison(each, rounds.trained_speedups(each.scale)), f"{self.threads or ''}"] if is_choice else []
            runs.append(
                Run(
                    name=f"sweep of {each.scale}",
                    scale=each.scale,
                    steady=steady,
                    cores=machine.cores,
                    cpus=each.cpus,
                    threads_compared=is_choice and self.threads is not None,
                    notes=tuple(filter(None, found)),
                )
            )
        return runs


def _comparison(probed: Configuration, trained: Sequence[float]) -> str:
    """Return a note that compares the speedup by probes with ln of those in training; "" with fewer than two."""
    if len(trained) < 2:
        return ""
    mean, _, half_width = trimmed_mean(trained)
    if half_width > math.log1p(MAX_ERROR / 100):
        return f"training iterations vary too much to confirm it (probes: {probed.speedup:.2f}×)"
    noise = math.hypot(math.log1p(probed.speedup_error / 100), half_width)
    differ = "; they differ by more than their errors" if abs(mean - math.log(probed.speedup)) > noise else ""
    confirmed = f"{math.exp(mean):.2f}× ± {as_percent(half_width):.0f} %"
    return f"training iterations: {confirmed} (probes: {probed.speedup:.2f}×){differ}"
