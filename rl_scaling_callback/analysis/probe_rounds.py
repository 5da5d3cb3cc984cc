"""Rounds of probes until the best configuration is known, and what they and the training iterations between them measure."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from statistics import fmean, median
from typing import Final

import numpy as np

from rl_scaling_callback.analysis.race import Grid, Outcome, Race
from rl_scaling_callback.core.estimates import Array, trimmed_mean
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.probing import DISAGREE, Probe, ProbeError
from rl_scaling_callback.core.scale import REFERENCE_SCALE, Scale

_COEFFICIENTS: Final = 3
"""Coefficients of the time of a learner update: a + b·r + c·N."""
MIN_ITERATIONS: Final = _COEFFICIENTS + 1
"""With fewer training iterations, their residuals are 0 and say nothing about the error."""

ROUNDS_S: Final = 12.0
"""Default time limit for the rounds after the first one. In simulations, ten rounds, which take about as long, chose nearly as well
as forty."""

REST: Final = ("learn", "sync", "other")
"""The phases of an iteration other than sampling and evaluation."""


@dataclass(frozen=True, slots=True)
class TrainedIteration:
    """Measurements of one training iteration.

    Attributes:
        scale: the scale it ran at.
        env_steps: its env steps.
        seconds: its duration without evaluation.
        parts: seconds by name: of `REST`, `sample` and `all_resets`, which is 0 if resets aren't timed; in a sweep, also of the
            others of `attribution.RECORDED`. NaN if unknown.
    """

    scale: Scale
    env_steps: float
    seconds: float
    parts: Mapping[str, float]

    @property
    def rest_s(self) -> float:
        """Seconds other than sampling; NaN if unknown."""
        return sum(self.parts[phase] for phase in REST)


class UnlikeTrainingError(ProbeError):
    """Probes don't reproduce training iterations of the same configurations."""


