"""A sweep by probes: every configuration measured many times, in seconds, inside one Algorithm.

A few training iterations tell what an iteration takes beside sampling. Then rounds of probes go over the configurations in random
order, the reference among them, until the best one for the goal is known (see `race`). What is out is not probed any more; where
doubling the envs pays, more envs are tried.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import ray

from rl_scaling_callback.analysis.configurations import SINGLE
from rl_scaling_callback.analysis.goals import Goal
from rl_scaling_callback.analysis.runs import Experiment, LeftOut, Run, Study
from rl_scaling_callback.core.probing import Probe
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import Steady
from rl_scaling_callback.rllib.prober import ProbeError
from rl_scaling_callback.sweeping import cluster, schedule
from rl_scaling_callback.sweeping.probe_host import Confirmed, ProbeHost, Trained
from rl_scaling_callback.sweeping.race import Outcome, Race

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

Counts = Sequence[int] | Literal["auto"]

_TRAINED: Final = 4
_CONFIRMED: Final = 7
_LONGEST_PROBE_S: Final = 30.0
_MOST_ROUNDS: Final = 40
_MOST_ENVS: Final = 256
"""With `envs="auto"`: doubling ends here at the latest."""


@dataclass(slots=True)
class Rounds:
    """The probes of a sweep, and the configurations that can't be probed, with the reason."""

    scales: list[Scale]
    probes: list[dict[Scale, Probe]] = field(default_factory=list)
    failed: dict[Scale, str] = field(default_factory=dict)

    @property
    def seconds(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Sampling seconds per env step, rounds × configurations; NaN where there is no probe."""
        rows = [[each[scale].seconds_per_step if scale in each else math.nan for scale in self.scales] for each in self.probes]
        return np.array(rows, dtype=np.float64).reshape(len(rows), len(self.scales))

    def of(self, scale: Scale) -> list[Probe]:
        """Return the probes of one scale."""
        return [each[scale] for each in self.probes if scale in each]


@dataclass(frozen=True, slots=True)
class Progress:
    """How a sweep stands after a round.

    Attributes:
        outcome: of the race.
        rounds: rounds so far.
        seconds: time of a round as it is now [s].
        failed: configurations that can't be probed, with the reason.
    """

    outcome: Outcome
    rounds: int
    seconds: float
    failed: dict[Scale, str]


def grid(config: AlgorithmConfig, runners: Counts, envs: Counts, nodes: Sequence[Mapping[str, float]]) -> tuple[list[Scale], Scale]:
    """Return the configurations to start with, the reference first, and the largest that may be added.

    `auto` takes runners in powers of two up to the cores of the cluster, as far as they can be scheduled, and one and two envs;
    doubling goes on from there while it pays.
    """
    if isinstance(runners, str):
        cores = sum(node.host.cores for node in cluster.nodes())
        most = max(1, schedule.most_runners(config, nodes, cores))
        runners = sorted({min(2**power, most) for power in range(most.bit_length() + 1)})
    if isinstance(envs, str):
        started, most_envs = [1, 2], _MOST_ENVS
    else:
        started, most_envs = list(envs), max(envs)
    scales = {Scale(int(r), int(e)) for r in runners for e in started}
    return [SINGLE, *sorted(scales - {SINGLE})], Scale(int(max(runners)), most_envs)


def sweep_by_probes(
    config: AlgorithmConfig,
    goal: Goal,
    *,
    runners: Counts = "auto",
    envs: Counts = "auto",
    confirm: bool = True,
    budget_s: float = math.inf,
    say: Callable[[str], None] = print,
    progress: Callable[[Progress], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> Experiment:
    """Probe configurations until the best one for a goal is known, and return what was measured, one run for each configuration.

    Args:
        config: what to train.
        goal: what the configuration is for.
        runners: numbers of env runners.
        envs: numbers of envs per env runner.
        confirm: whether to train a few iterations with what was found.
        budget_s: no round of probes starts after that [s].
        say: told what happens.
        progress: told how the race stands, after each round.
        clock: monotonic seconds.

    Raises:
        ProbeError: the config can't be probed.
        ValueError: a grid that the cluster can never run.
    """
    started = clock()
    nodes = schedule.alive_nodes()
    scales, most = grid(config, runners, envs, nodes)
    schedule.check(config, scales, nodes)
    cpus = _cpus(config)
    race = Race(goal, cpus=cpus)
    largest = schedule.at_scale(config, Scale(max(1, most.num_env_runners), 1))
    say(f"Starting one Algorithm with {largest.num_env_runners} env runners to probe {len(scales)} configurations in")
    host = ProbeHost(largest, _LONGEST_PROBE_S)
    try:
        trained = host.train(_TRAINED)
        say(f"Training took {100 * trained.rest / (1 + trained.rest):.0f} % of an iteration beside sampling")
        rounds = Rounds(scales)
        own = Scale(largest.num_env_runners, 1)
        outcome = _race(
            race, host, rounds, own, trained, most if isinstance(envs, str) else None, started + budget_s, progress, clock
        )
        confirmed = {}
        if confirm:
            confirmed = _confirm(config, host, outcome, say)
        return _experiment(config, host, rounds, outcome, own, trained, confirmed)
    finally:
        host.close()


def _cpus(config: AlgorithmConfig) -> Callable[[Scale], float]:
    """Return what tells the CPUs that a trial of a configuration holds."""
    beside, each = schedule.cpus_of(config)
    return lambda scale: beside + each * scale.num_env_runners


def _race(
    race: Race,
    host: ProbeHost,
    rounds: Rounds,
    own: Scale,
    trained: Trained,
    most: Scale | None,
    until: float,
    progress: Callable[[Progress], None],
    clock: Callable[[], float],
) -> Outcome:
    order = random.Random()
    outcome: Outcome | None = None
    while True:
        started = clock()
        running = [scale for scale in rounds.scales if scale not in rounds.failed and (outcome is None or scale not in outcome.out)]
        # The rest of an iteration is known relative to sampling at the scale that trained: it stays in for a few rounds.
        probed = {*running, own} if len(rounds.probes) < _TRAINED else set(running)
        number, of_round = len(rounds.probes), {}
        for scale in order.sample(sorted(probed), len(probed)):
            probe = host.probe(scale, number)
            if isinstance(probe, Probe):
                of_round[scale] = probe
            elif scale in (SINGLE, own):
                raise ProbeError(probe)
            else:
                rounds.failed[scale] = probe
        rounds.probes.append(of_round)
        outcome = race.judge(
            rounds.scales, rounds.seconds, rest_of(rounds, own, trained, host.steps_per_update), trained.rest_error
        )
        progress(Progress(outcome, len(rounds.probes), clock() - started, rounds.failed))
        more = race.worth_adding(outcome, most) if most is not None and len(rounds.probes) > 1 else ()
        more = tuple(scale for scale in more if scale not in rounds.failed and scale not in rounds.scales)
        if more:
            rounds.scales.extend(more)
        elif outcome.over or len(rounds.probes) >= _MOST_ROUNDS:
            return outcome
        if clock() > until:
            return outcome


def rest_of(
    rounds: Rounds, own: Scale, trained: Trained, steps_per_update: Callable[[Sequence[Scale]], Sequence[float]]
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return what an iteration takes beside sampling, per env step of each configuration [s], at the pace of the rounds.

    Training told it relative to sampling at its own scale; probes of that scale beside the reference's tell that sampling at the
    rounds' pace. Where the algorithm learns once a round of sampling, a configuration with larger rounds learns less per env step.
    """
    reference = fmean(math.log(each[SINGLE].seconds_per_step) for each in rounds.probes)
    beside = fmean(math.log(each[own].seconds_per_step / each[SINGLE].seconds_per_step) for each in rounds.probes if own in each)
    rest = trained.rest * math.exp(reference + beside)
    if math.isinf(trained.steps_per_update):
        return np.full(len(rounds.scales), rest)
    return rest * trained.steps_per_update / np.asarray(steps_per_update(rounds.scales), dtype=np.float64)


def _confirm(config: AlgorithmConfig, host: ProbeHost, outcome: Outcome, say: Callable[[str], None]) -> dict[Scale, Confirmed]:
    """Train with the choice, and with its runner-up where it is as good."""
    confirmed = {}
    for scale in outcome.equals[:2]:
        say(f"Training {_CONFIRMED} iterations with {scale} to confirm it")
        try:
            confirmed[scale] = host.confirm(schedule.at_scale(config, scale), _CONFIRMED)
        except ProbeError as error:
            say(f"{scale} could not be trained: {error}")
    return confirmed


def _experiment(
    config: AlgorithmConfig,
    host: ProbeHost,
    rounds: Rounds,
    outcome: Outcome,
    own: Scale,
    trained: Trained,
    confirmed: dict[Scale, Confirmed],
) -> Experiment:
    rest, cpus = rest_of(rounds, own, trained, host.steps_per_update), _cpus(config)
    runs = []
    for index, scale in enumerate(outcome.scales):
        probes = rounds.of(scale)
        if probes and outcome.sps[index] > 0:
            error = 0.0 if scale == SINGLE else float(outcome.speedup_error[index])
            steady = _steady(probes, float(outcome.sps[index]), error, float(rest[index]), trained)
            note = _comparison(float(outcome.speedup[index]), error, confirmed.get(scale))
            name = f"probes of {scale}"
            runs.append(Run(name=name, scale=scale, steady=steady, cores=host.host.cores, cpus=cpus(scale), note=note))
    algorithm: Any = config.algo_class
    env = config.env if isinstance(config.env, str) else getattr(config.env, "__name__", "env")
    facts = {"algorithm": algorithm.__name__, "env": str(env), "cpu": host.host.cpu, "ray": ray.__version__}
    study = Study(f"{algorithm.__name__} on {env}", tuple(runs), facts=facts)
    left_out = tuple(LeftOut(str(scale), reason) for scale, reason in rounds.failed.items())
    return Experiment(f"{sum(map(len, rounds.probes))} probes in {len(rounds.probes)} rounds", (study,), left_out)


def _steady(probes: Sequence[Probe], sps: float, error: float, rest: float, trained: Trained) -> Steady:
    """Return what the probes of a configuration say of its iterations, as a steady window of as many."""
    steps = trained.env_steps * len(probes)
    sample = 1 / sps - rest
    # The env runners' part of sampling is told by the probes; all of it together by the fit over all rounds.
    seconds = fmean(probe.seconds_per_step for probe in probes)
    parts = {
        "sample": sample,
        **{phase: rest * share for phase, share in trained.shares.items()},
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


def _comparison(speedup: float, error: float, confirmed: Confirmed | None) -> str:
    """Return how training compares with the probes; "" where there was none."""
    if confirmed is None or not confirmed.speedup > 0:
        return ""
    text = f"trained for {confirmed.iterations} iterations: {confirmed.speedup:.2f}× (probes: {speedup:.2f}×)"
    noise = math.hypot(*(math.log1p(each / 100) for each in (error, confirmed.speedup_error) if each > 0))
    return text + ("; they differ by more than their errors" if abs(math.log(confirmed.speedup / speedup)) > noise else "")
