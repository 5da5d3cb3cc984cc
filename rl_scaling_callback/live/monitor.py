"""Turns each iteration of a trial into the dict to inject."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Final

from rl_scaling_callback.baseline.source import BaselineSource, Status, Warn
from rl_scaling_callback.core import formulas
from rl_scaling_callback.core.attribution import CAUSES, LEARNER, LearnerLimits, TimeBreakdown, diagnosis, losses
from rl_scaling_callback.core.comparison import NOT_COMPARABLE, ReferenceFigures, compare, same_steps
from rl_scaling_callback.core.drift import Drift
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import DISTURBED, NOTABLE_CORES, Steady, SteadyWindow
from rl_scaling_callback.core.trial import Trial
from rl_scaling_callback.live.load import Load
from rl_scaling_callback.live.reading import IterationReader
from rl_scaling_callback.live.spent import Spent
from rl_scaling_callback.rllib.results import read_cpu_utilisation, read_dropped, read_fleet, read_since_restore

_NOTHING_KNOWN: Final = Spent()
_UNKNOWN_TIMES: Final = TimeBreakdown(NAN, NAN, NAN, NAN, NAN)
_UNKNOWN_LOSSES: Final[Mapping[str, float]] = dict.fromkeys(CAUSES, NAN)


class TrialMonitor:
    """Measures one trial from its first to its last iteration, in constant memory.

    Args:
        trial: the trial.
        source: provides the baseline.
        reader: reads the env steps and duration of each iteration.
        window: collects its steady iterations.
        load: measures the CPU load of the trial and of other programs.
        is_exclusive: returns 1.0 if the trial had its node to itself during its last iteration, else 0.0; NaN if unknown.
        warn: logs a warning once.

    Attributes:
        trial: the trial.
    """

    def __init__(
        self,
        trial: Trial,
        source: BaselineSource,
        *,
        reader: IterationReader,
        window: SteadyWindow,
        load: Load,
        is_exclusive: Callable[[], float],
        warn: Warn,
    ) -> None:
        self.trial = trial
        self._workload = trial.workload.id
        self._source = source
        self._reader = reader
        self._window = window
        self._undisturbed: SteadyWindow | None = None  # until an iteration is disturbed, it would be the same
        self._drift = Drift()
        self._load = load
        self._is_exclusive = is_exclusive
        self._warn = warn
        self._unreported_s = source.take_seconds()
        self._probed_before = self._unreported_s > 0

    def end(self) -> None:
        """Release what the trial's baseline holds, and warn of what is still missing at the end of the trial."""
        self._source.end()

    def note_failure(self) -> None:
        """Note that an iteration failed: it has no result."""
        self._reader.note_failure()

    def note_probes(self, seconds: float) -> None:
        """Note the time of probes that ran after the last iteration."""
        self._unreported_s += seconds
        self._probed_before = True

    def measure(self, result: Mapping[str, Any], spent: Spent = _NOTHING_KNOWN) -> dict[str, Any]:
        """Return the dict to inject into `result`, RLlib's result of an iteration that spent its time as in `spent`.

        It may probe the baseline again, which takes seconds.
        """
        named, work, learner, evaluation_s = spent.phases, spent.runners, spent.learners, spent.evaluation_s
        env_steps, seconds = self._reader.read(result)
        breakdown = TimeBreakdown.of(named or {}, seconds, work.busy, work.longest, work.reset, work.all_resets)
        healthy, restarts = read_fleet(result)
        scale, is_whole = self._delivering(len(work.reports), healthy)
        own, others = self._load.look(read_cpu_utilisation(result), [report.cpu for report in work.reports])
        if self._probed_before:  # the CPU time of probes is part of what processes report, but not of the iteration
            own = others = NAN
        exclusive = self._is_exclusive()
        is_disturbed = exclusive == 0 or others > NOTABLE_CORES
        parts = {} if named is None else {**breakdown.parts, LEARNER: learner.busy}
        parts[DISTURBED] = (seconds - evaluation_s) * is_disturbed
        iteration = (env_steps if is_whole else NAN, seconds - evaluation_s, parts)
        since_restore = read_since_restore(result)
        counts = self._add(*iteration, since_restore, is_disturbed=is_disturbed)
        source = self._source
        if is_whole and self._window.learns and source.observe(env_steps, breakdown):
            self._window.start_over()
            self._undisturbed = None
            self._drift = Drift()
            counts = self._add(*iteration, since_restore, is_disturbed=is_disturbed)
        if counts:
            self._look_for_drift(env_steps, seconds - evaluation_s if breakdown.busy != breakdown.busy else breakdown.busy)
        steady = self._window.read()
        source.update(steady if self._undisturbed is None else self._undisturbed.read_undisturbed(steady))
        probe_s = source.take_seconds()
        self._probed_before = probe_s > 0
        probe_s, self._unreported_s = probe_s + self._unreported_s, 0.0
        over_window = TimeBreakdown.of_window(steady.parts)
        baseline = source.status
        reference = source.reference_for(env_steps, breakdown)
        steady_reference = source.reference_for(steady.env_steps, over_window)
        if self._has_other_steps(steady.env_steps / steady.iterations if steady.iterations else env_steps, baseline):
            reference = steady_reference = NOT_COMPARABLE
        elif not is_whole and baseline.source == "probe":  # probes relate the reference to all env runners
            reference = NOT_COMPARABLE
        speed = compare(env_steps, seconds, scale, reference.sps_per_env, self.trial.resources)
        steady_speedup = formulas.speedup(steady.sps, steady_reference.sps_per_env)

        times, exact, lost, estimated, diagnosed = _UNKNOWN_TIMES, NAN, _UNKNOWN_LOSSES, NAN, ""
        if named is not None:
            times, exact = breakdown, float(not self.trial.overlaps or work.phases is not None)
            if reference.comparable == 1 and exact and is_whole:
                lost, estimated = losses(scale, env_steps, breakdown, reference.breakdown, reference.one_runner)
                diagnosed = self._diagnose(steady, over_window, steady_reference)

        return {
            **speed,
            "diagnosis": diagnosed,
            "is_baseline": float(baseline.is_baseline),
            "comparable": reference.comparable,
            "workload": self._workload,
            "exclusive": exclusive,
            "baseline": {"source": baseline.source, "error": baseline.error, "age": baseline.age},
            "steady": {
                "sps": steady.sps,
                "speedup": steady_speedup,
                "efficiency": formulas.efficiency(steady_speedup, self.trial.scale.parallelism),
                "error": steady.error,
                "iterations": float(steady.iterations),
                "converged": float(steady.converged),
                "drift": self._drift.change,
            },
            "time": {
                "sample": times.sample,
                "learn": times.learn,
                "sync": times.sync,
                "evaluate": evaluation_s if named is None else times.evaluate,
                "other": times.other,
                "probe": probe_s,
            },
            "loss": {"total": formulas.loss(speed["efficiency"]), **lost},
            "account": {"exact": exact, "estimated": float(estimated)},
            "runners": {
                "busy": work.busy,
                "longest": work.longest,
                "env_step": formulas.mean_of_known(report.env_step for report in work.reports),
                "inference": formulas.mean_of_known(report.inference for report in work.reports),
                "reset": formulas.mean_of_known(report.reset for report in work.reports),
                "rest": formulas.mean_of_known(report.rest for report in work.reports),
                "reported": float(len(work.reports)),
                "healthy": healthy,
                "restarts": restarts,
            },
            "learner": {
                "busy": learner.busy,
                "waiting": learner.waiting,
                "queue": learner.queue,
                "dropped": learner.dropped + read_dropped(result),
                "connectors": spent.connectors,
                "threads": NAN,
            },
            "tuned": dict.fromkeys(("num_env_runners", "num_envs_per_env_runner", "learner_threads", "gain", "gain_error"), NAN),
            "cores": {"own": own, "others": others},
        }

    def _add(
        self, env_steps: float, seconds: float, parts: Mapping[str, float], since_restore: float, *, is_disturbed: bool
    ) -> bool:
        """Add an iteration to the steady window, and return whether it counts."""
        if is_disturbed:
            self._undisturbed = self._undisturbed or copy.deepcopy(self._window)
        elif self._undisturbed is not None:
            self._undisturbed.add(env_steps, seconds, parts, since_restore=since_restore)
        return self._window.add(env_steps, seconds, parts, since_restore=since_restore)

    def _delivering(self, reported: int, healthy: float) -> tuple[Scale, bool]:
        """Return the scale of the env runners that delivered samples, and whether these are all; warn once if not."""
        scale = self.trial.scale
        wanted = scale.num_env_runners
        delivered = min(wanted, healthy) if healthy == healthy else wanted
        if reported and not self.trial.overlaps:  # those of asynchronous algorithms may report in a later iteration
            delivered = min(delivered, reported)
        if not wanted or delivered == wanted:
            return scale, True
        self._warn(
            "runners",
            f"only {delivered:.0f} of {wanted} env runners delivered samples in an iteration: the others are dead, or slower than "
            "sample_timeout_s. Steady figures don't include such iterations, their parallelism counts the env runners that "
            "delivered, and there is no diagnosis. See restart_failed_env_runners and sample_timeout_s in the config.",
        )
        return Scale(max(1, int(delivered)), scale.num_envs_per_env_runner), False

    def _has_other_steps(self, steps: float, baseline: Status) -> bool:
        """Return whether iterations have another number of env steps than the baseline's; warn once if so."""
        if not (steps > 0 and baseline.steps_per_iteration > 0) or same_steps(steps, baseline.steps_per_iteration):
            return False
        self._warn(
            "other steps",
            f"this trial collects {steps:.0f} env steps per iteration, its baseline {baseline.steps_per_iteration:.0f}. They are "
            "not comparable, so speedup and efficiency stay NaN. Use the same batch size and batch mode for both.",
        )
        return True

    def _look_for_drift(self, env_steps: float, sampling_s: float) -> None:
        self._drift.add(sampling_s / env_steps)
        change, baseline = self._drift.change, self._source.status
        if (change > 0 or change < 0) and not baseline.follows_drift:
            self._warn(
                "drift",
                f"the sampling cost per env step changed by {change:+.0f} % since steady state began, more than noise explains. "
                "Efficiency is not meaningful unless the baseline was measured at the same stage of training. "
                f"Does the env {'slow down' if change > 0 else 'get faster'} as the policy improves, or is the machine shared?"
                + " With probe=True the baseline follows."
                * (baseline.source != "probe" and not self.trial.overlaps),
            )

    def _diagnose(self, steady: Steady, breakdown: TimeBreakdown, reference: ReferenceFigures) -> str:
        if self._source.status.source == "given":
            self._warn(
                "breakdown",
                "a baseline given as a number has no time breakdown: only the straggler and evaluate losses are known. For the "
                "others, measure the baseline with a reference trial or probe=True.",
            )
        lost, _ = losses(self.trial.scale, steady.env_steps, breakdown, reference.breakdown, reference.one_runner)
        limits = LearnerLimits.of_window(steady.parts, steady.seconds)
        return diagnosis(lost, limits, steps_in_turn=self.trial.steps_in_turn)
