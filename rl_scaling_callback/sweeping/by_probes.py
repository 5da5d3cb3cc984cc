"""A sweep by probes: measures every configuration many times, in seconds, inside one Algorithm.

A few training iterations measure what an iteration takes apart from sampling. Rounds of probes then measure the configurations,
including the reference, in random order, until the best one for the goal is known (see `race`). Eliminated configurations are not
probed any more. As long as doubling the envs pays off, more envs are tried. Training iterations confirm the choice, and compare
numbers of threads for the learner.
"""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from rl_scaling_callback.analysis.configurations import MAX_ERROR
from rl_scaling_callback.analysis.goals import Candidate
from rl_scaling_callback.analysis.probe_rounds import MIN_ITERATIONS, ProbeRounds, UnlikeTrainingError, is_within
from rl_scaling_callback.analysis.race import MIN_ROUNDS, Outcome
from rl_scaling_callback.analysis.thread_choice import MIN_LEARN_SHARE, Block, ThreadChoice, choose_threads, thread_counts
from rl_scaling_callback.core.estimates import trimmed_mean
from rl_scaling_callback.core.probing import Probe, ProbeError
from rl_scaling_callback.core.scale import REFERENCE_SCALE, Scale
from rl_scaling_callback.core.text import counted
from rl_scaling_callback.rllib.threads import max_learner_threads
from rl_scaling_callback.sweeping import cluster
from rl_scaling_callback.sweeping.host import Host
from rl_scaling_callback.sweeping.outcome import Swept, Task, Work, experiment_of, view

_BUDGET_S: Final = 12.0
"""Default time limit for the rounds after the first one, and for the confirmation. In simulations (`tests/benchmarks/race.py`), ten
rounds, which take about as long, choose nearly as well as forty."""
_MAX_BUDGET_S: Final = 30.0
_KNOWN: Final = 10.0
"""The default time limit for the rounds as long as a speedup has an error above 10 %, because the machine is disturbed."""
_MIN_TURNS: Final = 3
_MAX_TURNS: Final = 8
_PRECISE: Final = 0.1
"""Training iterations that confirm a speedup or compare threads: three of each kind, and up to eight until the half-width of the
interval of ln(ratio) is below 0.1. From five on, outliers are trimmed."""
_CONFIRMING: Final = 0.25
"""Share of a budget for that."""
_NAMED: Final = 5
"""Rivals named in a message."""
_TRAINED_SHARE: Final = 0.5
"""Time of the training iterations per time of the probes. A few iterations suffice for what doesn't depend on sampling."""
_FIRST_ENVS: Final = 2
"""Numbers of envs to start with if the grid may grow."""


def sweep_by_probes(task: Task, *, grows: bool = True) -> Swept:
    """Probe configurations until the best one for a goal is known, and return the measurements.

    The time limit includes everything once the Algorithm has started, but at least one round is run. By default, it is 12 s after
    the first round, 30 s on a disturbed machine, and 12 s for what follows the rounds, or longer if few training iterations with
    each configuration take longer.

    Args:
        task: what to find.
        grows: whether to start with one and two envs, and to try more as long as that pays off, instead of the whole grid.

    Raises:
        ProbeError: the config can't be probed.
        TimeoutError: the cluster's resources are in use by others.
    """
    envs = task.grid.envs[:_FIRST_ENVS] if grows else task.grid.envs
    scales = [REFERENCE_SCALE, *sorted({Scale(r, e) for r in task.grid.runners for e in envs} - {REFERENCE_SCALE})]
    most = task.grid.runners[-1]
    task.say(f"Starting one Algorithm with {counted(most, 'env runner')} to probe {counted(len(scales), 'configuration')}")
    host = Host(cluster.at_scale(task.config, Scale(most, 1)), say=task.say)
    interrupted = False
    try:
        rounds = ProbeRounds(scales, host.steps_per_update(scales))
        running = _Running(task, host, rounds, _TimeLimit(task.budget_s, task.clock))
        try:
            outcome = running.probe()
            running.confirm(outcome)
            running.compare_threads(outcome)
        except (KeyboardInterrupt, ProbeError) as error:
            if isinstance(error, UnlikeTrainingError) or len(rounds.iterations) < MIN_ITERATIONS:
                raise
            interrupted = isinstance(error, KeyboardInterrupt)
            task.say(f"{'Interrupted' if interrupted else f'Ended early ({error})'}: showing the results so far")
            outcome = rounds.judge(task.race)
    finally:
        host.close()
    source = f"{counted(sum(map(len, rounds.probes)), 'probe')} in {counted(len(rounds.probes), 'round')}"
    threads = running.threads
    experiment = experiment_of(task.config, host.machine, outcome, _work(rounds, outcome, threads), rounds.failed, source)
    return Swept(experiment, interrupted, threads.threads if threads and threads.is_gain else None)


