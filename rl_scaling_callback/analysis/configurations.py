"""The configurations of a study: each compared with the final baseline, over all of its runs. Numbers in, numbers out.

Intervals: see `noise`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Final

from rl_scaling_callback.analysis.interference import NOTABLE_CORES, undisturbed
from rl_scaling_callback.analysis.noise import PROBED, USUAL, Noise
from rl_scaling_callback.analysis.runs import Run, Study
from rl_scaling_callback.core import formulas
from rl_scaling_callback.core.attribution import LearnerLimits, TimeBreakdown, diagnosis, losses
from rl_scaling_callback.core.comparison import same_steps
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import Steady

SINGLE: Final = Scale(1, 1)
"""The usual reference: 1 env runner × 1 env."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """One scale of a study, from one run or several.

    Attributes:
        scale: its scale; `scale.parallelism` is N.
        runs: its runs, without those that others disturbed notably more (see `disturbance`).
        seconds: mean duration of an iteration [s].
        sps: Σ env steps / Σ seconds over the steady windows of its runs [steps/s].
        sps_error: half-width [%] of the 95 % interval of `sps` if it was measured again, with as many runs; NaN where not known.
        is_baseline: True for the reference.
        speedup: [×]; NaN without a baseline.
        speedup_error: the same of `speedup` if it and the baseline were measured again [%]; NaN where not known.
        efficiency: [%]; its relative error is `speedup_error`.
        band: name of the efficiency's band; "" when unknown.
        core_efficiency: speedup / min(runners, cores) × 100 [%].
        sps_per_cpu: [steps/s].
        cpus: CPUs that a trial of it holds; 1 + env runners where not recorded.
        losses: percent points of lost efficiency by cause (see `account.CAUSES`); empty where not known.
        losses_estimated: True when stepping and contention can't be told apart.
        diagnosis: one line: where the loss goes, and what helps; "" when unknown.
        cpu_utilisation: [%]; NaN where not known.
        ram_utilisation: [%]; NaN where not known.
        noise: by how much runs of one configuration differ.
        variance: variance of ln `sps` beside other configurations; NaN where not known.
        disturbed: True where other programs or trials got in the way of it or of the baseline: then its speedup decides nothing.
        note: what a reader must know about it; else "".
    """

    scale: Scale
    runs: tuple[Run, ...]
    seconds: float
    sps: float
    sps_error: float
    is_baseline: bool
    speedup: float
    speedup_error: float
    efficiency: float
    band: str
    core_efficiency: float
    sps_per_cpu: float
    cpus: float
    losses: Mapping[str, float] = field(default_factory=dict)
    losses_estimated: bool = False
    diagnosis: str = ""
    cpu_utilisation: float = NAN
    ram_utilisation: float = NAN
    noise: Noise = USUAL
    variance: float = NAN
    disturbed: bool = False
    note: str = ""

    @property
    def own_error(self) -> float:
        """Half-width of the 95 % interval of `sps` without what all configurations share, for comparing them [%]."""
        return self.sps_error if math.isnan(self.variance) else self.noise.error(self.variance)

    @property
    def loss(self) -> float:
        """100 − efficiency [% points]."""
        return 100 - self.efficiency

    @property
    def baseline_sps(self) -> float:
        """The SPS that its speedup is counted against [steps/s]; NaN without a baseline."""
        return formulas.ratio(self.sps, self.speedup)


def configurations(study: Study, reference: Scale = SINGLE) -> tuple[Configuration, ...]:
    """Return the configurations of a study, by N, then by env runners, most first.

    Speedups are against the final baseline: the runs at the reference scale, else `study.baseline`. Without one they are NaN.

    Args:
        study: runs of one workload.
        reference: scale of the reference; one larger than 1r×1e counts as scaling perfectly up to itself.
    """
    groups: dict[Scale, list[Run]] = defaultdict(list)
    for run in undisturbed(study.runs):
        groups[run.scale].append(run)
    noise = PROBED if study.probed else Noise.of(groups.values(), study.correction)
    cells = {scale: _Cell.of(runs, noise) for scale, runs in groups.items()}
    baseline = cells.get(reference)
    if baseline is None and study.baseline is not None:
        given = study.baseline.steady
        baseline = _Cell(study.baseline.scale, (), given, noise.variance(given))
    ordered = sorted(cells.values(), key=lambda cell: (cell.scale.parallelism, -cell.scale.num_env_runners))
    return tuple(_configuration(study, cell, cells, baseline, noise) for cell in ordered)


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
        """Env steps an iteration."""
        return formulas.ratio(self.steady.env_steps, self.steady.iterations)

    @property
    def breakdown_per_step(self) -> TimeBreakdown:
        return TimeBreakdown.of_window(self.steady.parts, self.steady.env_steps)


def pooled(windows: Sequence[Steady]) -> Steady:
    """Return the steady windows of several runs as one; its error is the one window's, or NaN where there are several."""
    if len(windows) == 1:
        return windows[0]
    env_steps, seconds = sum(window.env_steps for window in windows), sum(window.seconds for window in windows)
    names = set.intersection(*(set(window.parts) for window in windows))
    return Steady(
        sps=formulas.steps_per_second(env_steps, seconds),
        error=NAN,
        iterations=sum(window.iterations for window in windows),
        env_steps=env_steps,
        seconds=seconds,
        converged=all(window.converged for window in windows),
        settled=all(window.settled for window in windows),
        parts={name: sum(window.parts[name] for window in windows) for name in sorted(names)},
    )


