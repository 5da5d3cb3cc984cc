"""Which configuration to take, and why.

Source: specification §7; method, "Steady state" for the three verdicts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from rl_scaling_callback.analysis.configurations import Configuration
from rl_scaling_callback.analysis.laws import Laws
from rl_scaling_callback.scale import Scale

Verdict = Literal["met", "not met", "undecided"]


@dataclass(frozen=True, slots=True)
class Goal:
    """What a configuration must reach; among those that do, the largest speedup wins.

    Attributes:
        name: its name.
        min_efficiency: least efficiency [%]; None for any.
        min_speedup: least speedup [×]; None for any.
        max_cpus: most CPUs that a trial may hold; None for any.
        max_ram_utilisation: most RAM utilisation of the node [%]; None for any.

    Raises:
        ValueError: a value out of its range.
    """

    name: str
    min_efficiency: float | None = None
    min_speedup: float | None = None
    max_cpus: float | None = None
    max_ram_utilisation: float | None = None


GOALS: Final[Mapping[str, Goal]] = {
    "save": Goal("save", min_efficiency=80),
    "balanced": Goal("balanced", min_efficiency=60, min_speedup=2.5),
    "fastest": Goal("fastest"),
}
"""The three goals of specification §7."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A choice with its reason.

    Attributes:
        goal: what was asked for.
        choice: the configuration to take; None where none can be recommended.
        verdict: whether the choice meets the goal's constraints; undecided where an interval straddles a threshold.
        reason: why it was chosen, in one or two sentences with numbers.
        runner_up: the next best; None where there is none.
        runner_up_reason: why it is only second; "".
        bottleneck: what limits the choice; "" where not known.
        measure_next: configurations worth measuring before deciding, with the predicted speedup, best first.
        code: lines of `AlgorithmConfig` code ready to paste; "" without a choice.
    """

    goal: Goal
    choice: Configuration | None
    verdict: Verdict
    reason: str
    runner_up: Configuration | None
    runner_up_reason: str
    bottleneck: str
    measure_next: tuple[tuple[Scale, float], ...]
    code: str


def recommend(configurations: Sequence[Configuration], goal: Goal, laws: Laws | None = None) -> Recommendation:
    """Return the recommendation for a goal; where no configuration meets it, `choice` comes nearest and the verdict says so."""
    raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the checklist of specification §7.

    Attributes:
        stage: `"before"`, `"choosing"` or `"after"`.
        text: what is asked.
        verdict: the answer; "undecided" where the data don't say.
        evidence: the numbers behind it, or what is missing.
    """

    stage: str
    text: str
    verdict: Verdict
    evidence: str


def checklist(configurations: Sequence[Configuration], recommendation: Recommendation, laws: Laws | None = None) -> tuple[Check, ...]:
    """Return the checklist of specification §7, filled in from data."""
    raise NotImplementedError
