"""A baseline measured inside the trial, by probes at the reference scale."""

from __future__ import annotations

import math
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Final, Protocol

from rl_scaling_callback.baseline.tracker import BaselineTracker, Warn
from rl_scaling_callback.core.attribution import TimeBreakdown
from rl_scaling_callback.core.comparison import Counterpart
from rl_scaling_callback.core.estimates import trimmed_mean
from rl_scaling_callback.core.formulas import NAN, ratio
from rl_scaling_callback.core.probing import Probe, Ratios
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import Steady
from rl_scaling_callback.core.trial import Trial

SHARE: Final = 0.01
"""Maximum share of the training time to spend on probes, once training runs."""

_FIRST_ROUNDS: Final = 5
_MOST_ROUNDS: Final = 12
_LARGE_ERROR: Final = 50.0
"""Error [%] that a warning tells of."""


class Prober(Protocol):
    """Measures scales inside a running Algorithm (see `rllib.prober`)."""

    def steps_per_round(self, scale: Scale) -> float:
        """Return the env steps at `scale` per learner update; infinite if the number of updates depends on the env steps alone."""

    def measure(self, scales: Sequence[Scale], rounds: int = 1) -> list[Probe]:
        """Return the probes of `rounds` rounds, or of fewer if a time limit is reached; each measures every scale once."""


@dataclass(frozen=True, slots=True)
class _Round:
    """The figures from one round of probes.

    All but the first are ratios between probes that ran within a second or two, so the speed of the machine cancels.

    Attributes:
        seconds: ln of the reference's sampling time per env step [s].
        sampling: ln of the ratio of that time to the trial's.
        sync: ln of the ratio of the reference's time to send weights to the trial's.
        busy: busy share of the reference's typical env runner during sampling.
        alone: ratio of the busy time of one env runner with as many envs to that of the trial's typical env runner, for equal env
            steps.
    """

    seconds: float
    sampling: float
    sync: float
    busy: float
    alone: float


