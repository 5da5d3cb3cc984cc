"""What an experiment leaves behind: its runs, sorted by workload, and what had to be left out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import Steady
from rl_scaling_callback.core.workload import Workload


class Iteration(NamedTuple):
    """One iteration of a run, as logged. There may be a million: a named tuple is made several times faster than a dataclass.

    Attributes:
        number: its number, from 1.
        env_steps: env steps sampled in it; NaN where not known.
        seconds: its duration, evaluation left out where known; NaN where not known.
        parts: seconds of each of `attribution.RECORDED`; None where they were not measured.
        measured: True when it is in the steady window; False for warm-up, and before that was decided.
        since_restore: its number since the trial was started or restored; NaN where not known.
        exclusive: 1.0 when no other trial ran beside it, 0.0 when one did, NaN where not known.
        others: cores that other programs kept busy; NaN where not known.
        healthy: env runners that RLlib held for healthy; NaN where not known.
        cpu_utilisation: of its node [%]; NaN where not known.
        ram_utilisation: of its node [%]; NaN where not known.
        vram_utilisation: of its fullest GPU [%]; NaN where not known.
        episode_return: mean return of the episodes that ended in it; NaN where not known.
        lifetime_steps: env steps sampled up to its end; NaN where not known.
    """

    number: int
    env_steps: float
    seconds: float
    parts: tuple[float, ...] | None = None
    measured: bool = False
    since_restore: float = NAN
    exclusive: float = NAN
    others: float = NAN
    healthy: float = NAN
    cpu_utilisation: float = NAN
    ram_utilisation: float = NAN
    vram_utilisation: float = NAN
    episode_return: float = NAN
    lifetime_steps: float = NAN


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One trial, summed up in bounded memory.

    Attributes:
        name: the trial's name. Text of a stranger: escape it where it is shown.
        scale: its scale.
        steady: its steady state; `parts` is empty for a trial without the callback.
        cores: logical cores of the hosts of its env runners; NaN where not known.
        cpus: CPUs that it held in Ray's books; NaN where not known.
        cpu_utilisation: mean CPU utilisation of its node over the steady window [%]; NaN where not known.
        ram_utilisation: the largest RAM utilisation of its node [%]; NaN where not known.
        vram_utilisation: the same of the memory of its fullest GPU.
        exclusive: 1.0 when no other trial ran beside it in the steady window, 0.0 when one did, NaN where not known.
        others: cores that other programs kept busy on its machine, mean over the steady window; NaN where not known.
        samples: its iterations, thinned to a few hundred.
        note: what a reader must know about it, such as "ended with an error after 7 iterations"; else "".
    """

    name: str
    scale: Scale
    steady: Steady
    cores: float = NAN
    cpus: float = NAN
    cpu_utilisation: float = NAN
    ram_utilisation: float = NAN
    vram_utilisation: float = NAN
    exclusive: float = NAN
    others: float = NAN
    samples: tuple[Iteration, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True)
class SpeedCorrection:
    """How far the machine's speed differed between runs, and what that explains (see `speed_correction`).

    Attributes:
        slope: by how many percent a run is slower where its learner is slower by one.
        measured: standard deviation of ln SPS between runs of one configuration, as measured; NaN where it is not known, and the
            slope is taken to be the usual one.
        corrected: the same of what the machine's speed does not explain.
        centre: ln of env runners and of envs per runner, means over the runs.
        trend: covariance of what may be left of the machine's speed as a trend of ln T over the two logarithms: that over env
            runners, of the two, and that over envs per runner.
    """

    slope: float
    measured: float = NAN
    corrected: float = NAN
    centre: tuple[float, float] = (0.0, 0.0)
    trend: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def is_estimated(self) -> bool:
        """Whether the slope was estimated from the runs."""
        return not math.isnan(self.measured)

    def doubt(self, scale: Scale, other: Scale | None = None) -> float:
        """Return the standard deviation of what that trend makes of ln SPS, beside another scale's or that of the centre."""
        here, there = _logs(scale), self.centre if other is None else _logs(other)
        r, e = here[0] - there[0], here[1] - there[1]
        return math.sqrt(max(0.0, r * r * self.trend[0] + 2 * r * e * self.trend[1] + e * e * self.trend[2]))


def _logs(scale: Scale) -> tuple[float, float]:
    return math.log(max(1, scale.num_env_runners)), math.log(scale.num_envs_per_env_runner)


@dataclass(frozen=True, slots=True)
class Study:
    """The runs of one workload: what may be compared.

    Attributes:
        title: what was run, for the reader: `"PPO on HalfCheetah-v5"`.
        runs: its runs.
        baseline: a baseline from outside the experiment, under the name of where it comes from; None to use the runs at the
            reference scale.
        facts: what is equal in all its runs, as texts, for the page's provenance: algorithm, env, batch size, CPU, versions.
        exclusive_phases: False where phases overlap (APPO, IMPALA).
        waits_are_known: True where the env runners told what they waited for, so that losses are known all the same.
        timed_iterations: True where an iteration lasts a given time, so that its steps vary.
        correction: what its runs were corrected for; None where they are as measured.
        workload: what is equal in all its runs, as it is compared; None where it is not known.
        gpus: names of the GPUs that its runs use, "" for one that is not named; empty where they use none, None where not known.
        probed: True where a run is what probes say of a configuration, and its error that of its speedup.
    """

    title: str
    runs: tuple[Run, ...]
    baseline: Run | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    exclusive_phases: bool = True
    waits_are_known: bool = False
    timed_iterations: bool = False
    correction: SpeedCorrection | None = None
    workload: Workload | None = None
    gpus: tuple[str, ...] | None = None
    probed: bool = False


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something of an experiment that is in no study.

    Attributes:
        name: the trial or file.
        reason: why, and what to do where something can be done.
    """

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Experiment:
    """Everything that was read from one place.

    Attributes:
        source: the folder, URI or file.
        studies: one for each workload, the one with most runs first.
        left_out: what is in none of them, with the reason.
    """

    source: str
    studies: tuple[Study, ...]
    left_out: tuple[LeftOut, ...] = ()
