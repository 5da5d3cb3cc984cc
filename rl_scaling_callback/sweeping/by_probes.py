"""A sweep by probes: measures every configuration many times, in seconds, inside one Algorithm.

A few training iterations measure what an iteration takes apart from sampling. Rounds of probes then measure the configurations,
including the reference, in random order, until the best one for the goal is known (see `race`). Eliminated configurations are not
probed any more. As long as doubling the envs pays off, more envs are tried.
"""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Final

from rl_scaling_callback.analysis.configurations import MAX_ERROR
from rl_scaling_callback.analysis.probe_rounds import FEWEST_ITERATIONS, ProbeRounds, UnlikeTrainingError, is_within
from rl_scaling_callback.analysis.race import FEWEST_ROUNDS, Grid, Outcome, Race
from rl_scaling_callback.core.estimates import Estimate, trimmed_mean
from rl_scaling_callback.core.probing import Probe, ProbeError
from rl_scaling_callback.core.scale import REFERENCE_SCALE, Scale
from rl_scaling_callback.core.text import counted
from rl_scaling_callback.report.progress import ProgressView
from rl_scaling_callback.sweeping import cluster
from rl_scaling_callback.sweeping.host import Host
from rl_scaling_callback.sweeping.outcome import Swept, Work, experiment_of, view

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

_BUDGET_S: Final = 12.0
"""Default time limit for the rounds after the first one, and for the confirmation. In simulations (`tests/benchmarks/race.py`), ten
rounds, which take about as long, choose nearly as well as forty."""
_LONGEST_BUDGET_S: Final = 30.0
_KNOWN: Final = 10.0
"""The default time limit for the rounds as long as a speedup has an error above 10 %, because the machine is disturbed."""
_CONFIRMED: Final = 3
_MOST_CONFIRMED: Final = 8
_CONFIRMING: Final = 0.25
"""Share of a budget for that."""
_PRECISE: Final = 0.1
"""Training iterations that confirm a speedup: three with each configuration, and up to eight until the half-width of the interval
of ln(speedup) is below 0.1. From five on, outliers are trimmed."""
_NAMED: Final = 5
"""Rivals named in a message."""
_TRAINED_SHARE: Final = 0.5
"""Time of the training iterations per time of the probes. A few iterations suffice for what doesn't depend on sampling."""
_FIRST_ENVS: Final = 2
"""Numbers of envs to start with if the grid may grow."""


