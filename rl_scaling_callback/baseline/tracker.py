"""A trial's baseline in the store: found there, or measured by this trial and published."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Final

from rl_scaling_callback.baseline.source import NOT_COMPARABLE, BaselineSource, ReferenceFigures, Status
from rl_scaling_callback.baseline.store import Baseline, BaselineFileError, BaselineStore
from rl_scaling_callback.core.attribution import TimeBreakdown
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import Steady
from rl_scaling_callback.core.text import Warn
from rl_scaling_callback.core.trial import Trial
from rl_scaling_callback.storage import shown

_STORAGE_SHARE: Final = 0.02
"""Maximum share of the time to spend on accessing the store."""

_RUNS_DIFFER_BY: Final = 1.25
"""Ratio that 95 % of pairs of runs of one configuration stayed below on a shared machine; a quarter differed by more than 13 %."""

_MAX_TOLD: Final = 6


class BaselineTracker(BaselineSource):
    """The baseline of one trial.

    A trial that is not the reference looks for a baseline until it finds one, and keeps it. The reference trial (the first
    of its workload at the reference scale) publishes its steady state once, when it is settled. Later trials at the reference
    scale are compared like any other. But a baseline that was disturbed by other trials or programs is replaced by the first
    later trial that was not.

    Args:
        store: where baselines are stored.
        trial: the trial.
        reference: the scale of the reference.
        warn: logs a warning once.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        store: BaselineStore,
        trial: Trial,
        reference: Scale,
        *,
        warn: Warn,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._trial = trial
        self._reference = reference
        self._warn = warn
        self._clock = clock
        self._next_access = -float("inf")
        self._baseline: Baseline | None = None
        self._is_written = True
        self._has_reference_scale = trial.scale == reference

    @property
    def status(self) -> Status:
        """What is known about the baseline now; its age by the clocks of both hosts."""
        found, is_reference = self._baseline, self._is_reference
        if found is None:
            return Status(is_baseline=is_reference)
        # Iterations of fixed duration vary, and the name of a workload is the user's word that trials are comparable.
        may_vary = is_reference or self._trial.workload.is_named or self._trial.steps_vary
        steps = NAN if may_vary else found.steady.env_steps / found.steady.iterations
        return Status("trial", is_reference, found.steady.error, max(time.time() - found.published_at, 0.0), steps)

    @property
    def _is_reference(self) -> bool:
        return self._has_reference_scale and (self._baseline is None or self._baseline.owner == self._trial.name)

    def update(self, steady: Steady) -> None:
        """Look for a baseline if there is none yet, or publish what this trial measured."""
        if self._baseline is None and self._clock() >= self._next_access:
            self._look()
        if not steady.settled:
            return
        found = self._baseline
        if not self._has_reference_scale:
            if found is None:
                self._say_what_is_missing()
        elif found is None or (found.steady.disturbed and not steady.disturbed and not self._is_reference):
            time_now = datetime.now(timezone.utc).isoformat(timespec="seconds")
            trial = self._trial
            self._publish(Baseline(steady, trial.scale, trial.workload, trial.name, {**trial.provenance, "time": time_now}))
        elif not self._is_written and self._clock() >= self._next_access:
            self._publish(found)
        elif not self._is_reference and max(steady.sps, found.steady.sps) > _RUNS_DIFFER_BY * min(steady.sps, found.steady.sps):
            self._warn(
                "disagree",
                f"this {self._reference} trial reaches {steady.sps:,.0f} steps/s; its baseline, of trial {found.trial!r}, has "
                f"{found.steady.sps:,.0f}. Runs of one configuration seldom differ that much, and speedups may be off by as much. "
                "Did the code or the machine change, or did other programs run during one of them? If it is outdated, delete "
                f"{self._store.path(self._trial.workload, self._reference)} and run again.",
            )

    def end(self) -> None:
        """Warn if the trial is without a baseline when it ends."""
        if self._baseline is None:
            self._say_what_is_missing()

    def _say_what_is_missing(self) -> None:
        if self._has_reference_scale:
            settled = "its baseline was settled, after 7 to 10 iterations by default"
            self._warn("missing", f"this {self._reference} trial, the reference, ended before {settled}: run it for longer")
        elif self._figures is not NOT_COMPARABLE:  # else already warned
            self._warn(
                "missing",
                f"this trial has no baseline. Speedup and efficiency stay NaN until a {self._reference} trial of this workload is "
                "steady, after 7 to 10 iterations by default. Add one to the experiment as its first trial, or pass probe=True (no "
                "such trial needed), baseline_dir=… (with a baseline from an earlier experiment) or baseline_sps=…, for example "
                "with functools.partial.",
            )

    def _look(self) -> None:
        with self._access("read baselines in", "Speedup stays NaN until they can be read."):
            found = self._load()
            if found is not None:
                self._hold(found)
            elif not self._has_reference_scale and self._figures is not NOT_COMPARABLE:
                self._explain_mismatch()

    def _publish(self, measured: Baseline) -> None:
        self._is_written = False
        with self._access("write the baseline to", "Other trials won't see it."):
            found = self._load()
            # Another trial was first: a workload has one reference, and it is not this trial.
            if found is None or found.owner == measured.owner or (found.steady.disturbed and not measured.steady.disturbed):
                self._store.publish(measured)
            else:
                measured = found
            self._is_written = True
        self._hold(measured)

    def _load(self) -> Baseline | None:
        try:
            return self._store.load(self._trial.workload, self._reference)
        except BaselineFileError as error:
            self._warn("file", f"unusable baseline file: {error}. Speedup stays NaN until a reference trial publishes a new one.")
            return None

    def _hold(self, baseline: Baseline) -> None:
        self._baseline = baseline
        steady = baseline.steady
        # A larger reference is taken to scale perfectly: one processor would have taken N times as long.
        breakdown = TimeBreakdown.of_window(steady.parts, steady.env_steps).scaled(baseline.scale.parallelism)
        self._figures = ReferenceFigures(steady.sps / baseline.scale.parallelism, 1.0, breakdown)
        if steady.disturbed:
            self._warn(
                "disturbed",
                f"while trial {baseline.trial!r} measured the baseline, other trials or programs used its machine "
                f"{100 * steady.disturbed:.0f} % of the time. It may be too low, and speedups too high. Run a {self._reference} "
                "trial alone, with max_concurrent_trials=1: its measurement replaces this one.",
            )

    @contextmanager
    def _access(self, action: str, consequence: str) -> Iterator[None]:
        """Access storage so seldom that it takes only a small share of the time; warn if it fails."""
        started = self._clock()
        try:
            yield
        except Exception as error:
            place = shown(self._store.directory)
            self._warn("storage", f"can't {action} {place} ({shown(str(error))}). {consequence}")
        ended = self._clock()
        self._next_access = ended + (ended - started) / _STORAGE_SHARE

    def _explain_mismatch(self) -> None:
        workload = self._trial.workload
        others = self._store.others(workload, self._reference)
        if not others:
            return
        self._figures = NOT_COMPARABLE
        nearest = min(others, key=lambda other: len(workload.differences(other.workload)))
        differences = workload.differences(nearest.workload)
        further = f"; and {len(differences) - _MAX_TOLD} more" if len(differences) > _MAX_TOLD else ""
        self._warn(
            "mismatch",
            f"no baseline for this trial's workload. The closest ({nearest.trial!r}) is not comparable: "
            f"{'; '.join(differences[:_MAX_TOLD])}{further}. Speedup and efficiency stay NaN until a {self._reference} trial of "
            "the same workload is steady. To treat different workloads as the same, pass workload='name'.",
        )