@dataclass(slots=True)
class ProbeRounds:
    """The rounds of probes of a sweep, or of a trial that tunes itself, and its training iterations.

    Attributes:
        race: the rules.
        grid: the scales to try.
        clock: returns monotonic seconds.
        env_steps_per_update: returns the env steps per learner update at a scale; infinite if updates depend on env steps alone.
        steps: the env steps per learner update of each configuration, the reference first.
        probes: probes of each round, by configuration.
        iterations: the training iterations between rounds.
        confirmations: the training iterations after the rounds.
        out: eliminated configurations.
        failed: configurations that can't be probed, with the reason.
        probed_s: total time of the rounds [s].
        first_round_ended: end of the first round, which includes the creation of envs, on the clock.
        random: draws the order of the configurations in each round.
    """

    race: Race
    grid: Grid
    clock: Callable[[], float] = time.monotonic
    env_steps_per_update: Callable[[Scale], float] = lambda scale: math.inf
    steps: dict[Scale, float] = field(default_factory=dict)
    probes: list[dict[Scale, Probe]] = field(default_factory=list)
    iterations: list[TrainedIteration] = field(default_factory=list)
    confirmations: list[TrainedIteration] = field(default_factory=list)
    out: frozenset[Scale] = frozenset()
    failed: dict[Scale, str] = field(default_factory=dict)
    probed_s: float = 0.0
    first_round_ended: float = math.inf
    random: Random = field(default_factory=Random)

    def run(
        self,
        scales: Iterable[Scale],
        probe: Callable[[Scale], Probe | str],
        deadline_of: Callable[[Outcome], float],
        train: Callable[[], None] = lambda: None,
    ) -> Outcome:
        """Run rounds until the best configuration is known or the time is up, and return the outcome.

        Args:
            scales: the configurations to start with, the reference first; larger ones are added as long as that pays off.
            probe: probes a scale; returns the reason if that fails.
            deadline_of: called with the outcome after each round; returns when the rounds end, on the clock.
            train: called after each round, before the outcome is known, to add to `iterations`.

        Raises:
            ProbeError: the reference can't be probed, or probes don't reproduce training.
        """
        while True:
            self.steps |= {scale: self.env_steps_per_update(scale) for scale in scales if scale not in self.steps}
            started = self.clock()
            self._run_round(probe)
            self.probed_s += self.clock() - started
            train()
            self.check()
            outcome = self.outcome()
            self.first_round_ended = min(self.first_round_ended, self.clock())
            racing = {each.scale for each in outcome.candidates} - outcome.out
            scales = self.race.worth_adding(outcome.candidates, self.grid, racing) if len(self.probes) > 1 else []
            is_known = outcome.over and self.steps.keys() >= {*scales}
            if deadline_of(outcome) < self.clock() or is_known:
                return outcome
            self.out = outcome.out

    def _run_round(self, probe: Callable[[Scale], Probe | str]) -> None:
        # The first round creates the envs, in all env runners at once; the configurations most likely to fail come last.
        order = sorted(self.running, key=lambda scale: (scale.num_envs_per_env_runner, -scale.num_env_runners))
        order = self.random.sample(order, len(order)) if self.probes else order
        found: dict[Scale, Probe] = {}
        self.probes.append(found)
        for scale in order:
            probed = probe(scale)
            if isinstance(probed, Probe):
                found[scale] = probed
            elif scale == self.scales[0]:
                raise ProbeError(probed)
            else:
                self.failed[scale] = probed

    @property
    def scales(self) -> list[Scale]:
        """The configurations, the reference first."""
        return [*self.steps]

    @property
    def running(self) -> list[Scale]:
        """The configurations measured in the next round."""
        return [scale for scale in self.scales if scale not in self.out and scale not in self.failed]

    @property
    def seconds(self) -> Array:
        """Sampling time per env step [s], shape (rounds, configurations); NaN without a probe, or if one has failed."""
        failed = self.failed.keys()
        rows = [
            [each[scale].seconds_per_step if scale in each.keys() - failed else NAN for scale in self.scales]
            for each in self.probes
        ]
        return np.array(rows, dtype=np.float64)

    @property
    def rest(self) -> Array:
        """Time of an iteration other than sampling, per env step [s], shape (configurations,).

        A learner update takes a + b·r + c·N: r env runners get new weights, and each of the N envs contributes at least one episode
        chunk, which has a fixed cost. If the algorithm learns once per sampling round, as DQN does, the env steps per update grow
        with N; otherwise they are about constant.
        """
        return self._updates(self.scales) / [self._steps(scale) for scale in self.scales]

    @property
    def resets(self) -> Array:
        """Time in env resets, which probes exclude, per env step [s], shape (configurations,): the env runners share it."""
        together = sum(each.parts["all_resets"] for each in self.iterations) / sum(each.env_steps for each in self.iterations)
        return np.array([together / scale.samplers for scale in self.scales])

    @property
    def rest_error(self) -> float:
        """Relative standard error of `rest`, from the residuals of the training iterations and their degrees of freedom."""
        count = len(self.iterations)
        logs = np.log([self._took(each) for each in self.iterations] / self._updates([each.scale for each in self.iterations]))
        return trimmed_mean(logs.tolist()).error * math.sqrt((count - 1) / max(1, count - _COEFFICIENTS))

    @property
    def env_steps(self) -> float:
        """Mean env steps of the training iterations between rounds."""
        return fmean(each.env_steps for each in self.iterations)

    def parts(self, scale: Scale, seconds: float) -> dict[str, float]:
        """Return the seconds of each of `attribution.RECORDED` that are known, per env step, if an env step takes `seconds`."""
        place, probes = self.scales.index(scale), self.of(scale)
        rest, reset = float(self.rest[place]), float(self.resets[place])
        phases = {phase: sum(each.parts[phase] for each in self.iterations) for phase in REST}
        sample = seconds - rest
        # The busy share comes from this configuration's probes; the total sampling time from the fit over all rounds.
        sampled = fmean(probe.seconds_per_step for probe in probes)
        return {
            "sample": sample,
            **{phase: rest * took / sum(phases.values()) for phase, took in phases.items()},
            "busy": reset + (sample - reset) * fmean(probe.busy_per_step for probe in probes) / sampled,
            "longest": reset + (sample - reset) * fmean(probe.longest_per_step for probe in probes) / sampled,
            "reset": reset,
            "all_resets": reset * scale.samplers,
        }

    def _steps(self, scale: Scale) -> float:
        """Return the env steps per learner update."""
        steps = self.steps[scale]
        return self.env_steps if math.isinf(steps) else steps

    def _took(self, iteration: TrainedIteration) -> float:
        """Return an iteration's seconds other than sampling, per learner update."""
        return iteration.rest_s * self._steps(iteration.scale) / iteration.env_steps

    def _updates(self, scales: Sequence[Scale]) -> Array:
        """Return a + b·r + c·N at each scale, with non-negative coefficients fitted with relative weights.

        Iterations at a single scale tell a alone, and those at two scales a and c.
        """
        from scipy.optimize import nnls  # imported here, because it would take 24 MB of each env runner

        took, trained = np.array([self._took(each) for each in self.iterations]), [each.scale for each in self.iterations]
        varying = np.ptp(_terms(trained), axis=0) > 0
        used = [0, *np.flatnonzero(varying)[: len({*trained}) - 1]]
        coefficients = np.zeros(_COEFFICIENTS)
        coefficients[used] = nnls(_terms(trained)[:, used] / took[:, None], np.ones(len(took)))[0]
        return np.asarray(_terms(scales) @ coefficients)

    def check(self) -> None:
        """Check that training iterations sample as probes of the same configurations do.

        Raises:
            UnlikeTrainingError: they don't, so probes can't predict this training.
        """
        ratios = []
        for each in self.iterations:
            if probes := self.of(each.scale):
                sampling_s = each.seconds - each.rest_s - each.parts["all_resets"] / each.scale.samplers
                ratios.append(sampling_s / each.env_steps / median(probe.seconds_per_step for probe in probes))
        ratio = median(ratios) if ratios else NAN
        if ratio < 1 / DISAGREE or ratio > DISAGREE:
            raise UnlikeTrainingError(
                f"An env step takes {ratio:.2g} times as long in training as in probes. Does a training_step of your own sample "
                "outside RLlib's timers?"
            )

    def outcome(self) -> Outcome:
        """Return the outcome of the race after these rounds."""
        return self.race.outcome(self.scales, self.seconds, self.rest + self.resets, self.rest_error)

    def of(self, scale: Scale) -> list[Probe]:
        """Return the probes of one configuration; none if one has failed."""
        return [] if scale in self.failed else [each[scale] for each in self.probes if scale in each]

    def trained_speedups(self, scale: Scale) -> list[float]:
        """Return ln of the speedups in training: of each first iteration after one of the reference over that one."""
        speedups: list[float] = []
        reference = NAN
        for each in self.iterations + self.confirmations:
            seconds = each.seconds / each.env_steps
            if each.scale == REFERENCE_SCALE:
                reference = seconds
            elif each.scale == scale and reference > 0:
                speedups.append(math.log(reference / seconds))
                reference = NAN
        return speedups


def _terms(scales: Sequence[Scale]) -> Array:
    return np.array([[1.0, scale.parallelism, scale.num_env_runners] for scale in scales])


def is_within(scale: Scale, larger: Scale) -> bool:
    """Return whether a scale has at most as many env runners, and as many envs for each, as another one."""
    return scale.num_env_runners <= larger.num_env_runners and scale.num_envs_per_env_runner <= larger.num_envs_per_env_runner
