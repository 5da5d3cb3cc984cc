"""The configurations of a study, each compared with the final baseline over all of its runs.

For the intervals, see `runs.Noise`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Final

from rl_scaling_callback.analysis.returns import INCOMPARABLE, TimeToReturn, times_to_return
from rl_scaling_callback.analysis.runs import PROBED, Noise, Run, Study, variance_of
from rl_scaling_callback.core import formulas
from rl_scaling_callback.core.attribution import NOT_MEASURED, TimeBreakdown, diagnosis, gains, losses, most_from_runners
from rl_scaling_callback.core.formulas import NAN, same_steps
from rl_scaling_callback.core.scale import REFERENCE_SCALE, Scale
from rl_scaling_callback.core.steady import NOTABLE_CORES, Steady
from rl_scaling_callback.core.text import counted

MAX_ERROR: Final = 30.0
"""A speedup measured with a larger error [%] decides nothing. Errors that are only assumed, because nothing was repeated, don't
count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """One scale: as measured in one run or several, as estimated by a race, or as predicted by a law.

    Attributes:
        scale: its scale; `scale.parallelism` is N.
        steady: its steady state, over all runs.
        sps_error: half-width [%] of the 95 % interval for a repeat of `sps`; NaN if unknown.
        speedup: [×]; NaN without a baseline. See `ideal`.
        speedup_error: the same for `speedup`, if the baseline is repeated as well [%]; NaN if unknown.
        cpus: CPUs allocated to a trial.
        unit: N at which the speedup of perfect scaling is 1×.
        to_return: its time to return.
        is_baseline: True for the reference.
        runs: its runs, without those that suffered notably more interference from other programs.
        losses: percentage points of lost efficiency by cause (see `attribution.CAUSES`); empty if unknown.
        gains: how many times as fast it would be without each cause that is worth removing (see `attribution.gains`).
        diagnosis: the largest loss and a remedy, in one line; "" if unknown.
        noise: variation between runs of one configuration.
        variance: variance of ln `sps` relative to other configurations; NaN if unknown.
        disturbed: True if other programs or trials interfered with it or with the baseline; its speedup is then inconclusive.
        notes: caveats about it and its runs.
    """

    scale: Scale
    steady: Steady
    sps_error: float
    speedup: float = NAN
    speedup_error: float = NAN
    cpus: float
    unit: int = 1
    to_return: TimeToReturn = INCOMPARABLE
    is_baseline: bool = False
    runs: tuple[Run, ...] = ()
    losses: Mapping[str, float] = field(default_factory=dict)
    gains: Mapping[str, float] = field(default_factory=dict)
    diagnosis: str = ""
    noise: Noise = field(default_factory=Noise)
    variance: float = NAN
    disturbed: bool = False
    notes: tuple[str, ...] = ()

    @property
    def sps(self) -> float:
        """Its throughput [steps/s]."""
        return self.steady.sps

    @property
    def relative_error(self) -> float:
        """Half-width of the 95 % interval of `sps` without the variation that all configurations share, for comparisons [%]."""
        return self.sps_error if math.isnan(self.variance) else self.noise.error(self.variance)

    @property
    def baseline_sps(self) -> float:
        """The SPS that its speedup is relative to [steps/s]; NaN without a baseline."""
        return formulas.ratio(self.sps, self.speedup)

    @property
    def seconds(self) -> float:
        """Mean duration of an iteration [s]."""
        return formulas.ratio(self.steady.seconds, self.steady.iterations)

    @property
    def ideal(self) -> float:
        """The speedup of perfect scaling [×]: N, or N / N of the baseline if that counts as 1×."""
        return self.scale.parallelism / self.unit

    @property
    def efficiency(self) -> float:
        """Speedup / ideal × 100 [%]; its relative error is `speedup_error`."""
        return formulas.efficiency(self.speedup, self.ideal)

    @property
    def loss(self) -> float:
        """100 − efficiency [% points]."""
        return formulas.loss(self.efficiency)

    @property
    def band(self) -> str:
        """Name of the efficiency band; "" if unknown or too noisy."""
        return "" if self.is_noisy else formulas.band(self.efficiency)

    @property
    def sooner(self) -> float:
        """Speedup of the time to return [×]; NaN if unknown."""
        return self.to_return.sooner

    @property
    def is_noisy(self) -> bool:
        """Whether its measurements vary too much to tell its speedup."""
        return self.noise.from_repeats and self.speedup_error > MAX_ERROR


