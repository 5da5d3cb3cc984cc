"""The facts about a trial that are fixed before its first iteration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.workload import Workload


@dataclass(frozen=True, slots=True)
class Resources:
    """The resources of a trial; NaN if unknown.

    Attributes:
        cores: logical cores of the hosts that its env runners run on.
        cpus: CPUs that Ray has allocated to the trial.
        machine_cores: logical cores of the machine if all processes of the trial run on the same one; NaN if they don't, or if
            it is unclear how they share its cores.
    """

    cores: float = NAN
    cpus: float = NAN
    machine_cores: float = NAN


@dataclass(frozen=True, slots=True)
class Trial:
    """What a trial runs, and on what.

    Attributes:
        name: its name, unique across experiments.
        scale: its scale.
        workload: its workload.
        resources: its resources.
        provenance: where its measurements come from, for readers of baseline files.
        overlaps: whether sampling overlaps learning (IMPALA, APPO).
        steps_in_turn: whether env runners step their sub-envs one after another.
        steps_vary: whether env steps per iteration may differ between comparable trials, as in iterations of fixed duration.
    """

    name: str
    scale: Scale
    workload: Workload
    resources: Resources = field(default_factory=Resources)
    provenance: Mapping[str, str] = field(default_factory=dict)
    overlaps: bool = False
    steps_in_turn: bool = True
    steps_vary: bool = False
