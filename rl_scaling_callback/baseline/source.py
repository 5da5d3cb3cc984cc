"""What provides a trial's baseline: `BaselineTracker` (another trial), `GivenBaseline` (a number) or `ProbedBaseline` (probes)."""

from __future__ import annotations

from typing import Final, NamedTuple

from rl_scaling_callback.core.attribution import TimeBreakdown
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import Steady


class Status(NamedTuple):
    """What is known about a baseline; NaN if unknown.

    Attributes:
        source: `trial`, `probe` or `given`; "" while there is no baseline.
        is_baseline: whether this trial is the reference.
        error: half-width of its 95 % interval [%].
        age: seconds since it was measured.
        steps_per_iteration: env steps that a trial must have per iteration to be comparable; NaN if any number will do.
    """

    source: str = ""
    is_baseline: bool = False
    error: float = NAN
    age: float = NAN
    steps_per_iteration: float = NAN


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


class BaselineSource:
    """Provides the baseline of one trial. This one has none; others override what they provide."""

    _figures = ReferenceFigures()

    @property
    def status(self) -> Status:
        """What is known about the baseline now."""
        return Status()

    def observe(self, env_steps: float, times: TimeBreakdown) -> bool:
        """Take note of an iteration of the trial; return whether those before it did other work, and no longer count."""
        return False

    def update(self, steady: Steady) -> None:
        """Take note of the trial's steady state so far, to look for a baseline or to publish one."""

    def reference_for(self, env_steps: float, times: TimeBreakdown) -> ReferenceFigures:
        """Return what the reference takes for the work of an iteration or a window that took the trial as long as in `times`."""
        return self._figures

    def take_seconds(self) -> float:
        """Return the seconds spent on measuring it since the last call."""
        return 0.0

    def end(self) -> None:
        """Release what it holds, and warn if no baseline was found by the end of the trial."""


class GivenBaseline(BaselineSource):
    """A baseline given by the user: `sps` steps/s at the scale `reference`."""

    def __init__(self, sps: float, reference: Scale) -> None:
        self._figures = ReferenceFigures(sps / reference.parallelism, 1.0)

    @property
    def status(self) -> Status:
        """It is given, and nothing else is known."""
        return Status("given")