def configurations(study: Study, reference: Scale = REFERENCE_SCALE) -> tuple[Configuration, ...]:
    """Return the configurations of a study, ordered by N, then by env runners, descending.

    Speedups are relative to the final baseline: the runs at the reference scale, or `study.baseline`. Without one, the smallest
    scale measured is the baseline: it counts as 1×, and efficiency is speedup / (N / its N).

    Args:
        study: runs of one workload.
        reference: scale of the reference. Scaling from 1r×1e up to a larger reference is assumed to be perfect.
    """
    groups: dict[Scale, list[Run]] = defaultdict(list)
    for run in _undisturbed(study.runs):
        groups[run.scale].append(run)
    noise = PROBED if study.from_probes else Noise.of(groups.values())
    measured = {scale: _measured(runs, noise) for scale, runs in groups.items()}
    ordered = sorted(measured.values(), key=lambda each: (each.scale.parallelism, -each.scale.num_env_runners))
    baseline, unit = measured.get(reference), 1
    if baseline is None and study.baseline is not None:
        baseline = _measured([study.baseline], noise)
    if baseline is None:
        baseline = next((each for each in ordered if each.sps > 0), None)
        unit = baseline.scale.parallelism if baseline else 1
    times = times_to_return(groups, baseline.scale if baseline else None)
    found = (_compared(each, baseline, unit, study, measured) for each in ordered)
    return tuple(replace(each, to_return=times.get(each.scale, INCOMPARABLE)) for each in found)


def _undisturbed(runs: Sequence[Run]) -> list[Run]:
    """Return the runs without those that have a counterpart at the same scale with notably less interference."""
    least: dict[Scale, float] = {}
    for run in runs:
        if not math.isnan(run.others):
            least[run.scale] = min(run.others, least.get(run.scale, math.inf))
    return [run for run in runs if not run.others > least.get(run.scale, math.inf) + NOTABLE_CORES]


def _measured(runs: Sequence[Run], noise: Noise) -> Configuration:
    """Return a configuration that is not compared with a baseline yet."""
    scale = runs[0].scale
    cpus = formulas.mean_of_known(run.cpus for run in runs)
    variance = sum(noise.variance(run.steady) for run in runs) / len(runs) ** 2
    return Configuration(
        scale=scale,
        steady=pooled([run.steady for run in runs]),
        sps_error=noise.error(variance + noise.level),
        cpus=scale.cpus if math.isnan(cpus) else cpus,
        runs=tuple(runs),
        noise=noise,
        variance=variance,
    )


def pooled(windows: Sequence[Steady]) -> Steady:
    """Return the steady windows of several runs combined into one; its error is NaN unless there is only one window."""
    if len(windows) == 1:
        return windows[0]
    env_steps, seconds = sum(window.env_steps for window in windows), sum(window.seconds for window in windows)
    names = set.intersection(*(set(window.parts) for window in windows))
    iterations = sum(window.iterations for window in windows)
    sps = formulas.steps_per_second(env_steps, seconds)
    if math.isnan(env_steps):  # a table without env steps, of which all iterations are taken to have equally many
        sps = formulas.ratio(iterations, sum(window.iterations / window.sps for window in windows))
    return Steady(
        sps=sps,
        iterations=iterations,
        env_steps=env_steps,
        seconds=seconds,
        parts={name: sum(window.parts[name] for window in windows) for name in sorted(names)},
    )


