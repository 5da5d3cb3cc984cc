"""A sweep by probes: measures every configuration many times, in seconds, inside one Algorithm.

A few training iterations measure what an iteration takes apart from sampling. Rounds of probes then measure the configurations,
including the reference, in random order, until the best one for the goal is known (see `race`). Eliminated configurations are not
probed any more. As long as doubling the envs pays off, more envs are tried.
"""

from __future__ import annotations

import math
import operator
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import ray
from scipy.optimize import nnls

from rl_scaling_callback import rllib
from rl_scaling_callback.analysis.configurations import SINGLE
from rl_scaling_callback.analysis.fitting import Array
from rl_scaling_callback.analysis.goals import GOALS, Goal
from rl_scaling_callback.analysis.runs import Experiment, LeftOut, Run, Study
from rl_scaling_callback.core.estimates import Estimate, trimmed_mean
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.probing import Probe
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import Steady
from rl_scaling_callback.report.progress import ProgressView, Row
from rl_scaling_callback.rllib.hardware import Host
from rl_scaling_callback.rllib.prober import ProbeError
from rl_scaling_callback.sweeping import cluster, placement
from rl_scaling_callback.sweeping.probe_host import REST, Iteration, ProbeHost
from rl_scaling_callback.sweeping.race import Outcome, Race

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

Counts = Sequence[int] | Literal["auto"]

_FEWEST_ITERATIONS: Final = 3
_CONFIRMED: Final = 4
_FEWEST_TURNS: Final = 2
_FEWEST_ROUNDS: Final = 3
_NAMED: Final = 5
_NOTHING_KNOWN: Final = 999.0
"""Largest error [%]; used after a single round."""
_ALONE: Final = 3
_BUDGET_S: Final = 30.0
"""Default time limit for rounds; the confirmation gets as much again."""

_MOST_ENVS: Final = 256
"""Upper limit of doubling with `envs="auto"`."""


