"""A baseline from probes inside the trial, which is trusted only as far as probes reproduce the trial itself."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from rl_scaling_callback.baseline.source import NOT_COMPARABLE, BaselineSource, ReferenceFigures, Status
from rl_scaling_callback.baseline.spells import FEWEST_TO_TELL, UNEXPLAINED, Cost, Round, Spells
from rl_scaling_callback.core.attribution import TimeBreakdown
from rl_scaling_callback.core.estimates import as_percent, trimmed_mean
from rl_scaling_callback.core.formulas import NAN, ratio
from rl_scaling_callback.core.probing import Probe, ProbeError
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.text import Warn, percent

SHARE: Final = 0.01
"""Maximum share of the training time to spend on probes."""
FIRST_SHARE: Final = 0.1
"""The same in the first `FIRST_S` seconds: noise of a machine may last seconds, so that probes must be spread over time."""
FIRST_S: Final = 30.0

_ROUNDS_AT_ONCE: Final = 3
_LARGE_ERROR: Final = 50.0
"""Error [%] that a warning tells of."""


class ProbedBaseline(BaselineSource):
    """The baseline of one trial, from probes in the same process, with the same code.

    The time breakdown of an iteration at the reference scale follows from the trial's own breakdown and the ratios between the
    probes at the two scales (see `core.probing`). A baseline does not include evaluation.

    Each round of probes also measures the trial's own scale, which the trial's iterations measure too. If the two differ by more
    than their errors (see `Spells`), probes miss something of this trial, and the reference would be wrong by as much. New probes,
    with envs made anew, must then agree, or the baseline is unknown.

    Args:
        prober: measures scales inside the trial, with the methods of `rllib.prober.Prober`, which needs Ray.
        scale: scale of the trial.
        reference: scale of the reference.
        warn: logs a warning once.
        clock: returns monotonic seconds.

    Raises:
        ProbeError: a scale can't be probed.
    """

    def __init__(
        self,
        prober: Any,
        scale: Scale,
        reference: Scale,
        *,
        warn: Warn = lambda topic, text: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._prober = prober
        self._own = scale
        self._reference = reference
        self._scale_of_one = Scale(min(1, scale.num_env_runners), scale.num_envs_per_env_runner)
        steps = prober.env_steps_per_update(scale)
        self._updates = 1.0 if math.isinf(steps) else steps / prober.env_steps_per_update(reference)
        self._warn = warn
        self._clock = clock
        self._is_reference = scale == reference
        self._spells = Spells()
        self._are_new = True
        self._is_first = True
        self._is_second = False  # the next outlier would be the second in a row
        self._unreported_s = self._spent_since = self._seconds_a_round = 0.0
        self._probed_at = clock()
        if not self._is_reference and (found := len(self._measure(_ROUNDS_AT_ONCE))) < _ROUNDS_AT_ONCE:
            self._warn_of_error(f"max_probe_seconds allowed {found} of {_ROUNDS_AT_ONCE} rounds of probes: increase it. ")
        self._training_since = clock()
        self._spent_since = 0.0

    @property
    def status(self) -> Status:
        """What is known about the baseline now. A trial at the reference scale is its own reference."""
        if self._is_reference:
            return Status("probe", is_baseline=True, error=0.0, age=0.0)
        return Status("probe" if self._spells.agrees else "", error=self._error, age=self._clock() - self._probed_at)

    @property
    def _error(self) -> float:
        return as_percent(self._spells.half_width) if self._spells.agrees else NAN

    def take_seconds(self) -> float:
        """Return the seconds spent on probes since the last call."""
        taken, self._unreported_s = self._unreported_s, 0.0
        return taken

    def end(self) -> None:
        """Close the envs that were created for probes."""
        self._prober.close()

    def observe(self, env_steps: float, times: TimeBreakdown) -> bool:
        """Compare an iteration, in which all env runners delivered, with the probes; probe again if due or if the two disagree.

        Returns:
            Whether the cost of the trial's env steps has changed, and probes confirm it: earlier iterations were other work.
        """
        if self._is_reference or not env_steps > 0:
            return False
        spells = self._spells
        cost = Cost.of(env_steps, times, spells.mean)
        is_untimed = cost.own < spells.mean.own - UNEXPLAINED
        has_changed = False
        try:
            has_changed = self._check(cost, is_untimed)
        except ProbeError as error:
            kept = " The baseline of the last probe is kept; baseline/age shows how old it is." * spells.compare()
            self._warn("later probe", f"a later probe failed: {error}{kept}")
        if not spells.agrees and (spells.iterations >= FEWEST_TO_TELL or is_untimed):
            self._warn_of_disagreement(cost, is_untimed)
        # The first rounds are few, and further ones follow soon.
        if self._error > _LARGE_ERROR and self._clock() - self._training_since > FIRST_S:
            self._warn_of_error()
        return has_changed and spells.agrees

    def reference_for(self, env_steps: float, times: TimeBreakdown) -> ReferenceFigures:
        """Return the reference for equal work: the trial's own time, with the ratios between the probes at both scales."""
        n, mean = self._reference.parallelism, self._spells.mean
        if self._is_reference:
            reference = times._replace(evaluate=0.0).scaled(ratio(n, env_steps))
            return ReferenceFigures(ratio(1, reference.total), 1.0, reference)
        if not self._spells.agrees:
            return NOT_COMPARABLE
        in_steps = (times.sample - times.reset) * self._spells.sampling
        resets = times.all_resets / self._reference.samplers
        busy = in_steps * mean.busy + resets
        reference = TimeBreakdown(
            sample=in_steps + resets,
            learn=times.learn * self._updates,
            sync=times.sync * math.exp(mean.sync) * self._updates,
            evaluate=0.0,
            other=times.other * self._updates,
            busy=busy,
            longest=busy,
            reset=resets,
            all_resets=times.all_resets,
        ).scaled(ratio(n, env_steps))
        busy_in_steps = times.busy * self._own.samplers - times.all_resets
        one_runner = ratio(busy_in_steps * self._ratio_of_one + times.all_resets, env_steps)
        return ReferenceFigures(ratio(1, reference.total), 1.0, reference, one_runner)

    def _check(self, cost: Cost, is_untimed: bool) -> bool:
        """Return whether an iteration and probes show that the cost of env steps has changed."""
        spells, has_changed = self._spells, False
        if spells.is_outlier(cost):
            # A stall, unless the next one is as well.
            has_changed, self._is_second = self._is_second, True
            if not has_changed:
                return False
            spells.start_over()
        self._is_second = False
        if not self._is_first or is_untimed:  # the first one is slow
            spells.add_iteration(cost)
        self._is_first = False
        if has_changed or self._is_due():
            self._measure(_ROUNDS_AT_ONCE if has_changed else 1)
        if spells.compare():
            self._are_new = False
        elif not self._are_new:
            self._are_new = True
            self._prober.close()
            spells.start_over()
            spells.add_iteration(cost)
            self._measure(_ROUNDS_AT_ONCE)
            return spells.compare()
        return has_changed

    def _is_due(self) -> bool:
        trained_s = self._clock() - self._training_since
        allowed_s = FIRST_SHARE * min(trained_s, FIRST_S) + SHARE * max(0.0, trained_s - FIRST_S)
        return self._spent_since + self._seconds_a_round <= allowed_s

    def _measure(self, rounds: int = 1) -> list[Round]:
        # Once is enough for what splits losses further.
        further = {self._scale_of_one} if rounds > 1 else set()
        started = self._clock()
        try:
            probed = self._prober.measure(sorted({self._reference, self._own, *further}), rounds)
        finally:  # failed rounds count too
            self._seconds_a_round = self._clock() - started
            self._unreported_s += self._seconds_a_round
            self._spent_since += self._seconds_a_round
        self._probed_at = self._clock()
        # If a time limit ended them early, much of the time went into creating envs.
        self._seconds_a_round /= rounds
        if further:
            self._ratio_of_one = self._ratio_of_one_in(probed)
        found = [Round.of(by_scale[self._reference], by_scale[self._own]) for by_scale in probed]
        self._spells.add_rounds(found)
        return found

    def _ratio_of_one_in(self, rounds: Collection[Mapping[Scale, Probe]]) -> float:
        """Return the ratio of the busy time of one env runner with as many envs to that of the trial's typical one.

        Env runners don't speed each other up, so more than 1 beyond noise and a few percent of overhead is wrong: the cost of a
        step may depend on its place in the episode, and twins with other numbers of envs are elsewhere.
        """
        pairs = [(by_scale[self._scale_of_one], by_scale[self._own]) for by_scale in rounds]
        found = trimmed_mean([(one.busy_per_step * len(one.busy)) / (own.busy_per_step * len(own.busy)) for one, own in pairs])
        return NAN if found.mean - found.half_width > 1.05 else found.mean

    def _warn_of_error(self, cause: str = "") -> None:
        known = percent(self._error) if self._error > 0 else "their error is unknown"
        self._warn(
            "uncertain baseline",
            f"the probed baseline is uncertain, and so are speedups: {known} (see baseline/error). {cause}Keep other programs "
            "off the CPU cores, or measure the baseline with a reference trial.",
        )

    def _warn_of_disagreement(self, cost: Cost, is_untimed: bool) -> None:
        probed, trained = (f"{1000 * math.exp(each):.3g}" for each in (self._spells.mean.own, cost.own))
        reason = "Were the envs changed after they were made, or do env runners wait for what short probes don't meet?"
        if is_untimed:
            reason = (
                "Does a training_step of your own sample outside RLlib's timers? Put that into `with self.metrics.log_time(("
                "TIMERS, ENV_RUNNER_SAMPLING_TIMER))`."
            )
        self._warn(
            "disagree",
            f"probes at this trial's own scale, {self._own}, take {probed} ms per env step, but its iterations {trained}. A probed "
            f"baseline would be wrong by as much, so speedup and efficiency are NaN until they agree. {reason} Otherwise measure "
            "the baseline with a reference trial, or give it as a number.",
        )