def _compared(
    each: Configuration, baseline: Configuration | None, unit: int, study: Study, measured: Mapping[Scale, Configuration]
) -> Configuration:
    """Return a configuration with its speedup and losses relative to the baseline, and with notes."""
    notes = [note for run in each.runs for note in run.notes]
    notes += _disturbances(each, left_out=sum(run.scale == each.scale for run in study.runs) - len(each.runs))
    ours, theirs = _steps(each), _steps(baseline)
    # If only throughputs are known, trust the user that they are comparable.
    are_known = ours > 0 and theirs > 0 and not study.steps_vary
    if baseline is not None and are_known and not same_steps(ours, theirs):
        is_rounded = each.runs[0].batch > 0 and len({run.batch for run in (*each.runs, *baseline.runs)}) == 1
        why = "RLlib rounds the batch up" if is_rounded else "not comparable"
        notes.append(f"{ours:,.0f} env steps per iteration, {theirs:,.0f} for the baseline: {why}")
        baseline = baseline if is_rounded else None
    speedup = error = NAN
    lost: Mapping[str, float] = {}
    if baseline is not None:
        unit_sps, variance = _unit(each, baseline, unit)
        speedup = formulas.speedup(each.sps, unit_sps)
        error = 0.0 if each is baseline else each.noise.error(each.variance + variance)
        lost, is_estimated = _losses(each, baseline, measured)
        if is_estimated:
            notes.append("serial stepping includes contention: a run of one runner with as many envs separates them")
    most = most_from_runners(each.steady.parts, each.steady.seconds)
    threads = "" if any(run.threads_compared for run in each.runs) else NOT_MEASURED
    concerned = (*each.runs, *(baseline.runs if baseline else ()))
    return replace(
        each,
        speedup=speedup,
        speedup_error=error,
        unit=unit,
        is_baseline=each is baseline,
        losses=lost,
        gains=gains(lost, most),
        diagnosis=diagnosis(lost, most, parts=each.steady.parts, threads=threads),
        disturbed=any(run.exclusive == 0 or run.others > NOTABLE_CORES for run in concerned),
        notes=tuple(notes),
    )


def _steps(configuration: Configuration | None) -> float:
    """Return the env steps per iteration; NaN if unknown."""
    return formulas.ratio(configuration.steady.env_steps, configuration.steady.iterations) if configuration else NAN


def _unit(each: Configuration, baseline: Configuration, unit: int) -> tuple[float, float]:
    """Return the baseline's SPS at `unit`, the N that counts as 1×, and the variance of its logarithm.

    Unless the baseline was measured in iterations, it is the one probed in the configuration's own runs, at the same speed of the
    machine.
    """
    own = [run for run in each.runs if run.baseline_sps > 0]
    if baseline.steady.iterations or not own:
        return baseline.sps / (baseline.scale.parallelism / unit), baseline.variance
    return fmean(run.baseline_sps for run in own), sum(variance_of(run.baseline_error) for run in own) / len(own) ** 2


def _disturbances(configuration: Configuration, left_out: int) -> Iterator[str]:
    """Yield what interfered with the runs, and how many were left out because of it."""
    others = max((run.others for run in configuration.runs if run.others > NOTABLE_CORES), default=0.0)
    if any(run.exclusive == 0 for run in configuration.runs):
        yield "another trial ran on its node at the same time"
    elif others:
        yield f"other programs, or ones started by its env, kept {others:.1f} cores busy"
    if left_out:
        yield f"{counted(left_out, 'more run')} left out because of interference from other programs"


def _losses(
    each: Configuration, baseline: Configuration, measured: Mapping[Scale, Configuration]
) -> tuple[Mapping[str, float], bool]:
    """Return the losses by cause, and whether they are estimated; no losses if the time of a part is unknown."""
    with_one = measured.get(Scale(1, each.scale.num_envs_per_env_runner))
    one_runner = NAN if with_one is None else _per_step(with_one).busy
    reference = _per_step(baseline).scaled(baseline.scale.parallelism)
    times = TimeBreakdown.of_window(each.steady.parts)
    lost, estimated = losses(each.scale, each.steady.env_steps, times, reference, one_runner)
    return ({}, False) if any(map(math.isnan, lost.values())) else (lost, estimated)


def _per_step(configuration: Configuration) -> TimeBreakdown:
    return TimeBreakdown.of_window(configuration.steady.parts, configuration.steady.env_steps)