@dataclass(slots=True)
class ProbeRounds:
    """A sweep's measurements so far.

    Attributes:
        scales: the configurations, the reference first.
        steps: env steps per learner update at each scale; infinite if updates depend on the env steps alone.
        probes: probes of each round, by configuration.
        iterations: the training iterations between rounds.
        out: eliminated configurations.
        failed: configurations that can't be probed, with the reason.
        probed_s: total time of the rounds [s].
        trained_s: total time of the training iterations [s].
        round_s: time of the last round [s].
        evaluation_s: mean time that evaluation adds to an iteration, not included in the other times [s].
        interrupted: whether the user interrupted the sweep.
    """

    scales: list[Scale]
    steps: dict[Scale, float] = field(default_factory=dict)
    probes: list[Mapping[Scale, Probe]] = field(default_factory=list)
    iterations: list[Iteration] = field(default_factory=list)
    out: frozenset[Scale] = frozenset()
    failed: dict[Scale, str] = field(default_factory=dict)
    probed_s: float = 0.0
    trained_s: float = 0.0
    round_s: float = 0.0
    evaluation_s: float = 0.0
    interrupted: bool = False

    @property
    def running(self) -> list[Scale]:
        """The configurations measured in the next round."""
        return [scale for scale in self.scales if scale not in self.out and scale not in self.failed]

    @property
    def seconds(self) -> Array:
        """Sampling time per env step [s], shape (rounds, configurations); NaN without a probe."""
        rows = [[each[scale].seconds_per_step if scale in each else NAN for scale in self.scales] for each in self.probes]
        return np.array(rows, dtype=np.float64)

    @property
    def rest(self) -> Array:
        """Time of an iteration other than sampling, per env step [s], shape (configurations,).

        A learner update takes a + b·r + c·N: r env runners get new weights, and each of the N envs contributes at least one episode
        chunk, which has a fixed cost. If the algorithm learns once per sampling round, as DQN does, the env steps per update grow
        with N; otherwise they are about constant.
        """
        return np.array([self._update(scale) / self._steps(scale) for scale in self.scales])

    @property
    def rest_error(self) -> float:
        """Relative standard error of `rest`, from the residuals of the training iterations."""
        return trimmed_mean([math.log(self._took(each) / self._update(each.scale)) for each in self.iterations]).error

    @property
    def shares(self) -> dict[str, float]:
        """Share of each phase in `rest`."""
        parts = {phase: sum(each.rest[phase] for each in self.iterations) for phase in REST}
        return {phase: seconds / sum(parts.values()) for phase, seconds in parts.items()}

    def _steps(self, scale: Scale) -> float:
        """Return the env steps per learner update."""
        steps = self.steps[scale]
        return fmean(each.env_steps for each in self.iterations) if math.isinf(steps) else steps

    def _took(self, iteration: Iteration) -> float:
        """Return an iteration's seconds other than sampling, per learner update."""
        return sum(iteration.rest.values()) * self._steps(iteration.scale) / iteration.env_steps

    def _update(self, scale: Scale) -> float:
        """Return a + b·r + c·N with non-negative coefficients, fitted with relative weights."""
        took = np.array([self._took(each) for each in self.iterations])
        rows = np.array([_terms(each.scale) for each in self.iterations])
        return float(nnls(rows / took[:, None], np.ones(len(took)))[0] @ _terms(scale))

    def judge(self, race: Race) -> Outcome:
        """Return the outcome of a race after these rounds."""
        return race.judge(self.scales, self.seconds, self.rest, self.rest_error)

    def of(self, scale: Scale) -> list[Probe]:
        """Return the probes of one configuration."""
        return [each[scale] for each in self.probes if scale in each]

    def trained(self, iteration: Iteration) -> None:
        """Add a training iteration."""
        self.iterations.append(iteration)
        self.trained_s += iteration.seconds


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
            room = f"{most_runners} env runner{'s' * (most_runners > 1)}"
            say(f"The cluster has {cores} cores but fits only {room}: start Ray with more CPUs (--num-cpus)")
        runners = powers_of_two(most_runners)
    if isinstance(envs, str):
        started, most_envs = [1, 2], _MOST_ENVS
    else:
        started, most_envs = list(envs), max(envs)
    scales = {Scale(int(r), int(e)) for r in runners for e in started}
    return [SINGLE, *sorted(scales - {SINGLE})], Scale(int(max(runners)), most_envs)


