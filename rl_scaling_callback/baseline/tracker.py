"""Provides a trial's baseline: loaded from the store, measured by the reference trial itself, or given by the user."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from itertools import takewhile
from typing import Final

from rl_scaling_callback.baseline.model import Baseline, BaselineFileError
from rl_scaling_callback.baseline.source import BaselineSource, Warn
from rl_scaling_callback.baseline.store import BaselineStore
from rl_scaling_callback.core.attribution import TimeBreakdown
from rl_scaling_callback.core.comparison import Counterpart, disagree, same_steps
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import DEFAULT_RULE, Steady, SteadyRule
from rl_scaling_callback.core.trial import Trial
from rl_scaling_callback.storage import shown

_STORAGE_SHARE: Final = 0.02
"""Maximum share of the time to spend on accessing the store."""

_MAX_SEARCH_S: Final = 2.0
"""Time limit for comparing the workload with others: an iteration waits for it."""

_MAX_TOLD: Final = 6


def _check(here: Steady, baseline: Steady, scale: Scale, source: str, remedy: str, warn: Warn) -> None:
    """Warn if a trial at the reference scale disagrees with its baseline."""
    if here.settled and disagree(here, baseline):
        warn(
            "disagree",
            f"this {scale} trial reaches {here.sps:,.0f} steps/s; its baseline at this scale, {source}, has {baseline.sps:,.0f}: "
            "more than noise explains, and speedups of this workload are off by as much. Did the code or the machine change, or "
            f"did other programs run during one of them? {remedy}",
        )


class BaselineTracker(BaselineSource):
    """The baseline of one trial.

    A trial that is not the reference looks for a baseline until it finds one, and keeps it. The reference trial (the first
    of its workload at the reference scale) publishes its steady state once, when it is settled. Later trials at the reference
    scale are compared like any other. But a baseline that was disturbed by other trials or programs is replaced by the first
    later trial that was not.

    Args:
        store: where baselines are stored; None for no store.
        trial: the trial.
        reference: the scale of the reference.
        warn: logs a warning once.
        rule: when a trial counts as steady.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        store: BaselineStore | None,
        trial: Trial,
        reference: Scale,
        *,
        warn: Warn,
        rule: SteadyRule = DEFAULT_RULE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._trial = trial
        self._reference = reference
        self._warn = warn
        self._rule = rule
        self._clock = clock
        self._next_access = -float("inf")
        self._unwritten: Baseline | None = None
        self._baseline: Baseline | None = None
        self._published_at = NAN
        self._breakdown = TimeBreakdown.of_window({})
        self._has_reference_scale = store is not None and trial.scale == reference
        self._mismatch = False

    @property
    def is_baseline(self) -> float:
        """1.0 when this trial is the reference, else 0.0."""
        return float(self._is_reference)

    @property
    def _is_reference(self) -> bool:
        return self._has_reference_scale and (self._baseline is None or self._baseline.owner == self._trial.name)

    def update(self, steady: Steady) -> None:
        """Look for a baseline if there is none yet, or publish what this trial measured."""
        if self._store is None:
            return
        if self._baseline is None:
            self._find(self._store)
        if not steady.settled:
            return
        if not self._has_reference_scale:
            if self._baseline is None:
                self._say_what_is_missing("this trial is steady, but there is still no baseline")
            return
        replaces = self._baseline is not None and self._baseline.steady.disturbed > 0 and not steady.disturbed
        if self._baseline is None or (replaces and not self._is_reference):
            self._publish(self._store, self._measured(steady))
        elif self._unwritten is not None and self._clock() >= self._next_access:
            self._publish(self._store, self._unwritten)
        if not self._is_reference and self._baseline is not None:
            told = self._baseline.provenance
            source = f"of trial {told.get('trial', self._baseline.owner)!r}, {told.get('time', 'time unknown')}"
            remedy = f"If it is outdated, delete {self._store.path(self._trial.workload, self._reference)} and run again."
            _check(steady, self._baseline.steady, self._trial.scale, source, remedy, self._warn)

    def end(self) -> None:
        """Warn if the trial ends without a baseline."""
        if self._store is None or self._baseline is not None:
            return
        if self._is_reference:
            self._say_what_is_missing("this trial is the reference, but ended before it was steady: there is no baseline")
        else:
            self._say_what_is_missing("this trial ended without a baseline")

    def compare_with(self, steady: Steady, env_steps: float, breakdown: TimeBreakdown | None = None) -> Counterpart:
        """Return the baseline to compare an iteration or a window with.

        Args:
            steady: the trial's steady state so far.
            env_steps: env steps of the iteration or window.
            breakdown: its time breakdown; not used here.
        """
        baseline = self._baseline
        if baseline is None:
            return Counterpart(NAN, 0.0 if self._mismatch else NAN)
        if not (self._is_reference or self._trial.workload.is_named or self._trial.steps_vary):
            here = steady.env_steps / steady.iterations if steady.iterations else env_steps
            there = baseline.steady.env_steps / baseline.steady.iterations
            if not here > 0:
                return Counterpart(NAN, NAN)
            if not same_steps(here, there):
                self._warn(
                    "steps",
                    f"this trial collects {here:.0f} env steps per iteration, its baseline {there:.0f}. They are not comparable, "
                    "so speedup and efficiency stay NaN. Use the same batch size and batch mode for both.",
                )
                return Counterpart(NAN, 0.0)
        return Counterpart(baseline.unit_sps, 1.0, self._breakdown)

    @property
    def source(self) -> str:
        """`trial`; "" without a baseline."""
        return "" if self._baseline is None else "trial"

    @property
    def error(self) -> float:
        """Half-width of the 95 % interval of the baseline [%]; NaN if unknown."""
        return NAN if self._baseline is None else self._baseline.steady.error

    @property
    def age(self) -> float:
        """Seconds since the baseline was measured, by the clocks of both hosts; NaN if unknown."""
        return max(time.time() - self._published_at, 0.0)

    def _hold(self, baseline: Baseline) -> None:
        self._baseline = baseline
        self._published_at = baseline.published_at
        steady = baseline.steady
        # A larger reference is taken to scale perfectly: one processor would have taken N times as long.
        self._breakdown = TimeBreakdown.of_window(steady.parts, steady.env_steps).times(baseline.scale.parallelism)
        if steady.disturbed:
            self._warn(
                "disturbed",
                f"while trial {baseline.provenance.get('trial', baseline.owner)!r} measured the baseline, other trials or programs "
                f"used its machine {100 * steady.disturbed:.0f} % of the time. It may be too low, and speedups too high. Run a "
                f"{self._reference} trial alone, with max_concurrent_trials=1: its measurement replaces this one.",
            )

    def _find(self, store: BaselineStore) -> None:
        if self._clock() < self._next_access:
            return
        try:
            with self._at_a_small_share():
                found = self._load(store)
                if found is not None:
                    self._hold(found)
                else:
                    self._look_for_mismatch(store)
        except Exception as error:
            self._warn_of_storage("read baselines in", store, error, "Speedup stays NaN until they can be read.")

    def _load(self, store: BaselineStore) -> Baseline | None:
        try:
            return store.load(self._trial.workload, self._reference)
        except BaselineFileError as error:
            self._warn("file", f"unusable baseline file: {error}. Speedup stays NaN until a reference trial publishes a new one.")
            return None

    @contextmanager
    def _at_a_small_share(self) -> Iterator[None]:
        """Access slow storage less often, so that it takes only a small share of the time."""
        started = self._clock()
        try:
            yield
        finally:
            ended = self._clock()
            self._next_access = ended + (ended - started) / _STORAGE_SHARE

    def _look_for_mismatch(self, store: BaselineStore) -> None:
        if self._mismatch or self._is_reference:
            return
        until = self._clock() + _MAX_SEARCH_S
        in_time = takewhile(lambda _: self._clock() < until, store.others(self._trial.workload, self._reference))
        others = [(self._trial.workload.differences(other.workload), other) for other in in_time]
        if not others:
            return
        self._mismatch = True
        differences, nearest = min(others, key=lambda pair: len(pair[0]))
        further = f"; and {len(differences) - _MAX_TOLD} more" if len(differences) > _MAX_TOLD else ""
        self._warn(
            "mismatch",
            f"no baseline for this trial's workload. The closest ({nearest.provenance.get('trial', 'of unknown origin')!r}) is not "
            f"comparable: {'; '.join(differences[:_MAX_TOLD])}{further}. Speedup and efficiency stay NaN until a "
            f"{self._reference} trial of the same workload is steady. "
            "To treat different workloads as the same, pass workload='name'.",
        )

    def _say_what_is_missing(self, finding: str) -> None:
        if self._mismatch:
            return  # already warned
        rule = self._rule
        fewest = rule.warmup_iterations + rule.min_iterations
        self._warn(
            "missing",
            f"{finding}. Speedup and efficiency stay NaN until a {self._reference} trial of this workload has run for {fewest} to "
            f"{rule.warmup_iterations + rule.iteration_limit} iterations. Add one to the experiment as its first trial, or pass "
            "probe=True (no such trial needed), baseline_dir=… (with a baseline from an earlier experiment) or baseline_sps=…, "
            "for example with functools.partial.",
        )

    def _measured(self, steady: Steady) -> Baseline:
        time_now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        trial = self._trial
        return Baseline(steady, trial.scale, trial.workload, trial.name, {**trial.provenance, "time": time_now})

    def _publish(self, store: BaselineStore, measured: Baseline) -> None:
        steady = measured.steady
        if not steady.converged:
            error = "an unknown error" if math.isnan(steady.error) else f"an error of ±{steady.error:.1f} %"
            self._warn(
                "precision",
                f"the baseline is published with {error}, short of the requested precision: the machine is noisy, "
                "or the trial is not stable yet. All speedups share this error.",
            )
        self._unwritten = measured
        try:
            with self._at_a_small_share():
                found = self._load(store)
                # Another trial was first: a workload has one reference, and it is not this trial.
                if found is None or found.owner == measured.owner or (found.steady.disturbed and not steady.disturbed):
                    store.publish(measured)
                else:
                    measured = found
            self._unwritten = None
        except Exception as error:
            self._warn_of_storage("write the baseline to", store, error, "Other trials won't see it.")
        self._hold(measured)

    def _warn_of_storage(self, action: str, store: BaselineStore, error: Exception, consequence: str) -> None:
        self._warn("storage", f"can't {action} {shown(store.directory)} ({shown(str(error))}). {consequence}")


class GivenBaseline(BaselineSource):
    """A baseline given by the user as a number.

    Args:
        sps: SPS of the reference [steps/s].
        reference: the scale that it was measured at.
        scale: the trial's scale.
        warn: logs a warning once.
    """

    source: Final = "given"
    is_baseline: Final = 0.0
    error: Final = NAN
    age: Final = NAN

    def __init__(self, sps: float, reference: Scale, scale: Scale, warn: Warn) -> None:
        self._given = Steady(sps)
        self._counterpart = Counterpart(sps / reference.parallelism, 1.0)
        self._reference = reference
        self._scale = scale
        self._warn = warn

    def update(self, steady: Steady) -> None:
        """Check a trial at the reference scale against the number."""
        if self._scale == self._reference:
            remedy = "Measure it again and pass the new number."
            _check(steady, self._given, self._scale, "a given number", remedy, self._warn)

    def compare_with(self, steady: Steady, env_steps: float, breakdown: TimeBreakdown | None = None) -> Counterpart:
        """Return the given SPS; a number has no time breakdown."""
        return self._counterpart