class _TimeLimit:
    """The time that a sweep has left: until its budget [s] is spent, or by default until that of the current step is."""

    def __init__(self, budget_s: float | None, clock: Callable[[], float]) -> None:
        self._budget_s, self._clock = budget_s, clock
        self._until = clock() + (budget_s or 0.0)
        self._round_since = clock()

    def after_round(self, number: int, is_known: bool) -> float:
        """Return the time left for rounds [s]; with a budget, after another round like this one. Negative if there is none.

        `number` is that of the rounds so far, and `is_known` whether errors are small.
        """
        now = self._clock()
        took, self._round_since = now - self._round_since, now
        if self._budget_s is None:
            # The first round includes the creation of envs.
            self._until = now + _BUDGET_S if number == 1 else self._until
            return self._until - now + (0.0 if is_known else _MAX_BUDGET_S - _BUDGET_S)
        # Few rounds are better spent on probes than on a confirmation.
        confirming = _CONFIRMING * self._budget_s if number >= MIN_ROUNDS else 0.0
        return self._until - now - (took if number > 1 else took / 2) - confirming

    def allow(self, seconds: float) -> bool:
        """Return whether so much time is left; without a budget, make sure of it."""
        if self._budget_s is not None:
            return self.has(seconds)
        self._until = max(self._until, self._clock() + seconds)
        return True

    def has(self, seconds: float) -> bool:
        """Return whether so much time is left."""
        return self._clock() + seconds <= self._until


@dataclass(slots=True)
class _Running:
    """A running sweep; `threads` is the choice of the learner's threads, None if they weren't compared."""

    task: Task
    host: Host
    rounds: ProbeRounds
    limit: _TimeLimit
    threads: ThreadChoice | None = None

    def probe(self) -> Outcome:
        """Run rounds until the best configuration is known or the time is up."""
        rounds, race = self.rounds, self.task.race
        while True:
            self._run_round()
            outcome = rounds.judge(race)
            is_known = max(each.speedup_error for each in outcome.candidates if each.scale not in outcome.out) < _KNOWN
            left = self.limit.after_round(len(rounds.probes), is_known)
            self.task.progress(view(outcome, rounds.failed, len(rounds.probes), left))
            larger = race.worth_adding(outcome, self.task.grid) if len(rounds.probes) > 1 else ()
            more = [scale for scale in larger if scale not in rounds.scales]
            if (outcome.over and not more) or left < 0:
                break
            rounds.out = outcome.out
            rounds.steps |= self.host.steps_per_update(more)
            rounds.scales += more
        if not outcome.over:
            rivals = ", ".join(map(str, outcome.rivals[:_NAMED])) + " …" * (len(outcome.rivals) > _NAMED)
            self.task.say(f"Time is up; may still beat {outcome.choice}: {rivals or 'none, but few rounds were run'}. See --budget")
        return outcome

    def _run_round(self) -> None:
        """Run a round of probes, then some training iterations, so that both see the machine at the same speed.

        Every configuration is probed before it is trained: a probe survives a failing env and reports the error; training doesn't.

        Raises:
            ProbeError: the reference can't be probed, or probes don't reproduce training.
        """
        rounds, started = self.rounds, time.perf_counter()
        found: dict[Scale, Probe] = {}
        # The first round creates the envs, in all env runners at once; the configurations most likely to fail come last.
        creation = sorted(rounds.running, key=lambda scale: (scale.num_envs_per_env_runner, -scale.num_env_runners))
        for scale in random.sample(creation, len(creation)) if rounds.probes else creation:
            if scale in rounds.failed:
                continue
            probe = self.host.probe(scale)
            if isinstance(probe, Probe):
                found[scale] = probe
            elif scale == REFERENCE_SCALE:
                raise ProbeError(probe)
            else:
                rounds.failed[scale] = probe
                if self.host.recover():
                    # It killed env runners, and larger configurations would as well.
                    untried = [each for each in rounds.scales if each not in found and each not in rounds.failed]
                    rounds.failed |= {each: f"not tried after {scale}: {probe}" for each in untried if is_within(scale, each)}
        rounds.probes.append(found)
        rounds.probed_s += time.perf_counter() - started
        while len(rounds.iterations) < MIN_ITERATIONS or rounds.trained_s < _TRAINED_SHARE * rounds.probed_s:
            rounds.iterations.append(self.host.train(self._next_to_train()))
        rounds.check()

    def _next_to_train(self) -> Scale:
        """Return a configuration to learn the update's time from, the reference, and the choice so far, in turn."""
        rounds = self.rounds
        others = [scale for scale in rounds.running if scale != REFERENCE_SCALE]
        turn = len(rounds.iterations) % 3
        if turn == 1 or not others:
            return REFERENCE_SCALE
        # The choice is trained as often as the reference, which confirms its speedup.
        if turn == 2 and (choice := rounds.judge(self.task.race).choice) in others:
            return choice
        times = Counter(each.scale for each in rounds.iterations)
        # Configurations with the most envs are fastest and most informative about the learner's cost per env.
        return min(others, key=lambda scale: (times[scale], -scale.parallelism))

    def confirm(self, outcome: Outcome) -> None:
        """Train with the reference and the choice in turn, where the rounds haven't."""
        rounds, choice = self.rounds, outcome.choice
        turn_s = sum(rounds.env_steps / each.sps for each in outcome.candidates if each.scale in (REFERENCE_SCALE, choice))
        # The first turn may take up to twice the predicted time.
        self.limit.allow(max(_BUDGET_S, 3 * turn_s))
        while choice != REFERENCE_SCALE:
            speedups = rounds.trained_speedups(choice)
            if _suffice(len(speedups), trimmed_mean(speedups).half_width):
                break
            if not self.limit.has(turn_s):
                if len(speedups) < 2:
                    self.task.say("The budget leaves no time to confirm the result by training")
                break
            if not rounds.confirmations:
                self.task.say(f"Training with {choice}, {REFERENCE_SCALE} to confirm the result")
            for scale in [choice] if rounds.last_trained == REFERENCE_SCALE else [REFERENCE_SCALE, choice]:
                rounds.confirmations.append(self.host.train(scale))

    def compare_threads(self, outcome: Outcome) -> None:
        """Train the choice with different numbers of the learner's threads, where cores are free and updates take notable time."""
        choice, rounds, default = outcome.choice, self.rounds, self.host.learner_threads
        sps = next(each.sps for each in outcome.candidates if each.scale == choice)
        config = {**vars(self.task.config), "num_env_runners": choice.num_env_runners}
        most = max_learner_threads(config, self.host.machine.cores)
        if most < 2 or math.isnan(default) or rounds.parts(choice, 1 / sps)["learn"] * sps < MIN_LEARN_SHARE:
            return
        counts, blocks = thread_counts(most, int(default)), list[Block]()
        block_s = len(counts) * rounds.env_steps / sps
        if not self.limit.allow(_MIN_TURNS * block_s):
            self.task.say("The budget leaves no time to compare numbers of threads for the learner")
            return
        self.task.say(f"Training with {', '.join(map(str, counts))} threads for the learner's torch")
        while len(blocks) < _MIN_TURNS or self.limit.has(block_s):
            blocks.append({threads: self.host.train(choice, threads) for threads in random.sample(counts, len(counts))})
            self.threads = choose_threads(blocks, int(default))
            if _suffice(len(blocks), self.threads.half_width):
                break
        self.task.say(f"{self.threads}")