def _terms(scale: Scale) -> Array:
    return np.array([1.0, scale.num_env_runners, scale.parallelism])


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
            round is run. None for half a minute, and as much again for the confirmation.
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
    say(f"Starting one Algorithm with {most_runners} env runners to probe {len(scales)} configurations")
    host = ProbeHost(placement.at_scale(config, Scale(most_runners, 1)), keep_envs, say)
    try:
        evaluation_s = host.warm_up()
        rounds = ProbeRounds(scales, host.steps_per_update(scales), evaluation_s=evaluation_s)
        race = race_for(config, goal)
        until = clock() + (_BUDGET_S if budget_s is None else budget_s)
        outcome: Outcome | None = None
        left = 0.0
        try:
            while True:
                started = clock()
                _measure(rounds, host)
                outcome = rounds.judge(race)
                took = clock() - started
                if budget_s is None and len(rounds.probes) == 1:
                    until = clock() + _BUDGET_S
                left = until - clock()
                if budget_s is not None:
                    # The first round includes the creation of envs. Few rounds are better spent on probes than on a confirmation.
                    left -= took if len(rounds.probes) > 1 else took / 2
                    if confirm and len(rounds.probes) >= _FEWEST_ROUNDS:
                        left -= min(budget_s / 3, _CONFIRMED * _turn_s(rounds, outcome))
                progress(_standings(outcome, rounds, max(0.0, left)))
                larger = race.worth_adding(outcome, most) if isinstance(envs, str) and len(rounds.probes) > 1 else ()
                more = [scale for scale in larger if scale not in rounds.scales]
                if (outcome.over and not more) or left < 0:
                    break
                rounds.out = outcome.out
                rounds.scales += more
                rounds.steps |= host.steps_per_update(more)
            if not outcome.over:
                rivals = ", ".join(map(str, outcome.rivals[:_NAMED])) + " …" * (len(outcome.rivals) > _NAMED)
                say(f"Time is up; may still beat {outcome.choice}: {rivals or 'none, but few rounds were run'}. See --budget")
            if isinstance(envs, str) and (left > 0 or budget_s is None):
                _measure_alone(rounds, host, outcome)
                outcome = rounds.judge(race)
        except (KeyboardInterrupt, ProbeError) as error:
            if outcome is None:
                raise
            say(f"{_ended_by(error)}: showing the results so far")
            rounds.interrupted, confirm = isinstance(error, KeyboardInterrupt), False
            # Configurations added last may not have been measured.
            rounds.scales = [scale for scale in rounds.scales if rounds.of(scale) or scale in rounds.failed]
            outcome = rounds.judge(race)
        confirmed: Mapping[Scale, Estimate] = {}
        try:
            if confirm:
                fit = int((_BUDGET_S if budget_s is None else until - clock()) / _turn_s(rounds, outcome))
                turns = min(_CONFIRMED, max(fit, _FEWEST_TURNS if budget_s is None else 0))
                confirmed = _confirm(host, outcome, turns, say)
        except (KeyboardInterrupt, ProbeError) as error:
            rounds.interrupted = isinstance(error, KeyboardInterrupt)
            say(f"{_ended_by(error)}: the result is not confirmed by training")
        return _experiment(config, host.host, rounds, outcome, confirmed), rounds
    finally:
        host.close()


def _ended_by(error: BaseException) -> str:
    return "Interrupted" if isinstance(error, KeyboardInterrupt) else f"Ended early ({error})"


