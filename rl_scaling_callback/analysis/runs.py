"""The data of an experiment: its runs, grouped by workload, what was left out, and how much repeated runs vary."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from rl_scaling_callback.core.estimates import as_percent, student_t
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import Steady


class Iteration(NamedTuple):
    """One iteration of a run, as logged. A named tuple, since there may be a million and a dataclass is several times slower.

    Attributes:
        number: its number, from 1.
        env_steps: env steps sampled in it; NaN if unknown.
        seconds: its duration, without evaluation if that is known; NaN if unknown.
        parts: seconds of each of `attribution.RECORDED`, in that order; None if they were not measured.
        since_restore: its number since the trial was started or restored; NaN if unknown.
        exclusive: 1.0 if no other trial ran at the same time, 0.0 if one did, NaN if unknown.
        others: cores that other programs kept busy; NaN if unknown.
        learner_threads: those of the learner's torch, if the run tuned itself; NaN otherwise.
        healthy: env runners that RLlib considered healthy; NaN if unknown.
        cpu_utilisation: of its node [%]; NaN if unknown, as for the next two.
        ram_utilisation: of its node [%].
        vram_utilisation: of its fullest GPU [%].
        episode_return: mean return of the episodes that ended in it; NaN if unknown.
        lifetime_steps: env steps sampled up to its end; NaN if unknown.
        elapsed: training time up to its end [s]; NaN if unknown.
        lasting_return: the lowest `episode_return` from it to the last iteration (see `returns.lasting`); NaN if unknown.
    """

    number: int
    env_steps: float
    seconds: float
    parts: tuple[float, ...] | None = None
    since_restore: float = NAN
    exclusive: float = NAN
    others: float = NAN
    learner_threads: float = NAN
    healthy: float = NAN
    cpu_utilisation: float = NAN
    ram_utilisation: float = NAN
    vram_utilisation: float = NAN
    episode_return: float = NAN
    lifetime_steps: float = NAN
    elapsed: float = NAN
    lasting_return: float = NAN


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The summary of one trial, of bounded size.

    Attributes:
        name: the trial's name. Untrusted text: escape it for display.
        scale: its scale.
        steady: its steady state; `parts` is empty for a trial without the callback.
        cores: logical cores of the hosts of its env runners; NaN if unknown.
        cpus: CPUs that Ray allocated to it; NaN if unknown.
        cpu_utilisation: mean CPU utilisation of its node over the steady window [%]; NaN if unknown.
        ram_utilisation: the largest RAM utilisation of its node [%]; NaN if unknown.
        vram_utilisation: the same for the memory of its fullest GPU [%].
        exclusive: 1.0 if no other trial ran at the same time in the steady window, 0.0 if one did, NaN if unknown.
        others: cores that other programs kept busy on its machine, mean over the steady window; NaN if unknown.
        baseline_sps: SPS of the baseline probed in it, over its steady window and per unit of parallelism [steps/s]; NaN if none
            was.
        baseline_error: half-width [%] of the 95 % interval of that baseline; NaN if unknown.
        batch: the batch size to which RLlib rounds its env steps per iteration up; NaN if its steps don't follow from one.
        samples: its iterations, thinned to a few hundred.
        threads_compared: whether numbers of threads for its learner were compared.
        notes: caveats about it, for readers.
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
    baseline_sps: float = NAN
    baseline_error: float = NAN
    batch: float = NAN
    samples: tuple[Iteration, ...] = ()
    threads_compared: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Study:
    """The runs of one workload, which are comparable.

    Attributes:
        title: a title for readers: `"PPO on HalfCheetah-v5"`.
        runs: its runs.
        baseline: a baseline from outside the experiment, with a note on its source; None to use the runs at the reference
            scale, or at the smallest one if there are none.
        facts: what all its runs have in common, as texts for readers: algorithm, env, batch size, CPU, versions.
        phases_overlap: True if sampling overlaps learning (APPO, IMPALA). The parts of its runs are then those of the env runners'
            time, and unknown if their waits are.
        steps_vary: True if the env steps of iterations vary or were not recorded, so that only throughputs can be compared.
        gpus: names of the GPUs that its runs use, "" for an unnamed one; empty if they use none, None if unknown.
        from_probes: True if each run is an iteration of a configuration as estimated by a sweep, whose error is that of its
            throughput relative to the others.
    """

    title: str
    runs: tuple[Run, ...]
    baseline: Run | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    phases_overlap: bool = False
    steps_vary: bool = False
    gpus: tuple[str, ...] | None = None
    from_probes: bool = False


class LeftOut(NamedTuple):
    """A trial, configuration, row or file that was left out, and why. Both texts are untrusted: escape them for display."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Experiment:
    """Everything that was read from one source.

    Attributes:
        source: the folder, URI or file.
        studies: one per workload, the one with the most scales first.
        left_out: what was left out, with the reasons.
        notes: sentences on how it was read: assumptions, and what tells its studies apart.
    """

    source: str
    studies: tuple[Study, ...]
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()


