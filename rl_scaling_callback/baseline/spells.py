"""What probes and a trial's own iterations say about each other, and so about the reference. Pure arithmetic."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Final, NamedTuple

import numpy as np

from rl_scaling_callback.core.attribution import TimeBreakdown
from rl_scaling_callback.core.estimates import Estimate, student_t, trimmed_mean, without_outliers
from rl_scaling_callback.core.formulas import NAN, ratio
from rl_scaling_callback.core.probing import DISAGREE, Probe
from rl_scaling_callback.core.steady import DEFAULT_RULE, MIN_CHANGE, SteadyRule, SteadyWindow

FEWEST_TO_TELL: Final = 3
"""Iterations from which on their spread is known."""
UNEXPLAINED: Final = math.log(10.0)
"""A difference that no noise explains, when noise is unknown."""

_FEWEST_SPELLS: Final = 3
"""Spells from which on their own spread tells the error."""
_EVERY_SPELL: Final = SteadyRule(warmup_iterations=0)
_MAX_SPELLS: Final = 12
_MAX_ITERATIONS: Final = 64
_CAUTION: Final = 2.0
"""How many 95 % half-widths a difference must exceed, because it is tested in every iteration."""


class Round(NamedTuple):
    """The figures from one round of probes, or their mean over several, all without env resets.

    Ratios are between probes that ran within a second or two, so the speed of the machine cancels.

    Attributes:
        sampling: ln of the ratio of the reference's sampling time per env step to the trial's.
        sync: ln of the ratio of the reference's time to send weights to the trial's.
        busy: busy share of the reference's typical env runner during sampling.
        own: ln of the sampling time per env step at the trial's own scale [s].
        own_longest: ln of the busy time of the slowest env runner there, per env step of all env runners [s].
    """

    sampling: float
    sync: float
    busy: float
    own: float
    own_longest: float

    @classmethod
    def of(cls, reference: Probe, own: Probe) -> Round:
        """Return the figures from one probe of the reference, and one of the trial's own scale."""
        sync = reference.sync / own.sync if reference.sync > 0 and own.sync > 0 else 1.0
        return cls(
            math.log(reference.seconds_per_step / own.seconds_per_step),
            math.log(sync),
            reference.busy_per_step / reference.seconds_per_step,
            math.log(own.seconds_per_step),
            _log(own.longest_per_step),
        )


class Cost(NamedTuple):
    """The figures `own` and `own_longest` of `Round`, measured by an iteration of the trial; NaN if unknown."""

    own: float
    own_longest: float

    @classmethod
    def of(cls, env_steps: float, times: TimeBreakdown, probed: Round) -> Cost:
        """Return the cost of an iteration; sampling that RLlib's timers don't see counts as a hundredth of what probes took."""
        least = probed.own - 2 * UNEXPLAINED
        sampling, longest = _log((times.sample - times.reset) / env_steps), _log((times.longest - times.reset) / env_steps)
        return cls(max(sampling, least), max(longest, least))


_UNKNOWN: Final = Round(*[NAN] * len(Round._fields))


@dataclass(slots=True)
class _Spell:
    """Rounds of probes that followed each other without an iteration in between, and the iterations until the next ones.

    Attributes:
        rounds: its rounds.
        mean: their mean.
        iterations: number of its iterations.
        own: Σ of their `Cost.own`.
        own_longest: Σ of their `Cost.own_longest`.
    """

    rounds: list[Round] = field(default_factory=list)
    mean: Round = _UNKNOWN
    iterations: int = 0
    own: float = 0.0
    own_longest: float = 0.0


