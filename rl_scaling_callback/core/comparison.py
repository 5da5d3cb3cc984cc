"""Compares an iteration, and the steady state so far, with the baseline. Numbers in, numbers out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from rl_scaling_callback.core import formulas
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import Steady

_LARGEST_STEP_DIFFERENCE: Final = 0.1


def same_steps(here: float, there: float) -> bool:
    """Return whether two trials collect about as many env steps an iteration: only then they compare fairly.

    RLlib rounds fragments up, so that configurations differ by a few percent; 10 % is the most that is allowed.
    """
    return abs(formulas.ratio(here, there) - 1) <= _LARGEST_STEP_DIFFERENCE


_RUNS_DIFFER_BY: Final = 1.25
"""Two runs of one configuration on a shared machine differed by more than 13 % in a quarter of cases: by less than this in 95 %."""


def disagree(here: Steady, there: Steady) -> bool:
    """Return whether two runs of one configuration differ by more than noise explains.

    Noise is what runs of one configuration differ by on a shared machine, and the 95 % interval of each, in quadrature on a log
    scale.
    """
    noise = [math.log(_RUNS_DIFFER_BY), *(math.log1p(each.error / 100) for each in (here, there) if each.error == each.error)]
    ratio = formulas.ratio(here.sps, there.sps)
    return ratio > 0 and abs(math.log(ratio)) > math.hypot(*noise)


@dataclass(frozen=True, slots=True)
class Resources:
    """What a trial runs on.

    Attributes:
        cores: logical cores of the hosts that its env runners run on; NaN where not known.
        cpus: CPUs that the trial holds in Ray's books; NaN where not known.
        machine_cores: logical cores of the one machine that all of its processes run on; NaN where they run on several, or share
            the machine's cores in a way that can't be told.
    """

    cores: float
    cpus: float
    machine_cores: float = NAN


def compare(
    *,
    env_steps: float,
    seconds: float,
    scale: Scale,
    baseline_sps: float,
    steady: Steady,
    steady_baseline_sps: float,
    resources: Resources,
) -> dict[str, float | str]:
    """Return the values of the contract that follow from one iteration, the steady state and the baseline.

    Args:
        env_steps: env steps of the iteration.
        seconds: its `time_this_iter_s`.
        scale: the trial's scale.
        baseline_sps: SPS of the reference per unit of its parallelism [steps/s]; NaN while there is none.
        steady: the trial's steady state so far.
        steady_baseline_sps: `baseline_sps` to compare the steady state with.
        resources: what the trial runs on.

    Returns:
        Values by key of the contract (see `keys`), NaN where not known.
    """
    n = scale.parallelism
    sps = formulas.steps_per_second(env_steps, seconds)
    speedup = formulas.speedup(sps, baseline_sps)
    efficiency = formulas.efficiency(speedup, n)
    steady_speedup = formulas.speedup(steady.sps, steady_baseline_sps)
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
        "steady/sps": steady.sps,
        "steady/speedup": steady_speedup,
        "steady/efficiency": formulas.efficiency(steady_speedup, n),
        "steady/error": steady.error,
        "steady/iterations": float(steady.iterations),
        "steady/converged": float(steady.converged),
        "core_efficiency": formulas.core_efficiency(speedup, scale.num_env_runners, resources.cores),
        "sps_per_cpu": formulas.ratio(sps, resources.cpus),
        "loss/total": formulas.loss(efficiency),
    }
