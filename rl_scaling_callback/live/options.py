"""The options of `ScalingCallback`, validated when the callback is created."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rl_scaling_callback.analysis.goals import GOALS, Goal
from rl_scaling_callback.core.checks import at_least, non_empty, positive
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import SteadyRule


@dataclass(frozen=True, slots=True)
class Options:
    """The user's options; `ScalingCallback` describes them.

    Raises:
        ValueError: an option is invalid.
    """

    baseline_dir: str | None
    baseline_sps: float | None
    reference: Scale
    workload: str | None
    probe: bool | None
    max_probe_seconds: float
    steady: SteadyRule
    autotune: Goal | None
    max_envs: int
    learner_threads: int | None

    def __post_init__(self) -> None:
        if self.baseline_sps is not None:
            positive("baseline_sps", self.baseline_sps)
            object.__setattr__(self, "baseline_sps", float(self.baseline_sps))
        if not (self.probe is None or isinstance(self.probe, bool)):
            raise ValueError(f"probe is {self.probe!r}; allowed are True, False and None")
        if not isinstance(self.steady, SteadyRule):
            raise ValueError(f"steady is {self.steady!r}; allowed is a SteadyRule, such as SteadyRule(warmup_iterations=3)")
        positive("max_probe_seconds", self.max_probe_seconds)
        at_least("max_envs", self.max_envs, 1)
        if self.learner_threads is not None:
            at_least("learner_threads", self.learner_threads, 1)
        if self.workload is not None:
            non_empty("workload", self.workload)
        conflicts = {  # without the value of baseline_dir: a URI may contain credentials
            "baseline_dir and baseline_sps": self.baseline_dir is not None and self.baseline_sps is not None,
            "baseline_dir and probe=True": self.baseline_dir is not None and self.probe,
            "baseline_dir and autotune": self.baseline_dir is not None and self.autotune is not None,
            "baseline_sps and probe=True": self.baseline_sps is not None and self.probe,
            "autotune and probe=False": self.autotune is not None and self.probe is False,
        }
        for both, are_given in conflicts.items():
            if are_given:
                raise ValueError(f"{both} are given; allowed is one of the two")


def place_of(baseline_dir: str | Path | None) -> str | None:
    """Return a directory or URI as text. Errors don't tell it, because a URI may contain credentials."""
    if baseline_dir is None:
        return None
    if not isinstance(baseline_dir, (str, Path)):
        raise ValueError(f"baseline_dir is of type {type(baseline_dir).__name__}; allowed are strings and Path")
    if not str(baseline_dir).strip():
        raise ValueError("baseline_dir is empty; allowed are a directory and a URI")
    return str(baseline_dir)


def scale_of(reference: str | Scale) -> Scale:
    """Return the scale of the reference."""
    try:
        return reference if isinstance(reference, Scale) else Scale.parse(reference)
    except ValueError as error:
        raise ValueError(f"reference: {error}") from None


def goal_of(autotune: bool | str | Goal) -> Goal | None:
    """Return the goal to tune for; None for none."""
    if autotune is False or isinstance(autotune, Goal):
        return autotune or None
    name = "fastest" if autotune is True else autotune
    if not isinstance(name, str) or name not in GOALS:
        raise ValueError(f"autotune is {name!r}; allowed are True, False, a Goal and {', '.join(map(repr, GOALS))}")
    return GOALS[name]