def sweep_by_probes(
    config: AlgorithmConfig,
    race: Race,
    grid: Grid,
    *,
    grows: bool = True,
    budget_s: float | None = None,
    keep_envs: bool = True,
    say: Callable[[str], None] = print,
    progress: Callable[[ProgressView], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> Swept:
    """Probe configurations until the best one for a goal is known, and return the measurements.

    Args:
        config: the config to tune.
        race: the rules.
        grid: the numbers of env runners and of envs to try.
        grows: whether to start with one and two envs, and to try more as long as that pays off, instead of the whole grid.
        budget_s: time limit for probing and training, including the confirmation, once the Algorithm has started [s]; at least one
            round is run. None for 12 s after the first round, 30 s on a disturbed machine, and 12 s
            for the confirmation, or longer if two training iterations with each configuration take longer.
        keep_envs: whether to keep the envs of measured configurations, or close them before creating others.
        say: called with progress messages.
        progress: called with the standings after each round.
        clock: returns monotonic seconds.

    Raises:
        ProbeError: the config can't be probed.
        TimeoutError: the cluster's resources are in use by others.
    """
    first = grid.envs[:_FIRST_ENVS] if grows else grid.envs
    scales = [REFERENCE_SCALE, *sorted({Scale(r, e) for r in grid.runners for e in first} - {REFERENCE_SCALE})]
    most = grid.runners[-1]
    say(f"Starting one Algorithm with {counted(most, 'env runner')} to probe {counted(len(scales), 'configuration')}")
    host = Host(cluster.at_scale(config, Scale(most, 1)), keep_envs=keep_envs, say=say)
    interrupted, confirmed = False, dict[Scale, Estimate]()
    try:
        rounds = ProbeRounds(scales, host.steps_per_update(scales), evaluation_s=host.evaluation_s)
        running = _Running(host, rounds, race, _TimeLimit(budget_s, clock), say)
        try:
            running.probe(grid, progress)
            confirmed = running.confirm()
        except (KeyboardInterrupt, ProbeError) as error:
            if isinstance(error, UnlikeTrainingError) or len(rounds.iterations) < FEWEST_ITERATIONS:
                raise
            interrupted = isinstance(error, KeyboardInterrupt)
            say(f"{'Interrupted' if interrupted else f'Ended early ({error})'}: showing the results so far")
            # Configurations added last may not have been measured.
            rounds.scales = [scale for scale in rounds.scales if rounds.of(scale) or scale in rounds.failed]
        outcome = rounds.judge(race)
    finally:
        host.close()
    source = f"{counted(sum(map(len, rounds.probes)), 'probe')} in {counted(len(rounds.probes), 'round')}"
    work = _work(rounds, outcome, confirmed)
    return Swept(experiment_of(config, host.machine, outcome, work, rounds.failed, source), interrupted)


class _TimeLimit:
    """The time that a sweep has left.

    Args:
        budget_s: time limit for everything [s]; None for the default.
        clock: returns monotonic seconds.
    """

    def __init__(self, budget_s: float | None, clock: Callable[[], float]) -> None:
        self._budget_s, self._clock = budget_s, clock
        self._until = clock() + (budget_s or 0.0)
        self._round_since = clock()

    def after_round(self, number: int, is_known: bool) -> float:
        """Return the time left for rounds [s]; with a budget, after another round like this one. Negative if there is none.

        Args:
            number: number of rounds so far.
            is_known: whether the errors are small.
        """
        now = self._clock()
        took, self._round_since = now - self._round_since, now
        if self._budget_s is None:
            # The first round includes the creation of envs.
            self._until = now + _BUDGET_S if number == 1 else self._until
            return self._until - now + (0.0 if is_known else _LONGEST_BUDGET_S - _BUDGET_S)
        # Few rounds are better spent on probes than on a confirmation.
        confirming = _CONFIRMING * self._budget_s if number >= FEWEST_ROUNDS else 0.0
        return self._until - now - (took if number > 1 else took / 2) - confirming

    def start_confirming(self, turn_s: float) -> None:
        """Start the confirmation, which has a time limit of its own by default, enough for two turns."""
        if self._budget_s is None:
            # The first turn may take up to twice the predicted time.
            self._until = self._clock() + max(_BUDGET_S, 3 * turn_s)

    def has(self, seconds: float) -> bool:
        """Return whether so much time is left."""
        return self._clock() + seconds <= self._until


@dataclass(slots=True)
class _Running:
    """A running sweep."""

    host: Host
    rounds: ProbeRounds
    race: Race
    limit: _TimeLimit
    say: Callable[[str], None]

    def probe(self, grid: Grid, progress: Callable[[ProgressView], None]) -> None:
        """Run rounds until the best configuration is known or the time is up."""
        rounds = self.rounds
        while True:
            measure(rounds, self.host, self.race)
            outcome = rounds.judge(self.race)
            is_known = max(each.speedup_error for each in outcome.candidates if each.scale not in outcome.out) < _KNOWN
            left = self.limit.after_round(len(rounds.probes), is_known)
            progress(view(outcome, rounds.failed, len(rounds.probes), max(0.0, left)))
            larger = self.race.worth_adding(outcome, grid) if len(rounds.probes) > 1 else ()
            more = [scale for scale in larger if scale not in rounds.scales]
            if (outcome.over and not more) or left < 0:
                break
            rounds.out = outcome.out
            rounds.scales += more
            rounds.steps |= self.host.steps_per_update(more)
        if not outcome.over:
            rivals = ", ".join(map(str, outcome.rivals[:_NAMED])) + " …" * (len(outcome.rivals) > _NAMED)
            self.say(f"Time is up; may still beat {outcome.choice}: {rivals or 'none, but few rounds were run'}. See --budget")

    def confirm(self) -> dict[Scale, Estimate]:
        """Train with the reference and the candidates in turn, where the rounds haven't; return ln of the candidates' speedups."""
        rounds, confirmed = self.rounds, dict[Scale, Estimate]()
        outcome = rounds.judge(self.race)
        candidates = [scale for scale in outcome.equals[:2] if scale != REFERENCE_SCALE]
        trained = [each.sps for each in outcome.candidates if each.scale in [*candidates, REFERENCE_SCALE]]
        turn_s = sum(1 / sps for sps in trained) * fmean(each.env_steps for each in rounds.iterations)
        self.limit.start_confirming(turn_s)
        while candidates:
            found = {scale: rounds.trained_speedups(scale) for scale in candidates}
            confirmed = {scale: trimmed_mean(logs) for scale, logs in found.items() if len(logs) > 1}
            turns = min(map(len, found.values()))
            is_precise = all(each.half_width < _PRECISE for each in confirmed.values())
            if (turns >= _CONFIRMED and is_precise) or turns >= _MOST_CONFIRMED:
                break
            if not self.limit.has(turn_s):
                if not confirmed:
                    self.say("The budget leaves no time to confirm the result by training")
                break
            if not rounds.confirmations:
                self.say(f"Training with {', '.join(map(str, [*candidates, REFERENCE_SCALE]))} to confirm the result")
            for scale in candidates if rounds.last_trained == REFERENCE_SCALE else [REFERENCE_SCALE, *candidates]:
                rounds.confirmations.append(self.host.train(scale))
        return confirmed


def _work(rounds: ProbeRounds, outcome: Outcome, confirmed: Mapping[Scale, Estimate]) -> dict[Scale, Work]:
    """Return the work in an iteration of each configuration."""
    steps, work = fmean(each.env_steps for each in rounds.iterations), {}
    rests = dict(zip(outcome.scales, zip(rounds.rest.tolist(), rounds.resets.tolist(), strict=True), strict=True))
    reference = outcome.candidates[0]
    for each in outcome.candidates:
        probes, (rest, reset) = rounds.of(each.scale), rests[each.scale]
        sample = 1 / each.sps - rest
        # The busy share comes from this configuration's probes; the total sampling time from the fit over all rounds.
        seconds = fmean(probe.seconds_per_step for probe in probes)
        parts = {
            "sample": sample,
            **{phase: rest * share for phase, share in rounds.shares.items()},
            "busy": reset + (sample - reset) * fmean(probe.busy_per_step for probe in probes) / seconds,
            "longest": reset + (sample - reset) * fmean(probe.longest_per_step for probe in probes) / seconds,
            "reset": reset,
            "all_resets": reset * each.scale.num_env_runners,
        }
        notes = []
        if each.scale in confirmed:
            notes.append(_comparison(each.speedup, each.speedup_error, confirmed[each.scale]))
        if each.scale == outcome.choice and rounds.evaluation_s > 0:
            with_it = (steps / reference.sps + rounds.evaluation_s) / (steps / each.sps + rounds.evaluation_s)
            adds = f"evaluation adds {rounds.evaluation_s:.2g} s per iteration on average, which figures exclude"
            notes.append(f"{adds}: with it {with_it:.2f}×")
        work[each.scale] = Work(steps, parts, tuple(notes))
    return work


def _comparison(speedup: float, error: float, confirmed: Estimate) -> str:
    """Return a note that compares the confirmation with the probes."""
    apart, noise = abs(confirmed.mean - math.log(speedup)), math.hypot(math.log1p(error / 100), confirmed.half_width)
    if confirmed.half_width > math.log1p(MAX_ERROR / 100):
        return f"training iterations vary too much to confirm it (probes: {speedup:.2f}×)"
    trained = f"{math.exp(confirmed.mean):.2f}× ± {100 * math.expm1(confirmed.half_width):.0f} %"
    differ = "; they differ by more than their errors" if apart > noise else ""
    return f"training iterations: {trained} (probes: {speedup:.2f}×){differ}"


def measure(rounds: ProbeRounds, host: Host, race: Race) -> None:
    """Run a round of probes, then some training iterations, so that both see the machine at the same speed.

    Every configuration is probed before it is trained: a probe survives a failing env and reports the error; training doesn't.

    Args:
        rounds: the measurements so far; the new ones are added.
        host: the Algorithm's process.
        race: the rules; the choice so far is trained as often as the reference, which confirms its speedup.

    Raises:
        ProbeError: the reference can't be probed, or probes don't reproduce training.
    """
    started, number, found = time.perf_counter(), len(rounds.probes), {}
    running = rounds.running
    # The first round creates the envs, in all env runners at once; the configurations most likely to fail come last.
    order = random.sample(running, len(running)) if number else sorted(running, key=_in_order_of_creation)
    for scale in order:
        if scale in rounds.failed:
            continue
        probe = host.probe(scale, number)
        if isinstance(probe, Probe):
            found[scale] = probe
        elif scale == REFERENCE_SCALE:
            raise ProbeError(probe)
        else:
            rounds.failed[scale] = probe
            if host.recover():
                # It killed env runners, and larger configurations would as well.
                untried = [each for each in rounds.scales if each not in found and each not in rounds.failed]
                rounds.failed |= {each: f"not tried after {scale}: {probe}" for each in untried if is_within(scale, each)}
    rounds.probes.append(found)
    rounds.probed_s += time.perf_counter() - started
    while len(rounds.iterations) < FEWEST_ITERATIONS or rounds.trained_s < _TRAINED_SHARE * rounds.probed_s:
        rounds.trained(host.train(_next_to_train(rounds, race)))
    rounds.check()


def _next_to_train(rounds: ProbeRounds, race: Race) -> Scale:
    """Return a configuration to learn the update's time from, the reference, and the choice so far, in turn."""
    others = [scale for scale in rounds.running if scale != REFERENCE_SCALE]
    turn = len(rounds.iterations) % 3
    if turn == 1 or not others:
        return REFERENCE_SCALE
    if turn == 2 and (choice := rounds.judge(race).choice) in others:
        return choice
    times = Counter(each.scale for each in rounds.iterations)
    # Configurations with the most envs are fastest and most informative about the learner's cost per env.
    return min(others, key=lambda scale: (times[scale], -scale.parallelism))


def _in_order_of_creation(scale: Scale) -> tuple[int, int]:
    return scale.num_envs_per_env_runner, -scale.num_env_runners