USUAL_STD: Final = 0.092
"""Standard deviation of ln SPS between runs of one configuration on shared virtual machines, in excess of the noise within runs.

Calibrated on the three grids under tests/data/grids (237 runs of 60 configurations), less the mean of each round through a grid;
for the individual grids it is 0.083, 0.093 and 0.104. `tests/benchmarks/coverage.py` computes these values.
"""

USUAL_LEVEL: Final = 0.07
"""Standard deviation of the means of those rounds. All configurations share it, so it cancels in their ratios."""

USUAL_DOF: Final = 10.0
"""Degrees of freedom of both priors, so that a few more repeats outweigh them.

Smyth's estimator for the three grids, from how much more the variances of whole runs differ between them (0.094², 0.095² and
0.146²) than expected by chance.
"""


@dataclass(frozen=True, slots=True)
class Noise:
    """The variation between runs of one configuration; by default the usual one, as long as no run was repeated.

    It gives 95 % intervals for repeated measurements, the meaning of ± throughout the report. The variance of one run's ln SPS is
    v = k · (s² + w²), where s² is the usual variance between runs and w² that of the mean of its iterations. If runs were repeated,
    k is estimated from their deviations from each configuration's mean, pooled over configurations and shrunk towards 1 with a
    prior worth a few degrees of freedom. Without repeats k is 1. A mean of m runs has the variance v/m, and so has the mean of m
    further runs: their difference is within t · √(2v/m) at 95 %. A ratio to a baseline adds the variance of the baseline.

    Source: Smyth, Stat. Appl. Genet. Mol. Biol. 3(1), 2004 (moderated t); Hahn and Meeker, "Statistical Intervals", 1991, §4.4
    (interval for the mean of further observations).

    Attributes:
        factor: k, relative to the usual variance.
        dof: its degrees of freedom.
        from_repeats: True if it was estimated from repeated runs.
        from_probes: True if the error of a run is already that of its throughput relative to the others, as estimated by a sweep.
    """

    factor: float = 1.0
    dof: float = USUAL_DOF
    from_repeats: bool = False
    from_probes: bool = False

    @classmethod
    def of(cls, groups: Iterable[Sequence[Run]]) -> Noise:
        """Return the noise estimated from the runs of each configuration."""
        squares, dof = 0.0, 0
        for same in groups:
            steady = [run.steady for run in same if run.steady.sps > 0]
            if len(steady) < 2:
                continue
            weights = np.array([1 / _usual(each) for each in steady])
            logs = np.log([each.sps for each in steady])
            squares += float(weights @ (logs - np.average(logs, weights=weights)) ** 2)
            dof += len(steady) - 1
        return cls((USUAL_DOF + squares) / (USUAL_DOF + dof), USUAL_DOF + dof, from_repeats=dof > 0)

    @property
    def level(self) -> float:
        """Variance of ln SPS that all configurations share, so that it cancels in ratios: machines are faster at some times."""
        return self.factor * USUAL_LEVEL**2

    def variance(self, steady: Steady) -> float:
        """Return the variance of ln SPS of one run; NaN if it can be estimated neither from iterations nor from repeats."""
        if self.from_probes:
            return 0.5 * variance_of(steady.error, self.dof)  # the error is that of a repeat
        is_known = steady.iterations > 0 and (self.from_repeats or within(steady) >= 0)
        return self.factor * _usual(steady) if is_known else NAN

    def error(self, variance: float) -> float:
        """Return the half-width [%] of the 95 % interval for a repeat of a figure, given the variance of its logarithm."""
        return as_percent(student_t(self.dof) * math.sqrt(2 * variance))


PROBED: Final = Noise(dof=math.inf, from_repeats=True, from_probes=True)
"""The noise of figures estimated from the rounds of a sweep."""


def variance_of(error: float, dof: float = math.inf) -> float:
    """Return the variance of the logarithm of a figure whose 95 % interval has the half-width `error` [%]."""
    return (math.log1p(error / 100) / student_t(dof)) ** 2


def within(steady: Steady) -> float:
    """Return the variance of ln SPS within a run, from its iterations; NaN if unknown."""
    return variance_of(steady.error, steady.iterations - 1) if steady.iterations > 1 else NAN


def _usual(steady: Steady) -> float:
    of_iterations = within(steady)
    return USUAL_STD**2 + (0.0 if math.isnan(of_iterations) else of_iterations)
