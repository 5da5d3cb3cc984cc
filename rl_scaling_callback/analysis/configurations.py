"""The configurations of a study: each compared with the final baseline, over all of its runs. Numbers in, numbers out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rl_scaling_callback.analysis.runs import Run, Study
from rl_scaling_callback.formulas import NAN
from rl_scaling_callback.scale import Scale


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """One scale of a study, from one run or several.

    Attributes:
        scale: its scale; `scale.parallelism` is N.
        runs: its runs.
        seconds: mean duration of an iteration [s].
        sps: Σ env steps / Σ seconds over the steady windows of its runs [steps/s].
        sps_error: half-width of the 95 % interval of `sps` [%]; NaN where not known.
        between_runs: True when the errors are of the configuration (two runs or more), False when they speak of the
            iterations of its one run only.
        is_baseline: True for the reference.
        speedup: [×]; NaN without a baseline.
        speedup_error: half-width of its 95 % interval [%], the baseline's error included; NaN where not known.
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
        note: what a reader must know about it; else "".
    """

    scale: Scale
    runs: tuple[Run, ...]
    seconds: float
    sps: float
    sps_error: float
    between_runs: bool
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
    note: str = ""

    @property
    def loss(self) -> float:
        """100 − efficiency [% points]."""
        return 100 - self.efficiency


def configurations(study: Study, reference: Scale = Scale(1, 1)) -> tuple[Configuration, ...]:
    """Return the configurations of a study, by N, then by env runners, most first.

    Speedups are against the final baseline: the runs at the reference scale, else `study.baseline`. Without one they are NaN.
    """
    raise NotImplementedError
