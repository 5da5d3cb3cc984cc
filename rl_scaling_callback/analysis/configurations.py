"""The configurations of a study, each compared with the final baseline over all of its runs.

For the intervals, see `noise`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Final

from rl_scaling_callback.analysis.goals import Candidate
from rl_scaling_callback.analysis.interference import undisturbed
from rl_scaling_callback.analysis.noise import SWEPT, USUAL, Noise, variance_of
from rl_scaling_callback.analysis.returns import INCOMPARABLE, times_to_return
from rl_scaling_callback.analysis.runs import Run, Study
from rl_scaling_callback.core import formulas
from rl_scaling_callback.core.attribution import LearnerLimits, TimeBreakdown, diagnosis, gains, losses
from rl_scaling_callback.core.comparison import same_steps
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.scale import REFERENCE_SCALE, Scale
from rl_scaling_callback.core.steady import NOTABLE_CORES, Steady
from rl_scaling_callback.core.text import counted

MAX_ERROR: Final = 30.0
"""A speedup measured with a larger error [%] decides nothing. Errors that are only assumed, because nothing was repeated, don't
count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration(Candidate):
    """One scale of a study, from one run or several. See `Candidate` for the figures that goals judge.

    Attributes:
        runs: its runs, without those that suffered notably more interference (see `interference`).
        seconds: mean duration of an iteration [s].
        is_baseline: True for the reference.
        band: name of the efficiency band; "" if unknown or too noisy.
        core_efficiency: speedup / min(runners, cores) × 100 [%].
        sps_per_cpu: [steps/s].
        losses: percentage points of lost efficiency by cause (see `attribution.CAUSES`); empty if unknown.
        gains: how many times as fast it would be without each cause that is worth removing (see `attribution.gains`).
        losses_estimated: True if stepping and contention can't be separated.
        diagnosis: the largest loss and a remedy, in one line; "" if unknown.
        cpu_utilisation: [%]; NaN if unknown.
        noise: variation between runs of one configuration.
        variance: variance of ln `sps` relative to other configurations; NaN if unknown.
        disturbed: True if other programs or trials interfered with it or with the baseline; its speedup is then inconclusive.
        notes: caveats about it and its runs.
    """

    runs: tuple[Run, ...]
    seconds: float
    is_baseline: bool
    band: str
    core_efficiency: float
    sps_per_cpu: float
    losses: Mapping[str, float] = field(default_factory=dict)
    gains: Mapping[str, float] = field(default_factory=dict)
    losses_estimated: bool = False
    diagnosis: str = ""
    cpu_utilisation: float = NAN
    noise: Noise = USUAL
    variance: float = NAN
    disturbed: bool = False
    notes: tuple[str, ...] = ()

    @property
    def is_noisy(self) -> bool:
        """Whether its measurements vary too much to tell its speedup."""
        return self.noise.from_repeats and self.speedup_error > MAX_ERROR

    @property
    def is_unclear(self) -> bool:
        """Whether its speedup is inconclusive, due to noise or interference."""
        return self.is_noisy or self.disturbed

    @property
    def own_error(self) -> float:
        """Half-width of the 95 % interval of `sps` without the variation that all configurations share, for comparisons [%]."""
        return self.sps_error if math.isnan(self.variance) else self.noise.error(self.variance)

    @property
    def loss(self) -> float:
        """100 − efficiency [% points]."""
        return 100 - self.efficiency

    @property
    def baseline_sps(self) -> float:
        """The SPS that its speedup is relative to [steps/s]; NaN without a baseline."""
        return formulas.ratio(self.sps, self.speedup)


def configurations(
    study: Study, reference: Scale = REFERENCE_SCALE, target_return: float | None = None
) -> tuple[Configuration, ...]:
    """Return the configurations of a study, ordered by N, then by env runners, descending.

    Speedups are relative to the final baseline: the runs at the reference scale, or `study.baseline`. Without one, the smallest
    scale measured is the baseline: it counts as 1×, and efficiency is speedup / (N / its N).

    Args:
        study: runs of one workload.
        reference: scale of the reference. Scaling from 1r×1e up to a larger reference is assumed to be perfect.
        target_return: the return of `to_return`; None for the highest that all runs reach.
    """
    groups: dict[Scale, list[Run]] = defaultdict(list)
    for run in undisturbed(study.runs):
        groups[run.scale].append(run)
    noise = SWEPT if study.swept else Noise.of(groups.values())
    cells = {scale: _Cell.of(runs, noise) for scale, runs in groups.items()}
    baseline = cells.get(reference)
    if baseline is None and study.baseline is not None:
        baseline = _Cell.of([study.baseline], noise)
    ordered = sorted(cells.values(), key=lambda cell: (cell.scale.parallelism, -cell.scale.num_env_runners))
    unit = 1
    if baseline is None:
        baseline = next((cell for cell in ordered if cell.steady.sps > 0), None)
        unit = baseline.scale.parallelism if baseline else 1
    times = times_to_return(groups, baseline.scale if baseline else None, target_return)
    found = (_configuration(study, cell, cells, baseline, noise, unit) for cell in ordered)
    return tuple(replace(each, to_return=times.get(each.scale, INCOMPARABLE)) for each in found)