class ProbedBaseline:
    """The baseline of one trial, from probes in the same process, with the same code, at the same time.

    The time breakdown of an iteration at the reference scale follows from the trial's own breakdown and the ratios between the
    probes at the two scales (see `core.probing`). A baseline does not include evaluation.

    If sampling overlaps learning (IMPALA, APPO), env runners sample all the time. The reference's throughput is then that of its
    probes before training started, the only time when env runners are idle.

    Args:
        prober: measures scales inside the trial.
        trial: the trial. If its sampling overlaps learning, nothing is probed once training runs.
        reference: scale of the reference.
        share: maximum share of the time to spend on probes, once training runs.
        lasting: a baseline that outlives the experiment, to compare this one with; None for none.
        warn: logs a warning once.
        clock: returns monotonic seconds.

    Raises:
        ProbeError: a scale can't be probed.
    """

    source: Final = "probe"

    def __init__(
        self,
        prober: Prober,
        trial: Trial,
        reference: Scale,
        *,
        share: float = SHARE,
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
        self._share = share
        self._lasting = lasting
        self._warn = warn
        self._clock = clock
        self._is_reference = scale == reference
        self._one_runner = Scale(min(1, scale.num_env_runners), scale.num_envs_per_env_runner)
        self._rounds: deque[_Round] = deque(maxlen=_MOST_ROUNDS)
        self._unreported_s = 0.0
        # A fixed number: stopping once the interval is narrow would bias it.
        self._measure(_FIRST_ROUNDS)
        if trial.overlaps and scale != reference:
            warn(
                "overlap",
                f"the probed baseline is the throughput of {reference} while nothing is learned. Speedups are too low by "
                "as much as learning slows down sampling there. A reference trial's baseline includes that.",
            )
        self._training_since = clock()
        self._spent_since = 0.0

    @property
    def is_baseline(self) -> float:
        """1.0 if the trial runs at the reference scale or, if there is a lasting baseline, publishes it; else 0.0."""
        return float(self._is_reference) if self._lasting is None else self._lasting.is_baseline

    @property
    def error(self) -> float:
        """Half-width [%] of the 95 % interval of the reference's sampling throughput.

        It does not include the prediction error from probes to whole iterations.
        """
        if self._is_reference:  # the trial is its own reference
            return 0.0
        half_width = self._estimates["seconds" if self._overlaps else "sampling"].half_width
        return 100 * math.expm1(half_width) if half_width < 20 else NAN

    @property
    def age(self) -> float:
        """Seconds since the last probe."""
        return self._clock() - self._probed_at

    def refresh(self) -> None:
        """Run another round of probes if the time budget for probing allows it.

        Raises:
            ProbeError: a scale can't be probed any more; earlier rounds are kept.
        """
        if self._overlaps:
            return
        if self._spent_since + self._seconds_a_round <= self._share * (self._clock() - self._training_since):
            before = self._unreported_s
            try:
                self._measure()
            finally:  # failed rounds count too
                self._spent_since += self._unreported_s - before

    def take_seconds(self) -> float:
        """Return the seconds spent on probes since the last call."""
        taken, self._unreported_s = self._unreported_s, 0.0
        return taken

    def update(self, steady: Steady) -> None:
        """Look for the lasting baseline, or publish it; warn once if its speed differs from the probes'."""
        if self._lasting is None:
            return
        self._lasting.update(steady)
        if not steady.settled or not self._lasting.source:
            return
        here = self.compare_with(steady, steady.env_steps, TimeBreakdown.of_window(steady.parts)).unit_sps
        there = self._lasting.compare_with(steady, steady.env_steps).unit_sps
        errors = (error for error in (self.error, self._lasting.error) if error >= 0)
        if abs(math.log(here / there)) > math.hypot(*(math.log1p(error / 100) for error in errors)):
            self._warn(
                "lasting",
                f"the lasting baseline is {there:,.0f} steps/s, but probes in this trial say {here:,.0f} ± {self.error:.1f} %. "
                "Speedups are relative to the probes. Has the env changed, or is the machine slower or busier than before?",
            )

    def end(self) -> None:
        """Do nothing: a probed baseline is never missing."""

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
        if self._overlaps:
            reference = TimeBreakdown(n * math.exp(self._mean("seconds")), 0.0, 0.0, 0.0, 0.0)
        else:
            reference = self._ratios.apply(breakdown).times(ratio(n, env_steps))
        busy = reference.sample * self._mean("busy")
        alone = ratio(breakdown.busy * max(1, self._own.num_env_runners), env_steps) * self._alone
        return Counterpart(ratio(1, reference.total), 1.0, reference._replace(busy=busy, longest=busy), alone)

    def _mean(self, figure: str) -> float:
        return self._estimates[figure].mean

    def _measure(self, rounds: int = 1) -> None:
        started = self._clock()
        try:
            probes = self._prober.measure(sorted({self._reference, self._own, self._one_runner}), rounds)
        finally:
            self._seconds_a_round = self._clock() - started
            self._unreported_s += self._seconds_a_round
        self._probed_at = self._clock()
        by_round: dict[int, dict[Scale, Probe]] = defaultdict(dict)
        for probe in probes:
            by_round[probe.round][probe.scale] = probe
        # If a time limit ended them early, much of the time went into creating envs.
        self._seconds_a_round /= rounds
        for by_scale in by_round.values():
            reference, own, alone = (by_scale[scale] for scale in (self._reference, self._own, self._one_runner))
            ratios = Ratios.of(reference, own, self._updates)
            self._rounds.append(
                _Round(
                    seconds=math.log(reference.seconds_per_step),
                    sampling=math.log(ratios.sample),
                    sync=math.log(ratios.sync),
                    busy=reference.busy_per_step / reference.seconds_per_step,
                    alone=(alone.busy_per_step * len(alone.busy)) / (own.busy_per_step * len(own.busy)),
                )
            )
        # Computed here, because every iteration reads them.
        names = [field.name for field in fields(_Round)]
        self._estimates = {name: trimmed_mean([getattr(each, name) for each in self._rounds]) for name in names}
        self._ratios = Ratios(math.exp(self._mean("sampling")), self._updates, math.exp(self._mean("sync")))
        # Busy time of one env runner alone / that of a typical one of the trial. It can't be more than 1 beyond noise and a few
        # percent of overhead, because env runners don't speed each other up. Probes can get it wrong if the cost of a step depends
        # on its place in the episode: twins with other numbers of envs are elsewhere in it.
        found = self._estimates["alone"]
        self._alone = NAN if found.mean - found.half_width > 1.05 else found.mean
        if not self.error <= _LARGE_ERROR:
            known = f"±{self.error:.0f} %" if self.error > 0 else "their error is unknown"
            cut = (
                f"The limit max_probe_seconds allowed {len(self._rounds)} of {_FIRST_ROUNDS} rounds of probes: increase it. "
                if len(self._rounds) < _FIRST_ROUNDS
                else ""
            )
            self._warn(
                "error",
                f"the probed baseline is uncertain, and so are speedups: {known} (see baseline/error). {cut}Keep other programs "
                "off the CPU cores, or measure the baseline with a reference trial.",
            )
