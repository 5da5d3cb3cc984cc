"""A baseline from probes inside the trial, which is trusted only as far as probes reproduce the trial itself."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from statistics import fmean
from typing import Final, NamedTuple, Protocol

from rl_scaling_callback.baseline.source import BaselineSource, Warn
from rl_scaling_callback.baseline.tracker import BaselineTracker
from rl_scaling_callback.core.attribution import TimeBreakdown
from rl_scaling_callback.core.comparison import Counterpart
from rl_scaling_callback.core.estimates import Estimate, student_t, trimmed_mean, without_outliers
from rl_scaling_callback.core.formulas import NAN, ratio
from rl_scaling_callback.core.probing import DISAGREE, Probe, ProbeError, Ratios
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import DEFAULT_RULE, Steady, SteadyRule, SteadyWindow
from rl_scaling_callback.core.trial import Trial

SHARE: Final = 0.01
"""Maximum share of the training time to spend on probes."""
FIRST_SHARE: Final = 0.1
"""The same in the first `FIRST_S` seconds: noise of a machine may last seconds, so that probes must be spread over time."""
FIRST_S: Final = 30.0

_ROUNDS_AT_ONCE: Final = 3
_FEWEST_TO_TELL: Final = 3
"""Iterations from which on their spread is known."""
_FEWEST_SPELLS: Final = 3
"""Spells from which on their own spread tells the error."""
_EVERY_SPELL: Final = SteadyRule(warmup_iterations=0)
_MAX_SPELLS: Final = 12
_MAX_ITERATIONS: Final = 64
_LARGE_ERROR: Final = 50.0
"""Error [%] that a warning tells of."""
_TOLERANCE: Final = math.log(1.1)
"""The speed of a shared machine varies by as much within a minute."""
_UNEXPLAINED: Final = math.log(10.0)
"""A difference that no noise explains, when noise is unknown."""
_CAUTION: Final = 2.0
"""How many 95 % half-widths a difference must exceed, because it is tested in every iteration."""


class Prober(Protocol):
    """Measures scales inside a running Algorithm (see `rllib.prober`)."""

    def steps_per_round(self, scale: Scale) -> float:
        """Return the env steps at `scale` per learner update; infinite if the number of updates depends on the env steps alone."""

    def measure(self, scales: Sequence[Scale], rounds: int = 1) -> list[dict[Scale, Probe]]:
        """Return the probes of each of `rounds` rounds, or of fewer if a time limit is reached; each measures every scale once."""

    def close(self) -> None:
        """Close all envs created for probes; later probes create new ones."""


@dataclass(frozen=True, slots=True)
class _Round:
    """The figures from one round of probes, all without env resets.

    Ratios are between probes that ran within a second or two, so the speed of the machine cancels.

    Attributes:
        seconds: ln of the reference's sampling time per env step [s].
        sampling: ln of the ratio of that time to the trial's.
        sync: ln of the ratio of the reference's time to send weights to the trial's.
        busy: busy share of the reference's typical env runner during sampling.
        own: ln of the sampling time per env step at the trial's own scale [s].
        own_longest: ln of the busy time of the slowest env runner there, per env step of all env runners [s].
    """

    seconds: float
    sampling: float
    sync: float
    busy: float
    own: float
    own_longest: float


class _Cost(NamedTuple):
    """The figures `own` and `own_longest`, measured by an iteration of the trial; NaN if unknown."""

    own: float
    own_longest: float

    @classmethod
    def of(cls, env_steps: float, spent: TimeBreakdown) -> _Cost:
        return cls(_log((spent.sample - spent.reset) / env_steps), _log((spent.longest - spent.reset) / env_steps))


@dataclass(slots=True)
class _Spell:
    """Rounds of probes that followed each other without an iteration in between, and the iterations until the next ones.

    Attributes:
        rounds: its rounds.
        iterations: number of its iterations.
        costs: Σ of their costs.
    """

    rounds: list[_Round] = field(default_factory=list)
    iterations: int = 0
    costs: _Cost = field(default_factory=lambda: _Cost(0.0, 0.0))

    def add(self, cost: _Cost) -> None:
        self.iterations += 1
        self.costs = _Cost(*[total + each for total, each in zip(self.costs, cost, strict=True)])

    def probed(self, figure: str) -> float:
        """Return the mean of a figure over its rounds."""
        return fmean([getattr(each, figure) for each in self.rounds])

    def trained(self, figure: str) -> float:
        """Return the mean of a figure over its iterations."""
        return float(getattr(self.costs, figure)) / self.iterations


class ProbedBaseline(BaselineSource):
    """The baseline of one trial, from probes in the same process, with the same code.

    The time breakdown of an iteration at the reference scale follows from the trial's own breakdown and the ratios between the
    probes at the two scales (see `core.probing`). A baseline does not include evaluation.

    Each round of probes also measures the trial's own scale, which the trial's iterations measure too. If the two differ by more
    than their errors, probes miss something of this trial, and the reference would be wrong by as much. New probes, with envs made
    anew, must then agree, or the baseline is unknown. A smaller difference is taken for time that an iteration spends on sampling
    at any scale and that short probes don't meet, such as for requests, caches, and results on the way.

    The machine may be slower or faster for seconds, so rounds that follow each other closely agree better than they should. Rounds
    without an iteration in between count as one spell, and errors are computed from spells, as from batch means.

    If sampling overlaps learning (IMPALA, APPO), env runners sample all the time. The reference's throughput is then that of its
    probes before training started, the only time when env runners are idle, and can't be checked.

    Args:
        prober: measures scales inside the trial.
        trial: the trial. If its sampling overlaps learning, nothing is probed once training runs.
        reference: scale of the reference.
        lasting: a baseline that outlives the experiment, to compare this one with; None for none.
        warn: logs a warning once.
        clock: returns monotonic seconds.

    Raises:
        ProbeError: a scale can't be probed.
    """

    def __init__(
        self,
        prober: Prober,
        trial: Trial,
        reference: Scale,
        *,
        lasting: BaselineTracker | None = None,
        warn: Warn = lambda topic, text: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._prober = prober
        self._own = scale = trial.scale
        self._reference = reference
        steps = prober.steps_per_round(scale)
        self._updates = 1.0 if math.isinf(steps) else steps / prober.steps_per_round(reference)
        self._overlaps = trial.overlaps
        self._lasting = lasting
        self._warn = warn
        self._clock = clock
        self._is_reference = scale == reference
        self._one_runner = Scale(min(1, scale.num_env_runners), scale.num_envs_per_env_runner)
        self._spells: deque[_Spell] = deque(maxlen=_MAX_SPELLS)
        self._costs: deque[_Cost] = deque(maxlen=_MAX_ITERATIONS)
        self._spread_before = self._half_width = NAN
        self._missing = 0.0
        self._is_trusted = True
        self._are_new = True
        self._is_first = True
        self._is_second = False  # the next outlier would be the second in a row
        self._spell_is_over = True
        self._unreported_s = self._spent_since = 0.0
        self._probed_at = self._training_since = clock()
        self._seconds_a_round = 0.0
        if not self._is_reference:
            self._measure(_ROUNDS_AT_ONCE)
            if len(self._spells[0].rounds) < _ROUNDS_AT_ONCE or (self._overlaps and not self.error <= _LARGE_ERROR):
                self._warn_of_error()
        if trial.overlaps and not self._is_reference:
            warn(
                "overlap",
                f"the probed baseline is the throughput of {reference} while nothing is learned. Speedups are too low by "
                "as much as learning slows down sampling there. A reference trial's baseline includes that.",
            )
        self._training_since = clock()
        self._spent_since = 0.0

    @property
    def source(self) -> str:
        """`probe`; "" while probes don't reproduce the trial."""
        return "probe" if self._is_trusted else ""

    @property
    def is_baseline(self) -> float:
        """1.0 if the trial runs at the reference scale or, if there is a lasting baseline, publishes it; else 0.0."""
        return float(self._is_reference) if self._lasting is None else self._lasting.is_baseline

    @property
    def error(self) -> float:
        """Half-width [%] of the 95 % interval of the reference's throughput in a trial of its own; NaN if unknown.

        Each spell of probes, with the iterations that follow it, gives one estimate of ln of the reference's sampling time per env
        step: that of the iterations, plus ln of the ratio between the probes at both scales. Added in quadrature to the half-width
        of their mean are that of the other trial, which meets the machine's noise at another time, and what it would make if probes
        missed as much in proportion at the reference as at the trial's own scale. The other trial's is taken to be the same, but
        at least that of this trial's iterations in the time of the few that a baseline is measured in. It is computed after each
        round, from the third spell on.
        """
        if self._is_reference:  # the trial is its own reference
            return 0.0
        half_width = self._estimates["seconds"].half_width if self._overlaps else self._half_width
        return 100 * math.expm1(half_width) if self._is_trusted and half_width < 20 else NAN

    @property
    def age(self) -> float:
        """Seconds since the last probe; 0 if the trial is its own reference."""
        return 0.0 if self._is_reference else self._clock() - self._probed_at

    @property
    def follows_drift(self) -> bool:
        """Whether probes reproduce what the trial's iterations cost now."""
        return self._is_reference or (self._is_trusted and not self._overlaps)

    def take_seconds(self) -> float:
        """Return the seconds spent on probes since the last call."""
        taken, self._unreported_s = self._unreported_s, 0.0
        return taken

    def observe(self, env_steps: float, spent: TimeBreakdown) -> bool:
        """Compare an iteration of the trial with the probes, and probe again if a probe is due or the two disagree.

        Args:
            env_steps: env steps of the iteration, in which all env runners delivered.
            spent: its time breakdown.

        Returns:
            Whether the cost of the trial's env steps has changed, and probes confirm it: earlier iterations were other work.
        """
        if self._is_reference or self._overlaps or not env_steps > 0:
            return False
        self._spell_is_over = True
        # Sampling that RLlib's timers don't see takes no time, or next to none.
        least = self._mean("own") - 2 * _UNEXPLAINED
        cost = _Cost(*[max(figure, least) for figure in _Cost.of(env_steps, spent)])
        is_untimed = cost.own < self._mean("own") - _UNEXPLAINED
        has_changed = False
        try:
            if self._is_outlier(cost):
                # A stall, unless the next one is as well. If iterations are long, a probe tells at once.
                is_second, self._is_second = self._is_second, True
                has_changed = is_second or (2 * self._seconds_a_round < spent.total and self._probes_have_changed())
                if not has_changed:
                    return False
                self._start_over()
            self._is_second = False
            if not self._is_first or is_untimed:  # the first one is slow
                self._add(cost)
            self._is_first = False
            if has_changed or self._is_due():
                self._measure(_ROUNDS_AT_ONCE if has_changed else 1)
            # Not in each iteration, as it takes as long as all else.
            elif self._is_trusted and abs(cost.own - self._mean("own")) < _TOLERANCE:
                return False
            if self._agrees():
                self._are_new = False
            elif not self._are_new:
                self._are_new = True
                self._prober.close()
                self._start_over()
                self._add(cost)
                self._measure(_ROUNDS_AT_ONCE)
                has_changed = self._agrees()
        except ProbeError as error:
            kept = " The baseline of the last probe is kept; baseline/age shows how old it is." * self._agrees()
            self._warn("probe", f"a later probe failed: {error}{kept}")
        if not self._is_trusted and (len(self._costs) >= _FEWEST_TO_TELL or is_untimed):
            self._warn_of_disagreement(cost, is_untimed)
        return has_changed and self._is_trusted

    def update(self, steady: Steady) -> None:
        """Look for the lasting baseline, or publish it; warn once if its speed differs from the probes'."""
        if not self._overlaps and self.error > _LARGE_ERROR:
            self._warn_of_error()
        if self._lasting is None:
            return
        self._lasting.update(steady)
        if not steady.settled or not self._lasting.source:
            return
        here = self.compare_with(steady, steady.env_steps, TimeBreakdown.of_window(steady.parts)).unit_sps
        there = self._lasting.compare_with(steady, steady.env_steps).unit_sps
        errors = (error for error in (self.error, self._lasting.error) if error >= 0)
        if abs(_log(here / there)) > math.hypot(*(math.log1p(error / 100) for error in errors)):
            self._warn(
                "lasting",
                f"the lasting baseline is {there:,.0f} steps/s, but probes in this trial say {here:,.0f} ± {self.error:.1f} %. "
                "Speedups are relative to the probes. Has the env changed, or is the machine slower or busier than before?",
            )

    def end(self) -> None:
        """Close the envs that were created for probes."""
        self._prober.close()

    def compare_with(self, steady: Steady, env_steps: float, breakdown: TimeBreakdown) -> Counterpart:
        """Return the reference for equal work.

        Args:
            steady: the trial's steady state so far; not used here.
            env_steps: env steps of an iteration or a window.
            breakdown: its time breakdown.
        """
        n = self._reference.parallelism
        if self._is_reference:
            reference = breakdown._replace(evaluate=0.0).times(ratio(n, env_steps))
            return Counterpart(ratio(1, reference.total), 1.0, reference)
        if not self._is_trusted:
            return Counterpart(NAN, 0.0)
        if self._overlaps:
            reference = TimeBreakdown(n * math.exp(self._mean("seconds")), 0.0, 0.0, 0.0, 0.0)
        else:
            runners = max(1, self._reference.num_env_runners)
            ratios = Ratios(self._sampling(self._missing), self._updates, math.exp(self._mean("sync")))
            reference = ratios.apply(breakdown, runners).times(ratio(n, env_steps))
        busy = (reference.sample - reference.reset) * self._mean("busy") + reference.reset
        in_steps = breakdown.busy * max(1, self._own.num_env_runners) - breakdown.all_resets
        alone = ratio(in_steps * self._alone + breakdown.all_resets, env_steps)
        return Counterpart(ratio(1, reference.total), 1.0, reference._replace(busy=busy, longest=busy), alone)

    def _is_due(self) -> bool:
        trained_s = self._clock() - self._training_since
        allowed_s = FIRST_SHARE * min(trained_s, FIRST_S) + SHARE * max(0.0, trained_s - FIRST_S)
        return self._spent_since + self._seconds_a_round <= allowed_s

    def _add(self, cost: _Cost) -> None:
        self._costs.append(cost)
        if not self._spells:
            self._spells.append(_Spell())
        self._spells[-1].add(cost)

    def _start_over(self) -> None:
        """Forget the probes and iterations so far, but not how much iterations vary."""
        self._spread_before = self._spread()
        self._costs.clear()
        self._spells.clear()

    def _probes_have_changed(self) -> bool:
        """Probe once more, and return whether the cost at the trial's own scale is another one than before."""
        before = self._mean("own")
        self._measure()
        return abs(self._spells[-1].probed("own") - before) > math.log(DISAGREE)

    def _is_outlier(self, cost: _Cost) -> bool:
        """Return whether an iteration costs more or less than those before it by more than noise explains."""
        n = len(self._costs)
        if n < _FEWEST_TO_TELL:
            return False
        limit = math.log(DISAGREE) + _CAUTION * student_t(n - 1) * self._spread() * math.sqrt(1 + 1 / n)
        return abs(cost.own - sum(before.own for before in self._costs) / n) > min(limit, _UNEXPLAINED)

    def _agrees(self) -> bool:
        """Find out and return whether probes at the trial's own scale differ from its iterations by no more than their errors."""
        both = [spell for spell in self._spells if spell.rounds and spell.iterations]
        tolerance = _TOLERANCE if len(both) >= _FEWEST_SPELLS else math.log(DISAGREE)
        missed = {figure: self._missed(figure, both) for figure in _Cost._fields}
        limits = {figure: tolerance + _CAUTION * each.half_width for figure, each in missed.items()}
        self._is_trusted = any(spell.rounds for spell in self._spells) and not any(
            abs(missed[figure].mean) > (min(limit, _UNEXPLAINED) if limit == limit else _UNEXPLAINED)
            for figure, limit in limits.items()
        )
        self._half_width = NAN
        if len(both) >= _FEWEST_SPELLS:
            # A stall is a small part of an iteration, but of a short probe a large one.
            ratios = without_outliers([spell.probed("sampling") for spell in both])
            # Noise may last longer than a spell. The window's interval takes that into account.
            window = SteadyWindow(_EVERY_SPELL)
            for spell, each in zip(both, ratios, strict=True):
                window.add(1.0, math.exp(spell.trained("own") + each))
            of_mean = math.log1p(window.read().error / 100)
            # In the time of a baseline's iterations, the trial runs more of its own.
            others = DEFAULT_RULE.iteration_limit * max(1.0, self._sampling(missed["own"].mean))
            of_other = student_t(max(1, len(self._costs) - 1)) * self._spread() / math.sqrt(others)
            other = max(of_mean, of_other)
            self._half_width = math.hypot(of_mean, other, math.log(self._sampling(missed["own"].mean) / self._sampling(0.0)))
        self._missing = missed["own"].mean if both else 0.0
        return self._is_trusted

    def _sampling(self, missed: float) -> float:
        """Return the ratio of the reference's sampling time to that of the trial's iterations, of which probes miss a part."""
        probed = math.exp(-max(0.0, missed))
        return probed * math.exp(self._mean("sampling")) + 1 - probed

    def _missed(self, figure: str, spells: Sequence[_Spell]) -> Estimate:
        """Return ln of the ratio of the iterations' cost to the probes' at the same scale."""
        found = trimmed_mean([spell.trained(figure) - spell.probed(figure) for spell in spells])
        if len(spells) >= _FEWEST_SPELLS:
            return found
        # A spell is one moment of the machine, whose noise iterations show.
        n = max(_FEWEST_TO_TELL, len(self._costs))
        half_width = student_t(n - 1) * self._spread() * math.sqrt(ratio(1, len(spells)) + ratio(1, len(self._costs)))
        return found._replace(half_width=half_width)

    def _spread(self) -> float:
        """Return the standard deviation of ln of the cost per env step of the trial's iterations; NaN if unknown."""
        n = len(self._costs)
        if n < _FEWEST_TO_TELL:
            return self._spread_before
        costs = [cost.own for cost in self._costs]
        mean = sum(costs) / n
        return math.sqrt(sum([(cost - mean) ** 2 for cost in costs]) / (n - 1))

    def _mean(self, figure: str) -> float:
        return self._estimates[figure].mean

    def _measure(self, rounds: int = 1) -> None:
        # Once is enough for what splits losses further.
        alone = {self._one_runner} if rounds > 1 else set()
        started = self._clock()
        try:
            probed = self._prober.measure(sorted({self._reference, self._own, *alone}), rounds)
        finally:  # failed rounds count too
            self._seconds_a_round = self._clock() - started
            self._unreported_s += self._seconds_a_round
            self._spent_since += self._seconds_a_round
        self._probed_at = self._clock()
        # If a time limit ended them early, much of the time went into creating envs.
        self._seconds_a_round /= rounds
        if not self._spells or (self._spell_is_over and self._spells[-1].rounds):
            self._spells.append(_Spell())
        self._spell_is_over = False
        self._spells[-1].rounds.extend(self._round_of(by_scale) for by_scale in probed)
        # Computed here, because every iteration reads them.
        self._estimates = {field.name: self._estimate(field.name) for field in fields(_Round)}
        if alone:
            self._alone = self._alone_in(probed)

    def _round_of(self, by_scale: Mapping[Scale, Probe]) -> _Round:
        reference, own = by_scale[self._reference], by_scale[self._own]
        ratios = Ratios.of(reference, own, self._updates)
        return _Round(
            seconds=math.log(reference.seconds_per_step),
            sampling=math.log(ratios.sample),
            sync=math.log(ratios.sync),
            busy=reference.busy_per_step / reference.seconds_per_step,
            own=math.log(own.seconds_per_step),
            own_longest=_log(own.longest_per_step),
        )

    def _alone_in(self, rounds: Iterable[Mapping[Scale, Probe]]) -> float:
        """Return the ratio of the busy time of one env runner with as many envs to that of the trial's typical one.

        It can't be more than 1 beyond noise and a few percent of overhead, because env runners don't speed each other up. Probes
        can get it wrong if the cost of a step depends on its place in the episode: twins with other numbers of envs are elsewhere.
        """
        pairs = [(by_scale[self._one_runner], by_scale[self._own]) for by_scale in rounds]
        found = trimmed_mean([(one.busy_per_step * len(one.busy)) / (own.busy_per_step * len(own.busy)) for one, own in pairs])
        return NAN if found.mean - found.half_width > 1.05 else found.mean

    def _estimate(self, figure: str) -> Estimate:
        """Return the trimmed mean over spells of a figure; over rounds if there are fewer than three spells."""
        probed = [spell for spell in self._spells if spell.rounds]
        if len(probed) >= _FEWEST_SPELLS:
            return trimmed_mean([spell.probed(figure) for spell in probed])
        return trimmed_mean([getattr(each, figure) for spell in probed for each in spell.rounds])

    def _warn_of_error(self) -> None:
        known = f"±{self.error:.0f} %" if self.error > 0 else "their error is unknown"
        rounds = sum(len(spell.rounds) for spell in self._spells)
        cut = (
            f"The limit max_probe_seconds allowed {rounds} of {_ROUNDS_AT_ONCE} rounds of probes: increase it. "
            if rounds < _ROUNDS_AT_ONCE
            else ""
        )
        self._warn(
            "error",
            f"the probed baseline is uncertain, and so are speedups: {known} (see baseline/error). {cut}Keep other programs "
            "off the CPU cores, or measure the baseline with a reference trial.",
        )

    def _warn_of_disagreement(self, cost: _Cost, is_untimed: bool) -> None:
        reason = (
            "Does a training_step of your own sample outside RLlib's timers? Put that into `with self.metrics.log_time((TIMERS, "
            "ENV_RUNNER_SAMPLING_TIMER))`"
            if is_untimed
            else "Were the envs changed after they were made, or do env runners wait for what short probes don't meet? Measure the "
            "baseline with a reference trial"
        )
        self._warn(
            "disagree",
            f"probes at this trial's own scale, {self._own}, take {1000 * math.exp(self._mean('own')):.3g} ms per env step, but "
            f"its iterations {1000 * math.exp(cost.own):.3g}. A probed baseline would be wrong by as much, so speedup and "
            f"efficiency are NaN until they agree. {reason}, or give it as a number.",
        )


def _log(value: float) -> float:
    """Return ln of a number, or that of a picosecond if it is smaller."""
    return math.log(max(value, 1e-12)) if value == value else NAN
