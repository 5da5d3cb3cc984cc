"""Compares trials with their baseline."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from rl_scaling_callback.core import formulas
from rl_scaling_callback.core.attribution import TimeBreakdown
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.trial import Resources

_LARGEST_STEP_DIFFERENCE: Final = 0.1


def same_steps(here: float, there: float) -> bool:
    """Return whether two trials collect about the same number of env steps per iteration, as a fair comparison requires.

    RLlib rounds fragments up, so configurations differ by a few percent. Up to 10 % is tolerated.
    """
    return abs(formulas.ratio(here, there) - 1) <= _LARGEST_STEP_DIFFERENCE


class ReferenceFigures(NamedTuple):
    """What the reference takes for the work of an iteration or a window; NaN if unknown.

    Attributes:
        sps_per_env: SPS of the reference divided by its parallelism [steps/s], the denominator of speedups. A reference larger than
            1r×1e is taken to scale perfectly up to its own size: its speedup is N and its efficiency 100 %. This is the usual
            convention for problems too large for one processor.
        comparable: 1.0 if workload, hardware and steps match; 0.0 if they don't, NaN if there is nothing to compare with.
        breakdown: its time per env step by phase, multiplied by its parallelism [s].
        one_runner: busy time of one env runner with as many envs as the trial's (1r×e), per env step [s].
    """

    sps_per_env: float = NAN
    comparable: float = NAN
    breakdown: TimeBreakdown = TimeBreakdown.of_window({})
    one_runner: float = NAN


NOT_COMPARABLE: Final = ReferenceFigures(comparable=0.0)


def compare(env_steps: float, seconds: float, scale: Scale, baseline_sps: float, resources: Resources) -> dict[str, Any]:
    """Return the values by schema key that follow from an iteration's env steps and seconds, and `ReferenceFigures.sps_per_env`."""
    n = scale.parallelism
    sps = formulas.steps_per_second(env_steps, seconds)
    speedup = formulas.speedup(sps, baseline_sps)
    efficiency = formulas.efficiency(speedup, n)
    return {
        "sps": sps,
        "env_steps": env_steps,
        "parallelism": float(n),
        "baseline_sps": baseline_sps,
        "speedup": speedup,
        "efficiency": efficiency,
        "gap": formulas.gap(speedup, n),
        "serial_fraction": formulas.serial_fraction(speedup, n),
        "band": formulas.band(efficiency),
        "core_efficiency": formulas.core_efficiency(speedup, scale.num_env_runners, resources.cores),
        "sps_per_cpu": formulas.ratio(sps, resources.cpus),
    }
