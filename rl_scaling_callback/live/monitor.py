"""Turns each iteration of a trial into the dict to inject."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from rl_scaling_callback.baseline.source import NOT_COMPARABLE, BaselineSource, Status
from rl_scaling_callback.core import formulas, schema
from rl_scaling_callback.core.attribution import (
    CAUSES,
    CONNECTORS,
    LEARNER,
    NOT_MEASURED,
    PHASES,
    TimeBreakdown,
    diagnosis,
    losses,
    most_from_runners,
)
from rl_scaling_callback.core.formulas import NAN, mean_of_known, same_steps
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import NOTABLE_CORES, Drift, SteadyRule, SteadyWindow
from rl_scaling_callback.core.text import Warn
from rl_scaling_callback.core.trial import Trial
from rl_scaling_callback.live.machine import Load
from rl_scaling_callback.live.reports import Spent
from rl_scaling_callback.rllib.configs import iterations_are_timed, samples_env, steps_before_learning
from rl_scaling_callback.rllib.results import read_iteration, read_number

_NOTHING_KNOWN: Final = Spent()


class TrialMonitor:
    """Measures one trial, or the part of it since autotune last changed its scale, in constant memory.

    `learns` tells whether it has begun to learn.

    Attributes:
        thread_comparison: what more threads for the learner's torch bring, for the diagnosis.
    """

    def __init__(
        self, trial: Trial, source: BaselineSource, config: Mapping[str, Any], rule: SteadyRule, warn: Warn, *, learns: bool = False
    ) -> None:
        self.trial = trial
        self.thread_comparison = NOT_MEASURED
        self._workload = trial.workload.id
        self._source = source
        self._offset = time.time() - time.monotonic()  # `time_this_iter_s` is the wall clock's
        self._samples, self._may_lack_steps = samples_env(config), iterations_are_timed(config)
        self._lifetime, self._failed = NAN, False
        self._window = SteadyWindow(rule, learns_after=0.0 if learns else steps_before_learning(config))
        self._drift = Drift()
        self._load = Load(trial.resources.machine_cores, trial.scale.num_env_runners)
        self._warn = warn
        self._unreported_s = source.take_seconds()
        self._probed_before = self._unreported_s > 0

    def end(self) -> None:
        """Release what the trial's baseline holds, and warn of what is still missing at the end of the trial."""
        self._source.end()

    def start_over(self) -> None:
        """Forget the steady window: what follows is other work."""
        self._window.start_over()
        self._drift = Drift()

    def note_failure(self) -> None:
        """Note that an iteration failed: it has no result."""
        self._failed = True

    def note_probes(self, seconds: float) -> None:
        """Note the time of probes that ran after the last iteration."""
        self._unreported_s += seconds
        self._probed_before = True

    def measure(
        self, result: Mapping[str, Any], spent: Spent = _NOTHING_KNOWN, *, exclusive: float = NAN, threads: float = NAN
    ) -> dict[str, Any]:
        """Return the dict to inject into RLlib's result of an iteration. It may probe the baseline again, which takes seconds.

        `exclusive` is 1.0 if the trial had its host to itself, and `threads` the number of the learner's; NaN if unknown.
        """
        trial, source, window, reports = self.trial, self._source, self._window, spent.reports
        env_steps, seconds = self._read(result)
        own, others = self._load.read(read_number(result, "cpu_utilisation"), [report.cpu for report in reports])
        if self._probed_before:  # the CPU time of probes is part of what processes report, but not of the iteration
            own = others = NAN
        healthy = read_number(result, "healthy")
        delivered = self._count_delivering(len(reports), healthy)
        is_whole = delivered == trial.scale.num_env_runners
        scale = trial.scale if is_whole else Scale(max(1, int(delivered)), trial.scale.num_envs_per_env_runner)
        times = TimeBreakdown.of(spent.phases or {}, seconds, spent.busy, spent.longest, spent.reset, spent.all_resets)
        training_s = seconds - spent.evaluation_s

        if is_whole and window.learns and source.observe(env_steps, times):
            self.start_over()
        counts = window.add(
            env_steps if is_whole else NAN,
            training_s,
            None if spent.phases is None else {**times.parts, LEARNER: spent.learner_busy, CONNECTORS: spent.connectors},
            since_restore=read_number(result, "since_restore"),
            disturbed=exclusive == 0 or others > NOTABLE_CORES,
        )
        if counts:
            self._drift.add((times.busy if times.busy == times.busy else training_s) / env_steps)
        steady = window.read()
        source.update(window.undisturbed(steady))
        probe_s = source.take_seconds()
        self._probed_before = probe_s > 0
        probe_s, self._unreported_s = probe_s + self._unreported_s, 0.0

        baseline, window_times = source.status, TimeBreakdown.of_window(steady.parts)
        if abs(self._drift.change) > 0 and baseline.source != "probe":
            self._warn(
                "drift",
                f"the sampling cost per env step changed by {self._drift.change:+.0f} % since steady state began, more than noise "
                "explains. Efficiency is not meaningful unless the baseline was measured at the same stage of training. Does the "
                f"env's cost depend on the policy, or is the machine shared?",
            )
        reference = source.reference_for(env_steps, times)
        steady_reference = source.reference_for(steady.env_steps, window_times)
        if self._has_other_steps(steady.env_steps / steady.iterations if steady.iterations else env_steps, baseline):
            reference = steady_reference = NOT_COMPARABLE
        elif not is_whole and baseline.source == "probe":  # probes relate the reference to all env runners
            reference = NOT_COMPARABLE
        n, sps = scale.parallelism, formulas.steps_per_second(env_steps, seconds)
        speedup = formulas.speedup(sps, reference.sps_per_env)
        efficiency = formulas.efficiency(speedup, n)
        steady_speedup = formulas.speedup(steady.sps, steady_reference.sps_per_env)
        lost, estimated, diagnosed = dict.fromkeys(CAUSES, NAN), NAN, ""
        if spent.phases is None:
            times = times._replace(sample=NAN, learn=NAN, sync=NAN, evaluate=spent.evaluation_s, other=NAN)
        elif reference.comparable == 1 and spent.exact and is_whole:
            lost, estimated = losses(scale, env_steps, times, reference.breakdown, reference.one_runner)
            lost_over_window, _ = losses(
                trial.scale, steady.env_steps, window_times, steady_reference.breakdown, steady_reference.one_runner
            )
            most = most_from_runners(steady.parts, steady.seconds)
            diagnosed = diagnosis(lost_over_window, most, parts=steady.parts, threads=self.thread_comparison)

        return {
            "sps": sps,
            "env_steps": env_steps,
            "parallelism": float(n),
            "baseline_sps": reference.sps_per_env,
            "speedup": speedup,
            "efficiency": efficiency,
            "gap": formulas.gap(speedup, n),
            "serial_fraction": formulas.serial_fraction(speedup, n),
            "band": formulas.band(efficiency),
            "core_efficiency": formulas.core_efficiency(speedup, scale.num_env_runners, trial.resources.cores),
            "sps_per_cpu": formulas.ratio(sps, trial.resources.cpus),
            "diagnosis": diagnosed,
            "is_baseline": float(baseline.is_baseline),
            "comparable": reference.comparable,
            "workload": self._workload,
            "exclusive": exclusive,
            "baseline": {"source": baseline.source, "error": baseline.error, "age": baseline.age},
            "steady": {
                "sps": steady.sps,
                "speedup": steady_speedup,
                "efficiency": formulas.efficiency(steady_speedup, trial.scale.parallelism),
                "error": steady.error,
                "iterations": float(steady.iterations),
                "converged": float(steady.converged),
                "drift": self._drift.change,
            },
            "time": {**{phase: getattr(times, phase) for phase in PHASES}, "probe": probe_s},
            "loss": {"total": formulas.loss(efficiency), **lost},
            "account": {"exact": NAN if spent.phases is None else spent.exact, "estimated": float(estimated)},
            "runners": {
                "busy": spent.busy,
                "longest": spent.longest,
                **{part: mean_of_known([getattr(report, part) for report in reports]) for part in ("env_step", "reset")},
                "reported": float(len(reports)),
            },
            "learner": {
                "busy": spent.learner_busy,
                "waiting": spent.learner_waiting,
                "connectors": spent.connectors,
                "threads": threads,
            },
            "tuned": schema.unknown()["tuned"],
            "cores": {"own": own, "others": others},
        }

    def _read(self, result: Mapping[str, Any]) -> tuple[float, float]:
        """Return the env steps and seconds of the iteration, NaN if unknown; warn once about the reason."""
        offset = time.time() - time.monotonic()
        jump, self._offset = offset - self._offset, offset
        reading = read_iteration(result, self._lifetime)
        env_steps, seconds, self._lifetime = reading.env_steps, reading.seconds, read_number(result, "lifetime_steps")
        if not self._samples:
            # The old API stack counts the steps that it reads from recorded data as sampled.
            self._warn("result", "this algorithm learns from recorded data (offline): it samples no env steps, so there is no SPS")
            return NAN, seconds
        if self._failed:
            self._failed = False
            self._warn("failure", "an iteration failed; RLlib adds its env steps to the next one, whose SPS is NaN")
            return NAN, seconds
        if reading.problem:
            self._warn("result", reading.problem)
        elif env_steps == 0 and not self._may_lack_steps:
            self._warn("steps", "no env steps were sampled in an iteration: its SPS is NaN")
        if env_steps > 0:
            self._may_lack_steps = False  # only the first steps may be late
        if abs(jump) > 0.01 * max(1.0, seconds):
            self._warn("clock", f"the clock jumped by {jump:+.3g} s: the duration of this iteration is unknown, its SPS is NaN")
            return env_steps, NAN
        return env_steps, seconds

    def _count_delivering(self, reported: int, healthy: float) -> float:
        """Return how many env runners delivered samples; warn once if not all did."""
        wanted = self.trial.scale.num_env_runners
        delivered = min(wanted, healthy) if healthy == healthy else wanted
        if reported and not self.trial.overlaps:  # those of asynchronous algorithms may report in a later iteration
            delivered = min(delivered, reported)
        if delivered != wanted:
            self._warn(
                "runners",
                f"only {delivered:.0f} of {wanted} env runners delivered samples in an iteration: the others are dead, or slower "
                "than sample_timeout_s. Steady figures don't include such iterations, their parallelism counts the env runners "
                "that delivered, and there is no diagnosis. See restart_failed_env_runners and sample_timeout_s in the config.",
            )
        return delivered

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
