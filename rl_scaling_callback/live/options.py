"""The options of `ScalingCallback`, validated when the callback is created."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rl_scaling_callback.analysis.goals import GOALS, Goal
from rl_scaling_callback.core.checks import at_least, non_empty, positive
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import DEFAULT_RULE, SteadyRule

MAX_PROBE_SECONDS: Final = 10.0
MAX_ENVS: Final = 64
PROBE_SECONDS: Final = 0.1
"""Sampling time of a probe [s]: many short rounds, spread over time, are more precise than few long ones."""


@dataclass(frozen=True, slots=True)
class Options:
    """The user's options.

    Attributes:
        baseline_dir: directory or URI to keep baselines in; None for the experiment's folder.
        baseline_sps: the baseline as a number [steps/s]; None to measure it.
        reference: scale of the reference.
        workload: the user's name for the workload; None to derive it from config and hardware.
        probe: whether to measure the baseline inside the trial; None to do so where nothing else can provide it.
        max_probe_seconds: time limit of the probes at the start, including building their envs, and of each later round [s].
        steady: when a trial counts as steady.
        autotune: the goal to tune the trial for; None to leave it as configured.
        max_envs: largest number of envs per env runner that autotune may choose.
        learner_threads: threads of the learner's torch; None for Ray's default.

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
            if self.baseline_dir is not None:
                # Without its value: a URI may contain credentials.
                raise ValueError(f"baseline_sps is {self.baseline_sps!r}, and baseline_dir is given too; allowed is one of the two")
            if self.probe:
                raise ValueError(f"baseline_sps is {self.baseline_sps!r} and probe is True; allowed is one of the two")
        if not (self.probe is None or isinstance(self.probe, bool)):
            raise ValueError(f"probe is {self.probe!r}; allowed are True, False and None")
        if self.baseline_dir is not None and self.probe:
            raise ValueError("baseline_dir is given, and probe is True; allowed is one of the two")
        if not isinstance(self.steady, SteadyRule):
            raise ValueError(f"steady is {self.steady!r}; allowed is a SteadyRule, such as SteadyRule(warmup_iterations=3)")
        positive("max_probe_seconds", self.max_probe_seconds)
        at_least("max_envs", self.max_envs, 1)
        if self.learner_threads is not None:
            at_least("learner_threads", self.learner_threads, 1)
        if self.autotune is not None and self.probe is False:
            raise ValueError("autotune is on, and probe is False; allowed is one of the two: autotune needs probes")
        if self.autotune is not None and self.baseline_dir is not None:
            raise ValueError("autotune is on, and baseline_dir is given too; allowed is one of the two: it is no reference")
        if self.workload is not None:
            non_empty("workload", self.workload)

    @classmethod
    def of(
        cls,
        *,
        baseline_dir: str | Path | None = None,
        baseline_sps: float | None = None,
        reference: str | Scale = "1r1e",
        workload: str | None = None,
        probe: bool | None = None,
        max_probe_seconds: float = MAX_PROBE_SECONDS,
        steady: SteadyRule = DEFAULT_RULE,
        autotune: bool | str | Goal = False,
        max_envs: int = MAX_ENVS,
        learner_threads: int | None = None,
    ) -> Options:
        """Return the options converted to their internal types.

        Raises:
            ValueError: an option is invalid.
        """
        if baseline_dir is not None and not (isinstance(baseline_dir, (str, Path)) and str(baseline_dir).strip()):
            given = "empty" if isinstance(baseline_dir, str) else f"of type {type(baseline_dir).__name__}"
            raise ValueError(f"baseline_dir is {given}; allowed are a directory or URI as a string, or a Path")
        if not isinstance(reference, Scale):
            try:
                reference = Scale.parse(reference)
            except ValueError as error:
                raise ValueError(f"reference: {error}") from None
        if isinstance(autotune, bool):
            autotune = "fastest" if autotune else ""
        elif not (isinstance(autotune, Goal) or autotune in GOALS):
            raise ValueError(f"autotune is {autotune!r}; allowed are True, False, a Goal and {', '.join(map(repr, GOALS))}")
        return cls(
            baseline_dir=None if baseline_dir is None else str(baseline_dir),
            baseline_sps=baseline_sps,
            reference=reference,
            workload=workload,
            probe=probe,
            max_probe_seconds=max_probe_seconds,
            steady=steady,
            autotune=autotune if isinstance(autotune, Goal) else Goal.of(autotune) if autotune else None,
            max_envs=max_envs,
            learner_threads=learner_threads,
        )
