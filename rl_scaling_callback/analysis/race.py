"""Estimates speedups from rounds of measurements, eliminates configurations, and decides when enough rounds were run.

Each round measures every configuration still in the race once, including the reference, in random order. Rounds are blocks in the
model ln t = configuration + round + noise. A machine that slows down from round to round therefore doesn't bias comparisons, and
Huber's weights bound the influence of outliers. All errors come from the residuals of the fit: noise makes a race longer, not
wrong.

A configuration is eliminated as soon as another one is clearly better for the goal. "Clearly" means beyond the boundary of Robbins'
normal mixture, which is valid over all rounds simultaneously, however often it is checked. Student's t accounts for the estimated
variance, and Bonferroni's correction for the number of comparisons.

Sources: Even-Dar, Mannor and Mansour, JMLR 7, 2006 (successive elimination); Robbins, Ann. Math. Statist. 41(5), 1970, and Howard
et al., Ann. Statist. 49(2), 2021 (boundaries); Huber, "Robust Statistics", 1981, chapters 6 and 7; Abedi and Brecht, ICPE 2017
(randomised interleaved trials).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
from scipy.special import ndtr, stdtrit

from rl_scaling_callback.analysis.choice import INDIFFERENCE, TOLERANCE, Goal, choose, shortfall
from rl_scaling_callback.analysis.configurations import Configuration
from rl_scaling_callback.core.estimates import Array
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import Steady

# Residuals beyond this many standard deviations are down-weighted: 95 % efficiency under Gaussian noise (Huber).
_BOUND: Final = 1.345
_BOUNDED_SQUARE: Final = 0.7102
_PASSES: Final = 30
# With fewer than three measurements, an outlier can't be identified: intervals are wider then, by half of what they differ.
MIN_ROUNDS: Final = 3
_MIN_TO_ELIMINATE: Final = 2
_EXACT: Final = 1e-9
_RISK: Final = 0.05
"""Probability, over a whole race, that the best configuration is eliminated."""
_MAX_ERROR: Final = 999.0
"""Largest error [%]; that of a single round."""
_MAX_STD: Final = 10.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """The standings of a race.

    Attributes:
        candidates: the figures of the configurations that were measured. `sps` is at the mean speed of the rounds, and its error is
            relative to other configurations. The error of a speedup is that in a repeated race, in the same Algorithm. In another
            one, env runners that outnumber the cores may run faster or slower by more.
        equals: the best configurations for the goal so far, according to `choose`, cheapest first.
        out: eliminated configurations.
        over: whether the choice was measured often enough, and no other configuration may still turn out better: faster by more
            than twice the indifference, or because it is unclear which of the two meets the goal.
    """

    candidates: tuple[Configuration, ...]
    equals: tuple[Scale, ...]
    out: frozenset[Scale]
    over: bool

    @property
    def choice(self) -> Scale:
        """The best configuration so far."""
        return self.equals[0]

    @property
    def best(self) -> Configuration:
        """The figures of the choice."""
        return next(each for each in self.candidates if each.scale == self.choice)


def powers_of_two(most: int) -> list[int]:
    """Return the powers of two below `most`, and `most` itself."""
    return sorted({min(2**power, most) for power in range(most.bit_length() + 1)})


@dataclass(frozen=True, slots=True)
class Grid:
    """The scales to try: numbers of env runners and of envs per env runner, in ascending order, where `fits` holds."""

    runners: tuple[int, ...]
    envs: tuple[int, ...]
    fits: Callable[[Scale], bool] = lambda scale: True

    def smallest(self, numbers: int | None) -> set[Scale]:
        """Return the scales with the smallest numbers of envs; with all of them if `numbers` is None."""
        return {scale for r in self.runners for e in self.envs[:numbers] if self.fits(scale := Scale(r, e))}

    def next_to(self, scale: Scale, known: Collection[Scale]) -> Iterator[tuple[Scale, Scale | None]]:
        """Yield the next larger configuration along each axis, with the next smaller one in `known` on that axis."""
        r, e = scale.num_env_runners, scale.num_envs_per_env_runner
        if (more := min((each for each in self.runners if each > r), default=0)) and e in self.envs and self.fits(Scale(more, e)):
            smaller = [each for each in known if each.num_envs_per_env_runner == e and each.num_env_runners < r]
            yield Scale(more, e), max(smaller, default=None)
        if (more := min((each for each in self.envs if each > e), default=0)) and r in self.runners and self.fits(Scale(r, more)):
            smaller = [each for each in known if each.num_env_runners == r and each.num_envs_per_env_runner < e]
            yield Scale(r, more), max(smaller, default=None)


@dataclass(frozen=True, slots=True)
class Race:
    """The rules of a race. It is stateless: the same rounds lead to the same outcome.

    Ask for the outcome after each round, and add configurations if the grid may grow. A race that is over has a choice that is at
    most 4 % slower than the best, with 95 % confidence over the whole race. Where it is below a threshold of the goal, it is so by
    at most its error as measured, and by at most 5 % with that confidence.

    Attributes:
        goal: the goal.
        cpus: returns the CPUs allocated to a trial at a scale.
    """

    goal: Goal
    cpus: Callable[[Scale], float] = lambda scale: scale.cpus

    def outcome(self, scales: Sequence[Scale], seconds: Array, rest: Array | float = 0.0, rest_error: float = 0.0) -> Outcome:
        """Return the standings after some rounds.

        A configuration is eliminated if another one is clearly better for the goal, by the rule of `choose`. The reference is never
        eliminated, because speedups are relative to it.

        Args:
            scales: the configurations, the reference first.
            seconds: sampling time per env step [s], shape (rounds, scales), with the reference in at least one round; NaN if not
                measured.
            rest: time of an iteration other than sampling, per env step [s], at the speed of the rounds; scalar or shape (scales,).
            rest_error: relative standard error of `rest`, including that of the speed.
        """
        seconds = np.where((seconds > 0) & np.isfinite(seconds), seconds, NAN)[np.isfinite(seconds).any(axis=1)]
        rest = np.broadcast_to(rest, len(scales))
        fit = _fit(np.log(seconds))
        total = np.exp(fit.effects) + rest
        fixed, speed = rest / total, -np.log(total)
        speedup = speed - speed[0] + math.log(scales[0].parallelism)
        variances = (1 - fixed) ** 2 * fit.variance
        std = np.sqrt(np.add.outer(variances, variances) / fit.shared + (np.subtract.outer(fixed, fixed) * rest_error) ** 2)
        np.fill_diagonal(std, 0.0)
        # A repeated race has an independent error of the same size.
        quantile = stdtrit(fit.dof, 0.975) * math.sqrt(2)
        error = np.minimum(100 * np.expm1(quantile * std[:, 0]), _MAX_ERROR)
        # Variances of the throughputs whose sums are those of the speedups: the reference gets half of the smallest.
        variance = np.minimum(std[:, 0], _MAX_STD) ** 2
        others = variance[1:][np.isfinite(variance[1:])]
        relative = variance - (half := others.min(initial=2 * _MAX_STD**2) / 2)
        relative[0] = half
        relative_error = np.minimum(100 * np.expm1(quantile * np.sqrt(relative)), _MAX_ERROR)
        columns = (each.tolist() for each in (np.exp(speed), relative_error, np.exp(speedup), error))
        candidates = [
            Configuration(
                scale=scale, steady=Steady(sps), sps_error=sps_error, speedup=times, speedup_error=its_error, cpus=self.cpus(scale)
            )
            for scale, sps, sps_error, times, its_error in zip(scales, *columns, strict=True)
            if sps > 0
        ]
        measured = np.isfinite(seconds).sum(axis=0)
        few = (measured > 0) & (measured < MIN_ROUNDS)
        by_round = -np.log(seconds[:, few] / np.exp(fit.paces[:, None]) + rest[few])
        apart = np.zeros(len(scales))
        apart[few] = np.nanmax(by_round, axis=0) - np.nanmin(by_round, axis=0)
        half = np.nan_to_num(self._boundary(fit) * std + np.add.outer(apart, apart) / 2, nan=math.inf, posinf=math.inf)
        place = {scale: index for index, scale in enumerate(scales)}

        def is_clearly_better(one: Configuration, other: Configuration, slack: float = 0.0, below: float = 0.0) -> bool:
            """Return whether it is better at the ends of the intervals that speak against it, or worse by at most so much."""
            i, j = place[one.scale], place[other.scale]
            down, up = half[i, 0], half[j, 0]
            if all(shortfall(_faster(each, more), self.goal)[1] > 0 for each, more in ((one, down), (other, up))):
                down = up = half[i, j] / 2  # both miss the goal, and their difference is known better than each
            (excess, lack), its = (shortfall(_faster(each, more), self.goal) for each, more in ((one, below - down), (other, up)))
            least = excess, max(0.0, lack - slack) if its[1] > 0 else lack
            lead = math.log(one.sps / other.sps) + slack
            return least < its or (least == its and lead > 0 and lead >= half[i, j])

        peers = choose(candidates, self.goal)
        choice, rivals = peers[0], [each for each in candidates if each is not peers[0]]
        often = [each for each in rivals if measured[place[each.scale]] >= _MIN_TO_ELIMINATE]
        out = {each.scale for each in often if any(is_clearly_better(other, each) for other in (*peers, *often))} - {scales[0]}
        done = out | {each.scale for each in often if is_clearly_better(choice, each, 2 * INDIFFERENCE, TOLERANCE / 2)}
        over = measured[place[choice.scale]] >= MIN_ROUNDS and len(done) == len(rivals)
        return Outcome(tuple(candidates), tuple(each.scale for each in peers), frozenset(out), bool(over))

    def worth_adding(self, candidates: Sequence[Configuration], grid: Grid, near: Collection[Scale]) -> list[Scale]:
        """Return larger configurations, each next to one of `near`, that may be better for the goal than all candidates.

        Assumes diminishing returns: a doubling gains at most as much as the previous one along the same axis, and the first at most
        2×. A configuration is worth measuring if it may then beat the best so far by more than the indifference.
        """
        known = {each.scale: each for each in candidates}

        def cost(each: Configuration) -> tuple[float, float, float]:
            return *shortfall(each, self.goal), -math.log(each.speedup)

        least, found = min(map(cost, choose(candidates, self.goal))), set()
        for scale in near:
            one = known[scale]
            for larger, smaller in grid.next_to(scale, known):
                speedup = one.speedup * larger.parallelism / scale.parallelism
                if smaller is not None:
                    slope = math.log(one.speedup / known[smaller].speedup) / math.log(scale.parallelism / smaller.parallelism)
                    speedup = one.speedup * (larger.parallelism / scale.parallelism) ** slope
                expected = cost(replace(one, scale=larger, speedup=speedup, cpus=self.cpus(larger)))
                better = next((now - then for now, then in zip(least, expected, strict=True) if now != then), 0.0)
                if larger not in known and better > INDIFFERENCE:
                    found.add(larger)
        return sorted(found)

    def _boundary(self, fit: _Fit) -> Array:
        """Return by how many standard deviations each pair must differ to be clear, shape (scales, scales)."""
        thresholds = self.goal.min_efficiency is not None or self.goal.min_speedup is not None
        error = _RISK / (len(fit.effects) * (1 + thresholds))
        normal = np.sqrt((1 + 1 / fit.shared) * (np.log1p(fit.shared) - 2 * math.log(error)))
        return np.asarray(-stdtrit(fit.dof, ndtr(-normal)))


def _faster(each: Configuration, by: float) -> Configuration:
    """Return a configuration with a larger speedup, by so much as ln; beyond e^20, the number is meaningless."""
    return replace(each, speedup=each.speedup * math.exp(max(-20.0, min(by, 20.0))))


class _Fit(NamedTuple):
    """The fit of ln t = effect of the configuration + effect of the round + noise.

    Attributes:
        effects: at the mean speed of the rounds, shape (scales,); NaN if not measured.
        variance: that of a probe's noise, inflated for autocorrelation.
        dof: its degrees of freedom.
        shared: effective number of rounds in which each pair was measured, shape (scales, scales).
        paces: effects of the rounds relative to their mean, shape (rounds,).
    """

    effects: Array
    variance: float
    dof: int
    shared: Array
    paces: Array


def _fit(logs: Array) -> _Fit:
    """Fit ln t of shape (rounds, scales).

    Rounds that lack one of a pair still inform its difference through the other configurations: `shared` is that of the incomplete
    block design. Errors are those of Huber's pseudo-values, pooled over all configurations. Autocorrelated noise reduces the
    effective number of rounds to n(1 − ρ)/(1 + ρ). The bias of ρ is corrected as for a steady window, and its standard error is
    added, because few rounds hardly determine ρ.
    """
    there = np.isfinite(logs)
    x, weights, cells = np.where(there, logs, 0.0), there.astype(float), int(there.sum())
    inverse = _inverse(weights)
    diagonal = np.diag(inverse)
    shared = 2 / np.maximum(diagonal + diagonal[:, None] - 2 * inverse, 2 / cells)
    dof = cells - int(there.any(axis=0).sum()) - len(logs) + 1
    bound = math.inf
    for _ in range(_PASSES):
        in_rounds = weights.sum(axis=1, keepdims=True)
        apart = x - (weights * x).sum(axis=1, keepdims=True) / in_rounds
        effects = _inverse(weights) @ (weights * apart).sum(axis=0)
        round_effects = (weights * (x - effects)).sum(axis=1, keepdims=True) / in_rounds
        left = np.where(there, x - effects - round_effects, 0.0)
        # Huber's Proposal 2: the scale at which the bounded residuals have the mean square expected of Gaussian ones.
        square = float((np.minimum(np.abs(left), bound) ** 2).sum()) / max(1, dof) / _BOUNDED_SQUARE
        bound = _BOUND * math.sqrt(square) + _EXACT
        weights = there * np.minimum(1.0, bound / np.maximum(np.abs(left), _EXACT))
    effects = np.where(there.any(axis=0), effects + round_effects.mean(), NAN)
    paces = (round_effects - round_effects.mean())[:, 0]
    if dof <= 0:
        return _Fit(effects, math.inf, 1, shared, paces)
    pseudo = np.clip(left, -bound, bound) / np.mean(np.abs(left[there]) <= bound)
    squares, pairs = float((pseudo**2).sum()) + _EXACT**2, int((there[1:] & there[:-1]).sum())
    lagged = float((pseudo[1:] * pseudo[:-1]).sum()) / max(1, pairs) / (squares / cells)
    rho = lagged + (1 + 3 * max(0.0, lagged)) * there.any(axis=0).sum() / cells + 1 / math.sqrt(max(1, pairs))
    rho = min(0.95, max(0.0, rho))
    return _Fit(effects, squares / dof * (1 + rho) / (1 - rho), dof, shared, paces)


def _inverse(weights: Array) -> Array:
    """Return the pseudoinverse of the within-round information matrix of the configurations, for weights (rounds, scales)."""
    information = np.diag(weights.sum(axis=0)) - weights.T @ (weights / weights.sum(axis=1, keepdims=True))
    return np.asarray(np.linalg.pinv(information, rcond=_EXACT, hermitian=True))