def _configuration(study: Study, cell: _Cell, cells: Mapping[Scale, _Cell], baseline: _Cell | None, noise: Noise) -> Configuration:
    scale, steady, runs = cell.scale, cell.steady, cell.runs
    notes = [run.note for run in runs if run.note]
    notes += _disturbances(runs, left_out=sum(run.scale == scale for run in study.runs) - len(runs))
    speedup = speedup_error = NAN
    lost: Mapping[str, float] = {}
    estimated = False
    # Where only throughputs are known, they are comparable on their giver's word.
    steps_count = baseline is not None and not study.timed_iterations and cell.steps > 0 and baseline.steps > 0
    if baseline is not None and steps_count and not same_steps(cell.steps, baseline.steps):
        notes.append(f"{cell.steps:,.0f} env steps an iteration, {baseline.steps:,.0f} in the baseline's: not comparable")
    elif baseline is not None:
        speedup = formulas.speedup(steady.sps, baseline.steady.sps / baseline.scale.parallelism)
        variance = cell.variance + baseline.variance + _doubt(study, scale, baseline.scale)
        speedup_error = 0.0 if cell is baseline else noise.error(variance)
        if study.exclusive_phases or study.waits_are_known:
            lost, estimated = _losses(cell, cells, baseline)
    efficiency = formulas.efficiency(speedup, scale.parallelism)
    cpus = _mean([run.cpus for run in runs])
    cpus = 1.0 + scale.num_env_runners if math.isnan(cpus) else cpus
    return Configuration(
        scale=scale,
        runs=runs,
        seconds=formulas.ratio(steady.seconds, steady.iterations),
        sps=steady.sps,
        sps_error=noise.error(cell.variance + _doubt(study, scale) + noise.level),
        noise=noise,
        variance=cell.variance + _doubt(study, scale),
        is_baseline=cell is baseline,
        speedup=speedup,
        speedup_error=speedup_error,
        efficiency=efficiency,
        band=formulas.band(efficiency),
        core_efficiency=formulas.core_efficiency(speedup, scale.num_env_runners, _mean([run.cores for run in runs])),
        sps_per_cpu=formulas.ratio(steady.sps, cpus),
        cpus=cpus,
        losses=lost,
        losses_estimated=estimated,
        diagnosis=diagnosis(lost, LearnerLimits.of_window(steady.parts, steady.seconds)),
        cpu_utilisation=_mean([run.cpu_utilisation for run in runs]),
        ram_utilisation=max((run.ram_utilisation for run in runs if not math.isnan(run.ram_utilisation)), default=NAN),
        disturbed=any(run.exclusive == 0 or run.others > NOTABLE_CORES for run in (*runs, *(baseline.runs if baseline else ()))),
        note="; ".join(dict.fromkeys(notes)),
    )


def _doubt(study: Study, scale: Scale, other: Scale | None = None) -> float:
    """Return the variance of what may be left of the machine's speed in ln SPS, beside another scale's or that of the mean."""
    return 0.0 if study.correction is None else study.correction.doubt(scale, other) ** 2


def _disturbances(runs: Sequence[Run], left_out: int) -> Iterator[str]:
    """Yield what ran beside the runs, and how many were left out for it."""
    others = max((run.others for run in runs if run.others > NOTABLE_CORES), default=0.0)
    if any(run.exclusive == 0 for run in runs):
        yield "another trial ran on its node at the same time"
    elif others:
        yield f"other programs, or ones that its env starts, kept {others:.1f} cores busy"
    if left_out:
        yield f"{left_out} more run{'s' * (left_out > 1)} left out: other programs got in the way"


def _losses(cell: _Cell, cells: Mapping[Scale, _Cell], baseline: _Cell) -> tuple[Mapping[str, float], bool]:
    """Return the losses by cause, and whether they are estimated; nothing where the time of a part is not known."""
    alone = cells.get(Scale(1, cell.scale.num_envs_per_env_runner))
    single = NAN if alone is None else alone.breakdown_per_step.busy
    reference = baseline.breakdown_per_step.times(baseline.scale.parallelism)
    lost, estimated = losses(cell.scale, cell.steady.env_steps, TimeBreakdown.of_window(cell.steady.parts), reference, single)
    return ({}, False) if any(map(math.isnan, lost.values())) else (lost, estimated)


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return fmean(known) if known else NAN