class Spells:
    """The latest probes of a trial and its iterations between them.

    The machine may be slower or faster for seconds, so rounds that follow each other closely agree better than they should. Rounds
    without an iteration in between count as one spell, and errors are computed from spells, as from batch means.

    A difference between probes and iterations of the same scale that their errors allow is taken for time that an iteration spends
    on sampling at any scale and that short probes don't meet, such as for requests, caches, and results on the way.

    Attributes:
        mean: trimmed mean of the rounds' figures over spells; over rounds if there are fewer than three spells.
        sampling: ratio of the reference's sampling time to that of the trial's iterations.
        agrees: whether probes at the trial's own scale differ from its iterations by no more than their errors.
        half_width: that of the 95 % interval of ln of the reference's time in a trial of its own; NaN if unknown (see `compare`).
    """

    def __init__(self) -> None:
        self._spells: deque[_Spell] = deque(maxlen=_MAX_SPELLS)
        self._costs: deque[float] = deque(maxlen=_MAX_ITERATIONS)
        self._spread_before = NAN
        self.mean = _UNKNOWN
        self.sampling = self.half_width = NAN
        self.agrees = True

    @property
    def iterations(self) -> int:
        """Number of the latest iterations that are known."""
        return len(self._costs)

    def add_rounds(self, rounds: Sequence[Round]) -> None:
        """Add rounds of probes that just ran, one after another."""
        if not self._spells or self._spells[-1].rounds:
            self._spells.append(_Spell())
        latest = self._spells[-1]
        latest.rounds.extend(rounds)
        latest.mean = Round(*map(fmean, zip(*latest.rounds, strict=True)))
        probed = [spell for spell in self._spells if spell.rounds]
        has_enough = len(probed) >= _FEWEST_SPELLS
        samples = [spell.mean for spell in probed] if has_enough else [each for spell in probed for each in spell.rounds]
        self.mean = Round(*[trimmed_mean(figures).mean for figures in zip(*samples, strict=True)])
        self.sampling = self._sampling(0.0)

    def add_iteration(self, cost: Cost) -> None:
        """Add an iteration of the trial."""
        if not self._spells:
            self._spells.append(_Spell())
        spell = self._spells[-1]
        spell.iterations += 1
        spell.own += cost.own
        spell.own_longest += cost.own_longest
        self._costs.append(cost.own)

    def start_over(self) -> None:
        """Forget the probes and iterations so far, but not how much iterations vary."""
        self._spread_before = self._spread()
        self._costs.clear()
        self._spells.clear()

    def is_outlier(self, cost: Cost) -> bool:
        """Return whether an iteration costs more or less than those before it by more than noise explains."""
        n = len(self._costs)
        if n < FEWEST_TO_TELL:
            return False
        noise = _CAUTION * student_t(n - 1) * self._spread() * math.sqrt(1 + 1 / n)
        # The median, because a stall among the first few would shift the mean towards a change.
        return abs(cost.own - median(self._costs)) > min(math.log(DISAGREE) + noise, UNEXPLAINED)

    def compare(self) -> bool:
        """Find out and return whether probes and iterations agree, and compute the interval from the third spell on.

        Each spell of probes, with the iterations that follow it, gives one estimate of ln of the reference's sampling time per env
        step: that of the iterations, plus ln of the ratio between the probes at both scales. Added in quadrature to the half-width
        of their mean are that of the other trial, which meets the machine's noise at another time, and what it would make if probes
        missed as much in proportion at the reference as at the trial's own scale. The other trial's is taken to be the same, but
        at least that of this trial's iterations in the time of the few that a baseline is measured in.
        """
        both = [spell for spell in self._spells if spell.rounds and spell.iterations]
        own = self._missing([spell.own / spell.iterations - spell.mean.own for spell in both])
        longest = self._missing([spell.own_longest / spell.iterations - spell.mean.own_longest for spell in both])
        is_known = len(both) >= _FEWEST_SPELLS
        tolerance = math.log1p(MIN_CHANGE / 100) if is_known else math.log(DISAGREE)
        self.agrees = any(spell.rounds for spell in self._spells)
        for missed in (own, longest):
            limit = tolerance + _CAUTION * missed.half_width
            self.agrees &= not abs(missed.mean) > (limit if limit < UNEXPLAINED else UNEXPLAINED)
        self.half_width = NAN
        if is_known:
            # A stall is a small part of an iteration, but of a short probe a large one.
            ratios = without_outliers([spell.mean.sampling for spell in both])
            # Noise may last longer than a spell. The window's interval takes that into account.
            window = SteadyWindow(_EVERY_SPELL)
            for spell, each in zip(both, ratios, strict=True):
                window.add(1.0, math.exp(spell.own / spell.iterations + each))
            of_mean = math.log1p(window.read().error / 100)
            # In the time of a baseline's iterations, the trial runs more of its own.
            sampling = self._sampling(own.mean)
            others = DEFAULT_RULE.max_iterations * max(1.0, sampling)
            of_other = student_t(max(1, len(self._costs) - 1)) * self._spread() / math.sqrt(others)
            self.half_width = math.hypot(of_mean, max(of_mean, of_other), math.log(sampling / self._sampling(0.0)))
        self.sampling = self._sampling(own.mean if both else 0.0)
        return self.agrees

    def _sampling(self, missed: float) -> float:
        """Return `sampling` if probes miss this part of an iteration: time that it needs at any scale."""
        probed = math.exp(-max(0.0, missed))
        return probed * math.exp(self.mean.sampling) + 1 - probed

    def _missing(self, differences: Sequence[float]) -> Estimate:
        """Return ln of the ratio of the iterations' cost to the probes' at the same scale, from its value in each spell."""
        found = trimmed_mean(differences)
        if len(differences) >= _FEWEST_SPELLS:
            return found
        # A spell is one moment of the machine, whose noise iterations show.
        n = max(FEWEST_TO_TELL, len(self._costs))
        half_width = student_t(n - 1) * self._spread() * math.sqrt(ratio(1, len(differences)) + ratio(1, len(self._costs)))
        return found._replace(half_width=half_width)

    def _spread(self) -> float:
        """Return the standard deviation of ln of the cost per env step of the trial's iterations; NaN if unknown."""
        return float(np.std(self._costs, ddof=1)) if len(self._costs) >= FEWEST_TO_TELL else self._spread_before


def _log(value: float) -> float:
    """Return ln of a number, or that of a picosecond if it is smaller."""
    return math.log(max(value, 1e-12)) if value == value else NAN
