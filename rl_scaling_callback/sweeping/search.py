"""Which configuration to try next, so that the best one for a goal is found without a trial of each.

First the corners of the grid and its centre. They tell a scaling law, and the law what to expect of what was not tried, as surely
as it predicts those configurations that it is not shown. From then on the next trial is the one that is expected to improve the
choice most (the knowledge gradient), per second that it takes: one that is new and may be the best, or a close rival once more.
What was measured is believed as measured: the law has no say in the choice, and errors are those of the trials.

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
from rl_scaling_callback.analysis.fitting import Array
from rl_scaling_callback.analysis.goals import Goal
from rl_scaling_callback.analysis.laws import Measured, fit_laws
from rl_scaling_callback.analysis.noise import within
from rl_scaling_callback.analysis.recommendation import recommend
from rl_scaling_callback.analysis.runs import Run, Study
from rl_scaling_callback.analysis.speed_correction import at_one_pace
from rl_scaling_callback.core.checks import at_least, positive
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import Steady

# To fall short of a threshold outweighs any speed, as in `recommend`; below an expected gain of 0.3 % another trial isn't worth it.
_SHORTFALL_COSTS: Final = 100.0
_LEAST_GAIN: Final = 0.003
# 2 % of speed are no reason to hold more CPUs: half-width of the intervals [%] of which two tell that difference apart.
_AS_GOOD: Final = 100 * math.expm1(0.02 / math.sqrt(2))
# The standard deviation of a Gaussian whose mean error is 1.
_OF_MEAN_ERROR: Final = math.sqrt(math.pi / 2)
# Gauss–Hermite quadrature over how a trial may turn out.
_NODES, _NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(9)
_NODE_WEIGHTS /= _NODE_WEIGHTS.sum()


@dataclass(frozen=True, slots=True)
class Trial:
    """A trial, as the search is told of it.

    Attributes:
        scale: the configuration.
        seconds: what it cost, start-up and warm-up included [s]; 0 for one of an earlier experiment, which is known for free.
        steady: its steady state; None where it failed.
        others: cores that other programs kept busy meanwhile; NaN where not known.
    """

    scale: Scale
    seconds: float
    steady: Steady | None
    others: float = NAN

    @property
    def failed(self) -> bool:
        """Whether it gave no throughput."""
        return self.steady is None or not 0 < self.steady.sps < math.inf


@dataclass(frozen=True, slots=True)
class Search:
    """A search of a grid for the best configuration. It keeps nothing: the same trials lead to the same proposal.

    Attributes:
        runners: numbers of env runners.
        envs: numbers of envs per env runner.
        goal: what the configuration is for. RAM is known only where it was measured, and is not looked at.
        cores: logical cores that the env runners share; NaN where not known.
        budget: largest share that the search may cost of what it would to measure every configuration once.
        repetitions: most trials of one configuration.
        cpus: CPUs that a trial holds beside its env runners, and for each of them.
        overlaps: whether sampling overlaps learning: then the learner's time does not tell how fast the machine was.

    Raises:
        ValueError: a value out of its range.
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
        """The reference, 1r×1e, and the other configurations of the grid that hold no more CPUs than the goal allows."""
        most = math.inf if self.goal.max_cpus is None else self.goal.max_cpus
        beside, each = self.cpus
        grid = {Scale(r, e) for r in self.runners for e in self.envs if beside + each * r <= most}
        return (SINGLE, *sorted(grid - {SINGLE}))

    def propose(self, trials: Sequence[Trial], running: Sequence[Scale] = ()) -> Scale | None:
        """Return the configuration to try next; None where the search is over, or waits for what runs.

        Without the reference there is no speedup: it comes first, and where it fails the search is over.

        Args:
            trials: all that were run, failed ones included. Those off the grid count for what they cost only.
            running: configurations that are being tried. They are not proposed.
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
        # What tells the law comes first; and where that was not enough for one, anything new.
        lawless = not running and math.isnan(moves.max())
        new = [i for i in allowed if scales[i] not in known and (scales[i] in self._corners or lawless)]
        if new:
            return scales[max(new, key=lambda i: (scales[i] in self._corners, scales[i].parallelism))]
        measured = np.array([scale in known for scale in scales])
        gains = np.nan_to_num([self._gain(i, means, moves[i], measured) for i in allowed])
        if not gains.max(initial=0.0) > _LEAST_GAIN:
            return None
        return scales[allowed[int(np.argmax(gains / costs[allowed]))]]

    def choose(self, trials: Sequence[Trial]) -> Scale | None:
        """Return the best configuration of those tried, by their own figures; None where the reference was not.

        It is the one that `recommend` chooses where figures within 2 % count as equal.
        """
        known = self._known(trials)
        if SINGLE not in known:
            return None
        choice = recommend([replace(each, sps_error=_AS_GOOD, variance=NAN) for each in known.values()], self.goal).choice
        return None if choice is None else choice.scale

    @property
    def _corners(self) -> set[Scale]:
        """The corners of the grid, and its centre."""
        r, e = (sorted({getattr(scale, name) for scale in self.scales}) for name in ("num_env_runners", "num_envs_per_env_runner"))
        return {Scale(r[-1], e[-1]), Scale(r[-1], e[0]), Scale(r[0], e[-1]), Scale(r[len(r) // 2], e[len(e) // 2])} & {*self.scales}

    def _known(self, trials: Sequence[Trial]) -> dict[Scale, Configuration]:
        """Return what was measured of the grid, as the report has it: repeats taken together, at one pace of the machine."""
        runs = [
            Run(name="", scale=trial.scale, steady=trial.steady, others=trial.others)
            for trial in trials
            if trial.steady is not None and not trial.failed and trial.scale in self.scales
        ]
        study = Study("", tuple(runs), exclusive_phases=not self.overlaps, timed_iterations=self.timed)
        return {each.scale: each for each in configurations(at_one_pace(study, "always"))}

    def _expected(self, known: Mapping[Scale, Configuration]) -> tuple[Array, Array]:
        """Return ln SPS of each configuration, as measured or predicted, and how far another trial is expected to move it.

        A law is as sure as it is of what it was not shown. NaN where there is none.
        """
        law = fit_laws([Measured(each.scale, 1 / each.sps, each.own_error) for each in known.values()], self.cores).chosen
        error = law.mean_error / 100 * _OF_MEAN_ERROR if law else NAN
        means, moves = [], []
        for scale in self.scales:
            if scale in known:
                each, n = known[scale], len(known[scale].runs)
                means.append(math.log(each.sps))
                # Repeats tell the noise, else iterations: what is usual elsewhere is no reason to repeat a trial here.
                variance = each.variance if each.noise.from_repeats else within(each.runs[0].steady)
                of_mean = math.sqrt(variance) if variance >= 0 else error / math.sqrt(n)
                moves.append(of_mean / math.sqrt(n + 1))
            else:
                seconds = law.predict(scale).seconds if law else NAN
                means.append(-math.log(seconds))
                moves.append(error)
        return np.array(means), np.array(moves)

    def _gain(self, index: int, means: Array, move: float, measured: Array) -> float:
        """Return by how much another trial of a configuration is expected to improve the choice, in ln speedup."""
        asked = np.log([[max(least, 1e-9) for least in self.goal.least_speedups(scale)] for scale in self.scales])
        outcomes = np.tile(means, (len(_NODES) + 1, 1))
        outcomes[:-1, index] += move * _NODES
        speedups = outcomes - outcomes[:, :1]
        worth = speedups - _SHORTFALL_COSTS * np.maximum(0, asked - speedups[:, :, None]).sum(axis=2)
        choices = np.where(measured | (np.arange(len(means)) == index), worth[:-1], -math.inf)
        choice = int(np.argmax(np.where(measured, worth[-1], -math.inf)))
        return float(_NODE_WEIGHTS @ (choices.max(axis=1) - choices[:, choice]))


def _costs(trials: Sequence[Trial], means: Array) -> Array:
    """Return what a trial of each configuration is expected to cost [s]: start-up, and time for an equal number of env steps."""
    told = [(trial.seconds, trial.steady.sps) for trial in trials if trial.steady and not trial.failed and trial.seconds > 0]
    if len(told) < 2:
        return np.full(len(means), told[0][0] if told else 1.0)
    seconds, sps = np.array(told).T
    rows = np.column_stack((np.ones(len(told)), 1 / sps))
    lengths = np.linalg.norm(rows, axis=0)
    start_up, steps = nnls(rows / lengths, seconds)[0] / lengths
    costs: Array = start_up + steps * np.exp(-np.where(np.isnan(means), np.log(sps).mean(), means))
    return costs
