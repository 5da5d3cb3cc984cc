"""A sweep by probes: measures every configuration many times, in seconds, inside one Algorithm.

A few training iterations measure what an iteration takes apart from sampling. Rounds of probes then measure the configurations,
including the reference, in random order, until the best one for the goal is known (see `race`). Eliminated configurations are not
probed any more. As long as doubling the envs pays off, more envs are tried.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import ray

from rl_scaling_callback import rllib
from rl_scaling_callback.analysis.configurations import SINGLE
from rl_scaling_callback.analysis.goals import GOALS, Goal
from rl_scaling_callback.analysis.runs import Experiment, LeftOut, Run, Study
from rl_scaling_callback.core.estimates import Estimate, trimmed_mean
from rl_scaling_callback.core.probing import Probe
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import Steady
from rl_scaling_callback.core.text import counted
from rl_scaling_callback.report.progress import ProgressView, Row
from rl_scaling_callback.rllib.hardware import Host
from rl_scaling_callback.rllib.prober import ProbeError
from rl_scaling_callback.sweeping import cluster, placement
from rl_scaling_callback.sweeping.probe_host import ProbeHost
from rl_scaling_callback.sweeping.race import FEWEST_ROUNDS, Outcome, Race
from rl_scaling_callback.sweeping.rounds import FEWEST_ITERATIONS, ProbeRounds, measure

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

Counts = Sequence[int] | Literal["auto"]

_BUDGET_S: Final = 12.0
"""Default time limit for the rounds after the first one, and for the confirmation. In simulations (`tests/benchmarks/race.py`), ten
rounds, which take about as long, choose nearly as well as forty."""
_LONGEST_BUDGET_S: Final = 30.0
_KNOWN: Final = 10.0
"""The default time limit for the rounds as long as a speedup has an error above 10 %, because the machine is disturbed."""
_CONFIRMED: Final = 3
_MOST_CONFIRMED: Final = 8
_PRECISE: Final = 0.1
"""Training iterations that confirm a speedup: three with each configuration, and up to eight until the half-width of the interval
of ln(speedup) is below 0.1. From five on, outliers are trimmed."""
_ALONE: Final = 3
"""Rounds with a configuration that only serves the loss attribution."""
_NAMED: Final = 5
"""Rivals named in a message."""
_NOTHING_KNOWN: Final = 999.0
"""Largest error [%]; used after a single round."""
_MOST_ENVS: Final = 256
"""Upper limit of doubling with `envs="auto"`."""


def grid(
    config: AlgorithmConfig, runners: Counts, envs: Counts, nodes: Sequence[Mapping[str, float]], say: Callable[[str], None]
) -> tuple[list[Scale], Scale]:
    """Return the configurations to start with, the reference first, and the largest scale that may be added.

    With `"auto"`, runners are powers of two up to the cores of the cluster, if they can be scheduled. Envs start at one and two,
    and are doubled as long as that pays off.
    """
    if isinstance(runners, str):
        cores = sum(node.host.cores for node in cluster.nodes())
        most_runners = placement.most_runners(config, nodes, cores)
        if 0 < most_runners < cores:
            room = counted(most_runners, "env runner")
            say(f"The cluster has {cores} cores but fits only {room}: start Ray with more CPUs (--num-cpus)")
        runners = powers_of_two(most_runners)
    if isinstance(envs, str):
        started, most_envs = [1, 2], _MOST_ENVS
    else:
        started, most_envs = list(envs), max(envs)
    scales = {Scale(int(r), int(e)) for r in runners for e in started}
    return [SINGLE, *sorted(scales - {SINGLE})], Scale(int(max(runners)), most_envs)


def powers_of_two(most: int) -> list[int]:
    """Return the powers of two below `most`, and `most` itself; at least [1]."""
    return sorted({min(2**power, max(1, most)) for power in range(most.bit_length() + 1)})


def race_for(config: AlgorithmConfig, goal: Goal) -> Race:
    """Return the rules of a race for a goal."""
    rest, each = placement.cpus_of(config)
    return Race(goal, cpus=lambda scale: rest + each * scale.num_env_runners)


def sweep_by_probes(
    config: AlgorithmConfig,
    goal: Goal,
    *,
    runners: Counts = "auto",
    envs: Counts = "auto",
    confirm: bool = True,
    budget_s: float | None = None,
    keep_envs: bool = True,
    say: Callable[[str], None] = print,
    progress: Callable[[ProgressView], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Experiment, ProbeRounds]:
    """Probe configurations until the best one for a goal is known, and return the measurements, with one run per configuration.

    Args:
        config: the config to tune.
        goal: the goal.
        runners: numbers of env runners.
        envs: numbers of envs per env runner.
        confirm: whether to confirm the result by training a few iterations.
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
        ValueError: the cluster can never run the grid.
    """
    nodes = placement.alive_nodes()
    scales, most = grid(config, runners, envs, nodes, say)
    placement.check(config, scales, nodes)
    most_runners = max(1, most.num_env_runners)
    say(f"Starting one Algorithm with {counted(most_runners, 'env runner')} to probe {counted(len(scales), 'configuration')}")
    host = ProbeHost(placement.at_scale(config, Scale(most_runners, 1)), keep_envs, say)
    try:
        evaluation_s = host.warm_up()
        rounds = ProbeRounds(scales, host.steps_per_update(scales), evaluation_s=evaluation_s)
        limit = _TimeLimit(budget_s, _CONFIRMED if confirm else 0, clock)
        larger_up_to = most if isinstance(envs, str) else None
        try:
            outcome = _probe(host, rounds, race_for(config, goal), larger_up_to, limit, say, progress)
        except (KeyboardInterrupt, ProbeError) as error:
            if len(rounds.iterations) < FEWEST_ITERATIONS:
                raise
            say(f"{_ended_by(error)}: showing the results so far")
            rounds.interrupted, confirm = isinstance(error, KeyboardInterrupt), False
            # Configurations added last may not have been measured.
            rounds.scales = [scale for scale in rounds.scales if rounds.of(scale) or scale in rounds.failed]
            outcome = rounds.judge(race_for(config, goal))
        confirmed: Mapping[Scale, Estimate] = {}
        try:
            if confirm:
                confirmed = _confirm(host, rounds, outcome, limit, say)
        except (KeyboardInterrupt, ProbeError) as error:
            rounds.interrupted = isinstance(error, KeyboardInterrupt)
            say(f"{_ended_by(error)}: the result is not confirmed by training")
        return _experiment(config, host.host, rounds, outcome, confirmed), rounds
    finally:
        host.close()


class _TimeLimit:
    """The time that a sweep has left.

    Args:
        budget_s: time limit for everything [s]; None for the default.
        turns: training iterations with each configuration to confirm the result, for which time is set aside.
        clock: returns monotonic seconds.
    """

    def __init__(self, budget_s: float | None, turns: int, clock: Callable[[], float]) -> None:
        self._budget_s, self._turns, self._clock = budget_s, turns, clock
        self._until = clock() + (_BUDGET_S if budget_s is None else budget_s)
        self._round_since = clock()

    def after_round(self, number: int, is_known: bool, turns: int, turn_s: float) -> float:
        """Return the time left for rounds [s]; with a budget, after another round like this one. Negative if there is none.

        Args:
            number: number of rounds so far.
            is_known: whether the errors are small.
            turns: turns of confirmation so far.
            turn_s: time of one of these [s].
        """
        now = self._clock()
        took, self._round_since = now - self._round_since, now
        if self._budget_s is None:
            # The first round includes the creation of envs.
            self._until = now + _BUDGET_S if number == 1 else self._until
            return self._until - now + (0.0 if is_known else _LONGEST_BUDGET_S - _BUDGET_S)
        # Few rounds are better spent on probes than on a confirmation.
        confirming = min(self._budget_s / 3, max(0, self._turns - turns) * turn_s) if number >= FEWEST_ROUNDS else 0.0
        return self._until - now - (took if number > 1 else took / 2) - confirming

    def start_confirming(self, turn_s: float) -> None:
        """Start the confirmation, which has a time limit of its own by default, enough for two turns."""
        if self._budget_s is None:
            # The first turn may take up to twice the predicted time.
            self._until = self._clock() + max(_BUDGET_S, 3 * turn_s)

    def has(self, seconds: float) -> bool:
        """Return whether so much time is left."""
        return self._clock() + seconds <= self._until


def _probe(
    host: ProbeHost,
    rounds: ProbeRounds,
    race: Race,
    larger_up_to: Scale | None,
    limit: _TimeLimit,
    say: Callable[[str], None],
    progress: Callable[[ProgressView], None],
) -> Outcome:
    """Run rounds until the best configuration is known or the time is up, and return the outcome."""
    while True:
        measure(rounds, host, race)
        outcome = rounds.judge(race)
        turns = min((len(rounds.trained_speedups(scale)) for scale in _candidates(outcome)), default=0)
        errors = [error for scale, error in zip(rounds.scales, outcome.speedup_error, strict=True) if scale not in outcome.out]
        left = limit.after_round(len(rounds.probes), np.nanmax(errors) < _KNOWN, turns, _turn_s(rounds, outcome))
        progress(_standings(outcome, rounds, max(0.0, left)))
        larger = race.worth_adding(outcome, larger_up_to) if larger_up_to and len(rounds.probes) > 1 else ()
        more = [scale for scale in larger if scale not in rounds.scales]
        if (outcome.over and not more) or left < 0:
            break
        rounds.out = outcome.out
        rounds.scales += more
        rounds.steps |= host.steps_per_update(more)
    if not outcome.over:
        rivals = ", ".join(map(str, outcome.rivals[:_NAMED])) + " …" * (len(outcome.rivals) > _NAMED)
        say(f"Time is up; may still beat {outcome.choice}: {rivals or 'none, but few rounds were run'}. See --budget")
    if larger_up_to and left > 0:
        _measure_alone(rounds, host, race, outcome)
        outcome = rounds.judge(race)
    return outcome


def _ended_by(error: BaseException) -> str:
    return "Interrupted" if isinstance(error, KeyboardInterrupt) else f"Ended early ({error})"


def _standings(outcome: Outcome, rounds: ProbeRounds, seconds_left: float) -> ProgressView:
    def state(scale: Scale) -> str:
        return "failed" if scale in rounds.failed else "out" if scale in outcome.out else ""

    figures = zip(outcome.scales, outcome.speedup.tolist(), outcome.speedup_error.tolist(), strict=True)
    rows = [Row(scale, speedup, error, state(scale)) for scale, speedup, error in figures]
    rounds_left = outcome.rounds_left * rounds.round_s
    return ProgressView(rows, outcome.choice, len(rounds.probes), min(seconds_left, rounds_left))


def _measure_alone(rounds: ProbeRounds, host: ProbeHost, race: Race, outcome: Outcome) -> None:
    """Probe one env runner with as many envs as the choice and its equals: this separates serial stepping from contention."""
    candidates = {outcome.choice, *_candidates(outcome)}
    alone = {Scale(1, scale.num_envs_per_env_runner) for scale in candidates} - {*rounds.scales}
    if not alone:
        return
    rounds.scales += sorted(alone)
    rounds.steps |= host.steps_per_update(sorted(alone))
    rounds.out = frozenset(rounds.scales) - {SINGLE, *candidates, *alone}
    for _ in range(_ALONE):
        measure(rounds, host, race)


def _candidates(outcome: Outcome) -> list[Scale]:
    """Return the configurations to confirm: the choice and an equal one."""
    return [scale for scale in outcome.equals[:2] if scale != SINGLE]


def _turn_s(rounds: ProbeRounds, outcome: Outcome) -> float:
    """Return the time of one training iteration with each candidate and the reference [s]."""
    sps = dict(zip(outcome.scales, outcome.sps.tolist(), strict=True))
    return fmean(each.env_steps for each in rounds.iterations) * math.fsum(
        1 / sps[scale] for scale in [*_candidates(outcome), SINGLE]
    )


def _confirm(
    host: ProbeHost, rounds: ProbeRounds, outcome: Outcome, limit: _TimeLimit, say: Callable[[str], None]
) -> dict[Scale, Estimate]:
    """Train with the reference and the candidates in turn, where the rounds haven't; return ln of the candidates' speedups."""
    candidates, turn_s, silent = _candidates(outcome), _turn_s(rounds, outcome), True
    limit.start_confirming(turn_s)
    while candidates:
        found = {scale: rounds.trained_speedups(scale) for scale in candidates}
        confirmed = {scale: trimmed_mean(logs) for scale, logs in found.items() if len(logs) > 1}
        turns = min(map(len, found.values()))
        is_precise = all(each.half_width < _PRECISE for each in confirmed.values())
        if (turns >= _CONFIRMED and is_precise) or turns >= _MOST_CONFIRMED:
            return confirmed
        if not limit.has(turn_s):
            if not confirmed:
                say("The budget leaves no time to confirm the result by training")
            return confirmed
        if silent:
            say(f"Training with {', '.join(map(str, [*candidates, SINGLE]))} to confirm the result")
            silent = False
        for scale in candidates if rounds.last_trained == SINGLE else [SINGLE, *candidates]:
            rounds.confirmations.append(host.train(scale))
    return {}


def _experiment(
    config: AlgorithmConfig, host: Host, rounds: ProbeRounds, outcome: Outcome, confirmed: Mapping[Scale, Estimate]
) -> Experiment:
    cpus, runs = race_for(config, GOALS["fastest"]).cpus, []
    for scale, sps, speedup, error, rest in zip(
        outcome.scales, outcome.sps.tolist(), outcome.speedup.tolist(), outcome.speedup_error.tolist(), rounds.rest, strict=True
    ):
        probes = rounds.of(scale)
        if probes and sps > 0:
            steady = _steady(rounds, probes, sps, 0.0 if scale == SINGLE else min(error, _NOTHING_KNOWN), float(rest))
            notes = [] if scale not in confirmed else [_comparison(speedup, error, confirmed[scale])]
            if scale == outcome.choice and rounds.evaluation_s > 0:
                notes.append(_with_evaluation(rounds, float(outcome.sps[0]), sps))
            name = f"probes of {scale}"
            runs.append(Run(name=name, scale=scale, steady=steady, cores=host.cores, cpus=cpus(scale), notes=tuple(notes)))
    algorithm: Any = config.algo_class
    env = config.env if isinstance(config.env, str) else getattr(config.env, "__name__", "env")
    facts = {"algorithm": algorithm.__name__, "env": str(env), "cpu": host.cpu, "ray": ray.__version__}
    in_turn = rllib.steps_in_turn(vars(config))
    study = Study(f"{algorithm.__name__} on {env}", tuple(runs), facts=facts, steps_in_turn=in_turn, probed=True)
    left_out = tuple(LeftOut(str(scale), error) for scale, error in rounds.failed.items())
    source = f"{counted(sum(map(len, rounds.probes)), 'probe')} in {counted(len(rounds.probes), 'round')}"
    return Experiment(source, (study,), left_out)


def _steady(rounds: ProbeRounds, probes: Sequence[Probe], sps: float, error: float, rest: float) -> Steady:
    """Convert the probes of a configuration into a steady window with one iteration per probe."""
    steps = len(probes) * fmean(each.env_steps for each in rounds.iterations)
    sample = 1 / sps - rest
    # The busy share comes from this configuration's probes; the total sampling time from the fit over all rounds.
    seconds = fmean(probe.seconds_per_step for probe in probes)
    parts = {
        "sample": sample,
        **{phase: rest * share for phase, share in rounds.shares.items()},
        "busy": sample * fmean(probe.busy_per_step for probe in probes) / seconds,
        "longest": sample * fmean(probe.longest_per_step for probe in probes) / seconds,
    }
    return Steady(
        sps=sps,
        error=error,
        iterations=len(probes),
        env_steps=steps,
        seconds=steps / sps,
        converged=True,
        settled=True,
        parts={name: value * steps for name, value in parts.items()},
    )


def _with_evaluation(rounds: ProbeRounds, reference_sps: float, sps: float) -> str:
    """Return a note with the speedup including evaluation."""
    steps = fmean(each.env_steps for each in rounds.iterations)
    speedup = (steps / reference_sps + rounds.evaluation_s) / (steps / sps + rounds.evaluation_s)
    return f"evaluation adds {rounds.evaluation_s:.2g} s per iteration on average, which figures exclude: with it {speedup:.2f}×"


def _comparison(speedup: float, error: float, confirmed: Estimate) -> str:
    """Return a note that compares the confirmation with the probes."""
    apart, noise = abs(confirmed.mean - math.log(speedup)), math.hypot(math.log1p(error / 100), confirmed.half_width)
    trained = f"{math.exp(confirmed.mean):.2f}× ± {100 * math.expm1(confirmed.half_width):.0f} %"
    differ = "; they differ by more than their errors" if apart > noise else ""
    return f"training iterations: {trained} (probes: {speedup:.2f}×){differ}"
