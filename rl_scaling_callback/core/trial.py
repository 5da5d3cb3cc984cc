"""The facts about a trial that are fixed before its first iteration: its scale, resources, and workload."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.scale import Scale


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
class Workload:
    """Everything that must match for a fair comparison.

    Attributes:
        facts: names and values in plain JSON types.
        is_named: whether the user named it, and so answers for the comparison.
    """

    facts: Mapping[str, Any]
    is_named: bool = False

    @property
    def id(self) -> str:
        """16 hexadecimal digits, the same for equal facts in every process and on every node."""
        return hashlib.sha256(_canonical(self.facts).encode()).hexdigest()[:16]

    def differences(self, other: Workload) -> list[str]:
        """Return one line per fact that differs: `train_batch_size: 4096 here, 2048 there`, or `env_config.key differs`.

        The latter is for strings, of which only fingerprints are known (see `rllib.content`).
        """
        return [_difference(*each) for each in _apart("", self.facts, other.facts)]


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
        steps_vary: whether env steps per iteration may differ between comparable trials, as in iterations of fixed duration.
    """

    name: str
    scale: Scale
    workload: Workload
    resources: Resources = field(default_factory=Resources)
    provenance: Mapping[str, str] = field(default_factory=dict)
    overlaps: bool = False
    steps_vary: bool = False


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=repr)


def _apart(prefix: str, here: Any, there: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield the name and both values of each difference, descending into mappings on both sides."""
    if isinstance(here, Mapping) and isinstance(there, Mapping):
        for name in sorted(here.keys() | there.keys()):
            yield from _apart(f"{prefix}.{name}".lstrip("."), here.get(name), there.get(name))
    elif _canonical(here) != _canonical(there):
        yield prefix, here, there


def _difference(name: str, here: Any, there: Any, longest: int = 60) -> str:
    name = " ".join(name.split())
    texts = [_canonical(value) for value in (here, there)]
    if any('"#' in text for text in texts):
        return f"{name} differs"
    mine, its = (text if len(text) <= longest else text[: longest - 1] + "…" for text in texts)
    return f"{name}: {mine} here, {its} there"