def _measure(rounds: ProbeRounds, host: ProbeHost) -> None:
    """Run a round of probes, then train for as long, so that both see the machine at the same speed.

    Every configuration is probed before it is trained: a probe survives a failing env and reports the error; training doesn't.
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
        elif scale == SINGLE:
            raise ProbeError(probe)
        else:
            rounds.failed[scale] = probe
            if host.recover():
                # It killed env runners, and larger configurations would as well.
                for larger in rounds.scales:
                    if (
                        larger not in found
                        and larger not in rounds.failed
                        and all(map(operator.ge, _counts(larger), _counts(scale)))
                    ):
                        rounds.failed[larger] = f"not tried after {scale}: {probe}"
    rounds.probes.append(found)
    rounds.round_s = time.perf_counter() - started
    rounds.probed_s += rounds.round_s
    while len(rounds.iterations) < _FEWEST_ITERATIONS or rounds.trained_s < rounds.probed_s:
        times = Counter(each.scale for each in rounds.iterations)
        # Configurations with the most envs are fastest and most informative about the learner's cost per env.
        scale = min(rounds.running, key=lambda scale: (times[scale], -scale.parallelism))
        rounds.trained(host.train(scale))


def _counts(scale: Scale) -> tuple[int, int]:
    return scale.num_env_runners, scale.num_envs_per_env_runner


def _in_order_of_creation(scale: Scale) -> tuple[int, int]:
    return scale.num_envs_per_env_runner, -scale.num_env_runners


def _standings(outcome: Outcome, rounds: ProbeRounds, seconds_left: float) -> ProgressView:
    def state(scale: Scale) -> str:
        return "failed" if scale in rounds.failed else "out" if scale in outcome.out else ""

    figures = zip(outcome.scales, outcome.speedup.tolist(), outcome.speedup_error.tolist(), strict=True)
    rows = [Row(scale, speedup, error, state(scale)) for scale, speedup, error in figures]
    rounds_left = outcome.rounds_left * rounds.round_s
    return ProgressView(rows, outcome.choice, len(rounds.probes), min(seconds_left, rounds_left))


def _measure_alone(rounds: ProbeRounds, host: ProbeHost, outcome: Outcome) -> None:
    """Probe one env runner with as many envs as the choice and its equals: this separates serial stepping from contention."""
    candidates = {outcome.choice, *_candidates(outcome)}
    alone = {Scale(1, scale.num_envs_per_env_runner) for scale in candidates} - {*rounds.scales}
    if not alone:
        return
    rounds.scales += sorted(alone)
    rounds.steps |= host.steps_per_update(sorted(alone))
    rounds.out = frozenset(rounds.scales) - {SINGLE, *candidates, *alone}
    for _ in range(_ALONE):
        _measure(rounds, host)


def _candidates(outcome: Outcome) -> list[Scale]:
    """Return the configurations to confirm: the choice and an equal one."""
    return [scale for scale in outcome.equals[:2] if scale != SINGLE]


def _turn_s(rounds: ProbeRounds, outcome: Outcome) -> float:
    """Return the time of one training iteration with each candidate and the reference [s]."""
    sps = dict(zip(outcome.scales, outcome.sps.tolist(), strict=True))
    return fmean(each.env_steps for each in rounds.iterations) * math.fsum(
        1 / sps[scale] for scale in [*_candidates(outcome), SINGLE]
    )


def _confirm(host: ProbeHost, outcome: Outcome, turns: int, say: Callable[[str], None]) -> dict[Scale, Estimate]:
    """Train with the reference and the candidates in turn; return ln of the candidates' speedups."""
    candidates = _candidates(outcome)
    if not candidates:
        return {}
    if turns < _FEWEST_TURNS:
        say("The budget leaves no time to confirm the result by training")
        return {}
    say(f"Training {turns} iterations each with {', '.join(map(str, [*candidates, SINGLE]))} to confirm the result")
    ratios: dict[Scale, list[float]] = {scale: [] for scale in candidates}
    for _ in range(turns):
        reference = host.train(SINGLE)
        for scale in candidates:
            iteration = host.train(scale)
            seconds = iteration.seconds / iteration.env_steps
            ratios[scale].append(math.log(reference.seconds / reference.env_steps / seconds))
    return {scale: trimmed_mean(logs) for scale, logs in ratios.items()}


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
            notes = [_comparison(speedup, error, confirmed.get(scale))]
            if scale == outcome.choice and rounds.evaluation_s > 0:
                notes.append(_with_evaluation(rounds, float(outcome.sps[0]), sps))
            note = "; ".join(filter(None, notes))
            name = f"probes of {scale}"
            runs.append(Run(name=name, scale=scale, steady=steady, cores=host.cores, cpus=cpus(scale), note=note))
    algorithm: Any = config.algo_class
    env = config.env if isinstance(config.env, str) else getattr(config.env, "__name__", "env")
    facts = {"algorithm": algorithm.__name__, "env": str(env), "cpu": host.cpu, "ray": ray.__version__}
    in_turn = rllib.steps_in_turn(vars(config))
    study = Study(f"{algorithm.__name__} on {env}", tuple(runs), facts=facts, steps_in_turn=in_turn, probed=True)
    left_out = tuple(LeftOut(str(scale), reason) for scale, reason in rounds.failed.items())
    return Experiment(f"{sum(map(len, rounds.probes))} probes in {len(rounds.probes)} rounds", (study,), left_out)


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


def _comparison(speedup: float, error: float, confirmed: Estimate | None) -> str:
    """Return a note that compares the confirmation with the probes; "" without a confirmation."""
    if confirmed is None:
        return ""
    half_width = 100 * math.expm1(confirmed.half_width)
    text = f"training iterations: {math.exp(confirmed.mean):.2f}× ± {half_width:.0f} % (probes: {speedup:.2f}×)"
    apart, noise = abs(confirmed.mean - math.log(speedup)), math.hypot(math.log1p(error / 100), confirmed.half_width)
    return text + ("; they differ by more than their errors" if apart > noise else "")
