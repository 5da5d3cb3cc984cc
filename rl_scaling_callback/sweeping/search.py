"""Which configuration to measure next, so that the best one for a goal is found without measuring all.

The value of a measurement is by how much it is expected to improve the choice (the knowledge gradient), per second that it
takes. So cheap configurations, those that may be best and those that tell most about the others come first, close rivals are
repeated, and the search ends where another measurement is not worth it.

Source: Frazier, Powell and Dayanik, INFORMS J. Comput. 21(4), 2009 (knowledge gradient for correlated beliefs).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls
from scipy.special import ndtr

from rl_scaling_callback.analysis.configurations import SINGLE
from rl_scaling_callback.analysis.fitting import Array
from rl_scaling_callback.analysis.goals import Goal
from rl_scaling_callback.analysis.noise import USUAL_DEVIATION, USUAL_LEFT
from rl_scaling_callback.analysis.speed_correction import USUAL_SLOPE, behind
from rl_scaling_callback.core.attribution import Spent
from rl_scaling_callback.core.checks import at_least, positive
from rl_scaling_callback.core.formulas import NAN, ratio
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import Steady
from rl_scaling_callback.sweeping.surrogate import Belief, believe

# Standard deviation of ln SPS between runs of one configuration, and of what is left where the learner tells how fast the machine
# was. By how much a run is slower where its learner is (see `speed_correction`), and how sure that is.
_BETWEEN_RUNS: Final = USUAL_DEVIATION
_AT_ONE_PACE: Final = USUAL_DEVIATION * math.sqrt(USUAL_LEFT)
_SLOPE_DOUBT: Final = 0.15
# Shares below this are noise; beyond it, the share of sampling is known to 15 % of itself.
_LEAST_SHARE: Final = 0.01
_LIMIT_NOISE: Final = 0.15
# 1 % short of a threshold weighs as much as 6 % of speed; 2 % of speed are no reason to hold more CPUs; below an expected gain of
# 0.3 % another trial isn't worth it.
_SHORTFALL_COSTS: Final = 6.0
_AS_GOOD: Final = 0.02
_LEAST_GAIN: Final = 0.003
# Gauss–Hermite quadrature over how a measurement may turn out.
_NODES, _NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(9)
_NODES = _NODES[:, None]
_NODE_WEIGHTS /= _NODE_WEIGHTS.sum()


@dataclass(frozen=True, slots=True)
class Trial:
    """A measurement, as the search is told of it.

    Attributes:
        scale: the configuration.
        seconds: what it cost, start-up and warm-up included [s]; 0 for one of an earlier experiment, which is known for free.
        sps: its steady SPS [steps/s]; NaN where it failed.
        error: half-width of the 95 % interval of `sps` from the trial's iterations [%]; NaN where not known.
        fixed: share of its time in which nothing is sampled (learner's update, weights, the rest); NaN where not known.
        others: cores that other programs kept busy meanwhile; NaN where not known.
        learner_seconds: time of the learner's update per env step [s], which tells how fast the machine was; NaN where not known.
    """

    scale: Scale
    seconds: float
    sps: float
    error: float = NAN
    fixed: float = NAN
    others: float = NAN
    learner_seconds: float = NAN

    @classmethod
    def of(cls, scale: Scale, seconds: float, steady: Steady, others: float = NAN) -> Trial:
        """Return what a steady window says."""
        spent = Spent.of_window(steady.parts, steady.env_steps)
        fixed = ratio(spent.learn + spent.sync + spent.other, spent.total)
        return cls(scale, seconds, steady.sps, steady.error, fixed, others, spent.learn)

    @property
    def failed(self) -> bool:
        """Whether it gave no throughput."""
        return not 0 < self.sps < math.inf


@dataclass(frozen=True, slots=True)
class Search:
    """A search of a grid for the best configuration. It keeps nothing: the same trials lead to the same proposal.

    Attributes:
        runners: numbers of env runners.
        envs: numbers of envs per env runner.
        goal: what the configuration is for. RAM is known only where it was measured, and is not looked at.
        cores: logical cores that the env runners share; NaN where not known.
        budget: largest share that the search may cost of what it would to measure every configuration once.
        repetitions: most measurements of one configuration.
        cpus: CPUs that a trial holds beside its env runners, and for each of them.

    Raises:
        ValueError: a value out of its range.
    """

    runners: tuple[int, ...]
    envs: tuple[int, ...]
    goal: Goal
    cores: float = NAN
    budget: float = 0.3
    repetitions: int = 3
    cpus: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        at_least("number of runner counts", len(self.runners), 1)
        at_least("number of env counts", len(self.envs), 1)
        positive("budget", self.budget)
        at_least("repetitions", self.repetitions, 1)

    @property
    def scales(self) -> tuple[Scale, ...]:
        """The reference, 1r×1e, and the other configurations of the grid that hold no more CPUs than the goal allows."""
        most = math.inf if self.goal.max_cpus is None else self.goal.max_cpus
        beside, each = self.cpus
        grid = {Scale(r, e) for r in self.runners for e in self.envs if beside + each * r <= most}
        return (SINGLE, *sorted(grid - {SINGLE}))

    def propose(self, trials: Sequence[Trial], running: Sequence[Scale] = ()) -> Scale | None:
        """Return the configuration to measure next; None where the search is over, or waits for what runs.

        Without the reference there is no speedup: it comes first, and where it fails the search is over.

        Args:
            trials: all that were run, failed ones included. Those off the grid count for what they cost only.
            running: configurations that are being measured. They are believed to turn out as expected: that does not change what is
                believed to be best, but what there is to gain from others. They are not proposed.
        """
        outlook = self._outlook(trials)
        if outlook is None:
            return None if SINGLE in (*running, *(trial.scale for trial in trials)) else SINGLE
        if running:
            trials = [*trials, *outlook.believed(trials, running)]
            outlook = self._outlook(trials) or outlook
        costs = _costs(trials, outlook.belief)
        left = self.budget * costs.sum() - sum(trial.seconds for trial in trials)
        times = Counter(trial.scale for trial in trials)
        unwanted = {*running, *(trial.scale for trial in trials if trial.failed)}
        allowed = [
            index
            for index, scale in enumerate(outlook.scales)
            if times[scale] < self.repetitions and scale not in unwanted and costs[index] <= left
        ]
        gains = np.array([outlook.gain(index) for index in allowed])
        if not gains.max(initial=0.0) > _LEAST_GAIN:
            return None
        return outlook.scales[allowed[int(np.argmax(gains / costs[allowed]))]]

    def expected(self, trials: Sequence[Trial]) -> dict[Scale, float]:
        """Return the speedup that is expected of each configuration, measured or not [×]; none while the reference is unknown."""
        outlook = self._outlook(trials)
        return {} if outlook is None else dict(zip(outlook.scales, np.exp(outlook.belief.mean[:-2]).tolist(), strict=True))

    def choose(self, trials: Sequence[Trial]) -> Scale | None:
        """Return the best configuration of those measured, as far as known; None where the reference was not.

        Where none is likely to meet the goal, it comes nearest. A figure that others on the grid make unlikely counts for less.
        Of those that are as good within 2 % it is the one with fewest env runners, then of the smallest N.
        """
        outlook = self._outlook(trials)
        if outlook is None:
            return None
        worth = np.where(outlook.measured, outlook.worth(), -math.inf)
        as_good = [scale for scale, its in zip(outlook.scales, worth, strict=True) if its >= worth.max() - _AS_GOOD]
        return min(as_good, key=lambda scale: (scale.num_env_runners, scale.parallelism))

    def _outlook(self, trials: Sequence[Trial]) -> _Outlook | None:
        scales, measured = self.scales, {trial.scale for trial in trials if not trial.failed}
        if SINGLE not in measured:
            return None
        observed, values, variances = map(np.array, zip(*_observations(scales, trials), strict=True))
        return _Outlook(
            scales=scales,
            measured=np.array([scale in measured for scale in scales]),
            belief=believe(scales, self.cores, observed, values, variances),
            thresholds=tuple(_thresholds(self.goal, scales)),
            noise=_AT_ONE_PACE if all(trial.learner_seconds > 0 for trial in trials if not trial.failed) else _BETWEEN_RUNS,
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Outlook:
    """What the trials leave to expect.

    Attributes:
        scales: the configurations.
        measured: which of them were measured, and so can be chosen.
        belief: what is believed of them.
        thresholds: ln of the least speedup of each configuration, for each of the goal's constraints.
        noise: standard deviation of ln SPS between runs of one configuration.
    """

    scales: tuple[Scale, ...]
    measured: npt.NDArray[np.bool_]
    belief: Belief
    thresholds: tuple[Array, ...]
    noise: float

    def worth(self, moved: Array | float = 0.0, nodes: Array | float = 0.0) -> Array:
        """Return the expected ln speedup, less what falling short of the thresholds costs, of each configuration.

        Args:
            moved: how far a measurement moves the belief's mean, if it turns out one standard deviation above what is expected.
            nodes: how it turns out, in standard deviations, with the configurations along the last axis.
        """
        mean = self.belief.mean + nodes * moved
        deviation = np.sqrt(np.maximum(np.diag(self.belief.covariance) - moved**2, 1e-12))
        mean, deviation = mean[..., :-2], deviation[:-2]
        worth: Array = mean.copy()
        for threshold in self.thresholds:
            z = (threshold - mean) / deviation
            worth -= _SHORTFALL_COSTS * deviation * (z * ndtr(z) + np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi))
        return worth

    def believed(self, trials: Sequence[Trial], scales: Sequence[Scale]) -> Iterator[Trial]:
        """Yield trials of configurations that turn out as expected."""
        costs, paces = _costs(trials, self.belief), [math.log(each.learner_seconds) for each in trials if each.learner_seconds > 0]
        for scale in scales:
            index = self.scales.index(scale)
            sps = math.exp(self.belief.mean[index] + self.belief.mean[-1])
            yield Trial(scale, float(costs[index]), sps, learner_seconds=math.exp(fmean(paces)) if paces else NAN)

    def gain(self, index: int) -> float:
        """Return by how much measuring a configuration is expected to improve the choice."""
        choices = self.measured | (np.arange(len(self.scales)) == index)
        outcomes = self.worth(self.belief.measuring(index, self.noise**2), _NODES)
        return float(_NODE_WEIGHTS @ outcomes[:, choices].max(axis=1) - self.worth()[self.measured].max())


def _thresholds(goal: Goal, scales: Sequence[Scale]) -> Iterator[Array]:
    """Yield ln of the least speedup that each of the goal's constraints asks of each configuration."""
    parallelism = np.array([scale.parallelism for scale in scales], dtype=float)
    if goal.min_efficiency is not None:
        yield np.log(goal.min_efficiency / 100 * parallelism)
    if goal.min_speedup is not None:
        yield np.full(len(scales), math.log(goal.min_speedup))


def _observations(scales: Sequence[Scale], trials: Sequence[Trial]) -> Iterator[tuple[Array, float, float]]:
    """Yield what each trial says: the weights of the belief's entries (see `believe`), the value of the sum, and its variance."""
    for trial, slower in zip(trials, behind([trial.learner_seconds for trial in trials]).tolist(), strict=True):
        if trial.failed or trial.scale not in scales:
            continue
        speedup, limit, baseline = np.eye(len(scales) + 2)[[scales.index(trial.scale), -2, -1]]
        within = math.log1p(trial.error / 100) / 1.96 if trial.error >= 0 else 0.0
        if math.isnan(slower):
            yield speedup + baseline, math.log(trial.sps), _BETWEEN_RUNS**2 + within**2
        else:
            between = _AT_ONE_PACE**2 + (_SLOPE_DOUBT * slower) ** 2
            yield speedup + baseline, math.log(trial.sps) + USUAL_SLOPE * slower, between + within**2
        # What takes as long in all configurations is all that is left at the limit.
        fixed = min(trial.fixed, 1 - _LEAST_SHARE)
        if fixed > _LEAST_SHARE:
            yield limit - speedup, -math.log(fixed), (_LIMIT_NOISE * (1 - fixed)) ** 2 + _LEAST_SHARE**2


def _costs(trials: Sequence[Trial], belief: Belief) -> Array:
    """Return what a trial of each configuration is expected to cost [s]: start-up, and time for an equal number of env steps."""
    told = [trial for trial in trials if not trial.failed and trial.seconds > 0]
    rows = np.array([(1.0, 1 / trial.sps) for trial in told])
    seconds = np.array([trial.seconds for trial in told])
    if len({trial.scale for trial in told}) < 2:
        return np.full(len(belief.mean) - 2, seconds.mean() if told else 1.0)
    lengths = np.linalg.norm(rows, axis=0)
    values = nnls(rows / lengths, seconds)[0] / lengths
    costs: Array = values[0] + values[1] * np.exp(-belief.mean[:-2] - belief.mean[-1])
    return costs