def _suffice(turns: int, half_width: float) -> bool:
    """Return whether so many training iterations of each kind suffice."""
    return turns >= _MAX_TURNS or (turns >= _MIN_TURNS and half_width < _PRECISE)


def _work(rounds: ProbeRounds, outcome: Outcome, threads: ThreadChoice | None) -> dict[Scale, Work]:
    """Return the work in an iteration of each configuration."""
    work = {each.scale: Work(rounds.env_steps, rounds.parts(each.scale, 1 / each.sps)) for each in outcome.candidates}
    choice = next(each for each in outcome.candidates if each.scale == outcome.choice)
    notes = [_comparison(choice, rounds.trained_speedups(choice.scale)), "" if threads is None else str(threads)]
    return work | {choice.scale: work[choice.scale]._replace(notes=tuple(filter(None, notes)))}


def _comparison(probed: Candidate, trained: Sequence[float]) -> str:
    """Return a note that compares the speedup by probes with ln of those in training; "" with fewer than two."""
    if len(trained) < 2:
        return ""
    mean, _, half_width = trimmed_mean(trained)
    if half_width > math.log1p(MAX_ERROR / 100):
        return f"training iterations vary too much to confirm it (probes: {probed.speedup:.2f}×)"
    noise = math.hypot(math.log1p(probed.speedup_error / 100), half_width)
    differ = "; they differ by more than their errors" if abs(mean - math.log(probed.speedup)) > noise else ""
    confirmed = f"{math.exp(mean):.2f}× ± {100 * math.expm1(half_width):.0f} %"
    return f"training iterations: {confirmed} (probes: {probed.speedup:.2f}×){differ}"