@dataclass(frozen=True, slots=True)
class _Cell:
    """The runs of one scale, taken together."""

    scale: Scale
    runs: tuple[Run, ...]
    steady: Steady
    variance: float

    @classmethod
    def of(cls, runs: Sequence[Run], noise: Noise) -> _Cell:
        variance = sum(noise.variance(run.steady) for run in runs) / len(runs) ** 2
        return cls(runs[0].scale, tuple(runs), pooled([run.steady for run in runs]), variance)

    @property
    def steps(self) -> float:
        """Env steps per iteration."""
        return formulas.ratio(self.steady.env_steps, self.steady.iterations)

    @property
    def breakdown_per_step(self) -> TimeBreakdown:
        return TimeBreakdown.of_window(self.steady.parts, self.steady.env_steps)


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
        error=NAN,
        iterations=iterations,
        env_steps=env_steps,
        seconds=seconds,
        converged=all(window.converged for window in windows),
        settled=all(window.settled for window in windows),
        parts={name: sum(window.parts[name] for window in windows) for name in sorted(names)},
    )


def _configuration(
    study: Study, cell: _Cell, cells: Mapping[Scale, _Cell], baseline: _Cell | None, noise: Noise, unit: int
) -> Configuration:
    scale, steady, runs = cell.scale, cell.steady, cell.runs
    notes = [note for run in runs for note in run.notes]
    notes += _disturbances(runs, left_out=sum(run.scale == scale for run in study.runs) - len(runs))
    speedup = speedup_error = NAN
    lost: Mapping[str, float] = {}
    estimated = False
    # If only throughputs are known, trust the user that they are comparable.
    steps_count = baseline is not None and not study.timed_iterations and cell.steps > 0 and baseline.steps > 0
    differs = baseline is not None and steps_count and not same_steps(cell.steps, baseline.steps)
    if baseline is not None and differs:
        steps = f"{cell.steps:,.0f} env steps per iteration, {baseline.steps:,.0f} for the baseline"
        is_rounded = runs[0].batch > 0 and len({run.batch for run in (*runs, *baseline.runs)}) == 1
        notes.append(f"{steps}: {'RLlib rounds the batch up' if is_rounded else 'not comparable'}")
        baseline = baseline if is_rounded else None
    if baseline is not None:
        unit_sps, variance = _unit(cell, baseline, unit)
        speedup = formulas.speedup(steady.sps, unit_sps)
        speedup_error = 0.0 if cell is baseline else noise.error(cell.variance + variance)
        if study.exclusive_phases or study.waits_are_known:
            lost, estimated = _losses(cell, cells, baseline)
    efficiency = formulas.efficiency(speedup, scale.parallelism / unit)
    limits = LearnerLimits.of_window(steady.parts, steady.seconds)
    cpus = formulas.mean_of_known(run.cpus for run in runs)
    cpus = 1.0 + scale.num_env_runners if math.isnan(cpus) else cpus
    made = Configuration(
        scale=scale,
        unit=unit,
        runs=runs,
        seconds=formulas.ratio(steady.seconds, steady.iterations),
        sps=steady.sps,
        sps_error=noise.error(cell.variance + noise.level),
        noise=noise,
        variance=cell.variance,
        is_baseline=cell is baseline,
        speedup=speedup,
        speedup_error=speedup_error,
        band=formulas.band(efficiency),
        core_efficiency=formulas.core_efficiency(
            speedup if unit == 1 else NAN, scale.num_env_runners, formulas.mean_of_known(run.cores for run in runs)
        ),
        sps_per_cpu=formulas.ratio(steady.sps, cpus),
        cpus=cpus,
        losses=lost,
        gains=gains(lost, limits),
        losses_estimated=estimated,
        diagnosis=diagnosis(lost, limits, steps_in_turn=study.steps_in_turn),
        cpu_utilisation=formulas.mean_of_known(run.cpu_utilisation for run in runs),
        ram_utilisation=max((run.ram_utilisation for run in runs if not math.isnan(run.ram_utilisation)), default=NAN),
        disturbed=any(run.exclusive == 0 or run.others > NOTABLE_CORES for run in (*runs, *(baseline.runs if baseline else ()))),
        notes=tuple(notes),
    )
    return replace(made, band="") if made.is_noisy else made


def _unit(cell: _Cell, baseline: _Cell, unit: int) -> tuple[float, float]:
    """Return the baseline's SPS at `unit`, the N that counts as 1×, and the variance of its logarithm.

    Unless the baseline was measured in iterations, it is the one probed in the cell's own runs, at the same speed of the machine.
    """
    own = [run for run in cell.runs if run.baseline_sps > 0]
    if baseline.steady.iterations or not own:
        return baseline.steady.sps / (baseline.scale.parallelism / unit), baseline.variance
    return fmean(run.baseline_sps for run in own), sum(variance_of(run.baseline_error) for run in own) / len(own) ** 2


def _disturbances(runs: Sequence[Run], left_out: int) -> Iterator[str]:
    """Yield what interfered with the runs, and how many were left out because of it."""
    others = max((run.others for run in runs if run.others > NOTABLE_CORES), default=0.0)
    if any(run.exclusive == 0 for run in runs):
        yield "another trial ran on its node at the same time"
    elif others:
        yield f"other programs, or ones started by its env, kept {others:.1f} cores busy"
    if left_out:
        yield f"{counted(left_out, 'more run')} left out because of interference from other programs"


def _losses(cell: _Cell, cells: Mapping[Scale, _Cell], baseline: _Cell) -> tuple[Mapping[str, float], bool]:
    """Return the losses by cause, and whether they are estimated; no losses if the time of a part is unknown."""
    alone = cells.get(Scale(1, cell.scale.num_envs_per_env_runner))
    single = NAN if alone is None else alone.breakdown_per_step.busy
    reference = baseline.breakdown_per_step.times(baseline.scale.parallelism)
    lost, estimated = losses(cell.scale, cell.steady.env_steps, TimeBreakdown.of_window(cell.steady.parts), reference, single)
    return ({}, False) if any(map(math.isnan, lost.values())) else (lost, estimated)
