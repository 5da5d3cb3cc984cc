"""Chooses the next configuration to try, to find the best one for a goal without a trial of each.

The search starts with the corners and the centre of the grid, to which it fits a scaling law. The law predicts the configurations
not tried yet, with its leave-one-out error as uncertainty. After that, the next trial is the one with the largest expected
improvement of the choice per second of its duration (the knowledge gradient): a new configuration that may be the best, or a repeat
of a close rival. Measurements are used as they are: the law doesn't influence the final choice, and errors are those of the trials.

Source: Frazier, Powell and Dayanik, INFORMS J. Comput. 21(4), 2009 (knowledge gradient).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from scipy.optimize import nnls

from rl_scaling_callback.analysis.configurations import SINGLE, Configuration, configurations
from rl_scaling_callback.analysis.goals import Goal
from rl_scaling_callback.analysis.laws import Measured, fit_laws
from rl_scaling_callback.analysis.noise import within
from rl_scaling_callback.analysis.recommendation import recommend
from rl_scaling_callback.analysis.runs import Run, Study
from rl_scaling_callback.core.checks import at_least, positive
from rl_scaling_callback.core.estimates import Array
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import Steady

# Missing a threshold outweighs any speed, as in `recommend`. Below an expected gain of 0.3 %, another trial isn't worth it.
_SHORTFALL_COSTS: Final = 100.0
_LEAST_GAIN: Final = 0.003
# 2 % more speed doesn't justify more CPUs: the interval half-width [%] at which two values just differ by that much.
_AS_GOOD: Final = 100 * math.expm1(0.02 / math.sqrt(2))
# The standard deviation of a Gaussian whose mean error is 1.
_OF_MEAN_ERROR: Final = math.sqrt(math.pi / 2)
# Gauss–Hermite quadrature over the possible outcomes of a trial.
_NODES, _NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(9)
_NODE_WEIGHTS /= _NODE_WEIGHTS.sum()


@dataclass(frozen=True, slots=True)
class TrialOutcome:
    """A finished trial, as input to the search.

    Attributes:
        scale: the configuration.
        seconds: its duration, including start-up and warm-up [s]; 0 for a trial of an earlier experiment, which costs nothing.
        steady: its steady state; None if it failed.
        others: cores used by other programs in the meantime; NaN if unknown.
    """

    scale: Scale
    seconds: float
    steady: Steady | None
    others: float = NAN

    @property
    def failed(self) -> bool:
        """Whether it has no throughput."""
        return self.steady is None or not 0 < self.steady.sps < math.inf


@dataclass(frozen=True, slots=True)
class Search:
    """A search of a grid for the best configuration. It is stateless: the same trials lead to the same proposal.

    Attributes:
        runners: numbers of env runners.
        envs: numbers of envs per env runner.
        goal: the goal of the choice. Its RAM limit is ignored, since RAM is known only for measured configurations.
        cores: logical cores that the env runners share; NaN if unknown.
        budget: maximum cost of the search, as a share of the cost of measuring every configuration once.
        repetitions: maximum number of trials per configuration.
        cpus: CPUs allocated to a trial other than for its env runners, and per env runner.
        overlaps: whether sampling overlaps learning. If so, the learner's time doesn't show how fast the machine was.

    Raises:
        ValueError: a value is out of range.
    """

    runners: tuple[int, ...]
    envs: tuple[int, ...]
    goal: Goal
    cores: float = NAN
    budget: float = 1.0
    repetitions: int = 3
    cpus: tuple[float, float] = (1.0, 1.0)
    overlaps: bool = False
    timed: bool = False
    """Whether an iteration lasts a given time, so that its env steps differ between configurations."""

    def __post_init__(self) -> None:
        at_least("number of runner counts", len(self.runners), 1)
        at_least("number of env counts", len(self.envs), 1)
        positive("budget", self.budget)
        at_least("repetitions", self.repetitions, 1)

    @property
    def scales(self) -> tuple[Scale, ...]:
        """The reference, 1r×1e, and the other configurations of the grid within the goal's CPU limit."""
        most = math.inf if self.goal.max_cpus is None else self.goal.max_cpus
        beside, each = self.cpus
        grid = {Scale(r, e) for r in self.runners for e in self.envs if beside + each * r <= most}
        return (SINGLE, *sorted(grid - {SINGLE}))

    def propose(self, trials: Sequence[TrialOutcome], running: Sequence[Scale] = ()) -> Scale | None:
        """Return the configuration to try next; None if the search is finished or waiting for running trials.

        There is no speedup without the reference, so it comes first, and the search ends if it fails.

        Args:
            trials: all finished trials, including failed ones. Of those off the grid only the cost counts.
            running: configurations of running trials, which are not proposed.
        """
        scales, times, known = self.scales, Counter(trial.scale for trial in trials), self._known(trials)
        if SINGLE not in known:
            return None if SINGLE in (*running, *times) else SINGLE
        means, moves = self._expected(known)
        costs = _costs(trials, means)
        left = self.budget * costs.sum() - sum(trial.seconds for trial in trials)
        unwanted = {*running, *(trial.scale for trial in trials if trial.failed)}
        allowed = [
            i for i, scale in enumerate(scales) if times[scale] < self.repetitions and scale not in unwanted and costs[i] <= left
        ]
        # First the configurations that the law is fitted to; if there is still no law, any new one.
        lawless = not running and math.isnan(moves.max())
        new = [i for i in allowed if scales[i] not in known and (scales[i] in self._corners or lawless)]
        if new:
            return scales[max(new, key=lambda i: (scales[i] in self._corners, scales[i].parallelism))]
        measured = np.array([scale in known for scale in scales])
        gains = np.nan_to_num([self._gain(i, means, moves[i], measured) for i in allowed])
        if not gains.max(initial=0.0) > _LEAST_GAIN:
            return None
        return scales[allowed[int(np.argmax(gains / costs[allowed]))]]

    def choose(self, trials: Sequence[TrialOutcome]) -> Scale | None:
        """Return the best configuration tried, by its measurements; None without a measured reference.

        It is the choice of `recommend` with differences of up to 2 % considered equal.
        """
        known = self._known(trials)
        if SINGLE not in known:
            return None
        choice = recommend([replace(each, sps_error=_AS_GOOD, variance=NAN) for each in known.values()], self.goal).choice
        return None if choice is None else choice.scale

    @property
    def _corners(self) -> set[Scale]:
        """The corners and the centre of the grid."""
        r, e = (sorted({getattr(scale, name) for scale in self.scales}) for name in ("num_env_runners", "num_envs_per_env_runner"))
        return {Scale(r[-1], e[-1]), Scale(r[-1], e[0]), Scale(r[0], e[-1]), Scale(r[len(r) // 2], e[len(e) // 2])} & {*self.scales}

    def _known(self, trials: Sequence[TrialOutcome]) -> dict[Scale, Configuration]:
        """Return the measurements of the grid as in the report: repeats combined."""
        runs = [
            Run(name="", scale=trial.scale, steady=trial.steady, others=trial.others)
            for trial in trials
            if trial.steady is not None and not trial.failed and trial.scale in self.scales
        ]
        study = Study("", tuple(runs), exclusive_phases=not self.overlaps, timed_iterations=self.timed)
        return {each.scale: each for each in configurations(study)}

    def _expected(self, known: Mapping[Scale, Configuration]) -> tuple[Array, Array]:
        """Return ln SPS of each configuration, measured or predicted, and how much another trial is expected to change it.

        Predictions have the law's leave-one-out error. NaN without a law.
        """
        law = fit_laws([Measured(each.scale, each.sps, each.own_error) for each in known.values()], self.cores).chosen
        error = law.mean_error / 100 * _OF_MEAN_ERROR if law else NAN
        means, moves = [], []
        for scale in self.scales:
            if scale in known:
                each, n = known[scale], len(known[scale].runs)
                means.append(math.log(each.sps))
                # Noise comes from repeats, or else from iterations; usual values from elsewhere don't justify a repeat here.
                variance = each.variance if each.noise.from_repeats else within(each.runs[0].steady)
                of_mean = math.sqrt(variance) if variance >= 0 else error / math.sqrt(n)
                moves.append(of_mean / math.sqrt(n + 1))
            else:
                means.append(math.log(law.predict(scale).sps if law else NAN))
                moves.append(error)
        return np.array(means), np.array(moves)

    def _gain(self, index: int, means: Array, move: float, measured: Array) -> float:
        """Return the expected improvement of the choice by another trial of a configuration, in ln speedup."""
        asked = np.log([[max(least, 1e-9) for least in self.goal.least_speedups(scale)] for scale in self.scales])
        outcomes = np.tile(means, (len(_NODES) + 1, 1))
        outcomes[:-1, index] += move * _NODES
        speedups = outcomes - outcomes[:, :1]
        worth = speedups - _SHORTFALL_COSTS * np.maximum(0, asked - speedups[:, :, None]).sum(axis=2)
        choices = np.where(measured | (np.arange(len(means)) == index), worth[:-1], -math.inf)
        choice = int(np.argmax(np.where(measured, worth[-1], -math.inf)))
        return float(_NODE_WEIGHTS @ (choices.max(axis=1) - choices[:, choice]))


def _costs(trials: Sequence[TrialOutcome], means: Array) -> Array:
    """Return the expected cost of a trial of each configuration [s]: start-up, plus time for an equal number of env steps."""
    told = [(trial.seconds, trial.steady.sps) for trial in trials if trial.steady and not trial.failed and trial.seconds > 0]
    if len(told) < 2:
        return np.full(len(means), told[0][0] if told else 1.0)
    seconds, sps = np.array(told).T
    rows = np.column_stack((np.ones(len(told)), 1 / sps))
    lengths = np.linalg.norm(rows, axis=0)
    start_up, steps = nnls(rows / lengths, seconds)[0] / lengths
    costs: Array = start_up + steps * np.exp(-np.where(np.isnan(means), np.log(sps).mean(), means))
    return costs
