"""The data of an experiment: its runs, grouped by workload, and what was left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

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
        steps_in_turn: False if sub-envs step in parallel or as one vectorised env.
        timed_iterations: True if iterations have a fixed duration, so that their steps vary.
        gpus: names of the GPUs that its runs use, "" for an unnamed one; empty if they use none, None if unknown.
        swept: True if each run is an iteration of a configuration as estimated by a sweep, whose error is that of its throughput
            relative to the others.
    """

    title: str
    runs: tuple[Run, ...]
    baseline: Run | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    phases_overlap: bool = False
    steps_in_turn: bool = True
    timed_iterations: bool = False
    gpus: tuple[str, ...] | None = None
    swept: bool = False


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
