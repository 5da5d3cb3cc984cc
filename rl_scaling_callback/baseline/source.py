"""What provides a trial's baseline: `BaselineTracker` (another trial), `GivenBaseline` (a number) or `ProbedBaseline` (probes)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from rl_scaling_callback.core.attribution import TimeBreakdown
from rl_scaling_callback.core.comparison import Counterpart
from rl_scaling_callback.core.steady import Steady

Warn = Callable[[str, str], None]
"""Takes a topic and a message; logs the first message of each topic."""


class BaselineSource(ABC):
    """Provides the baseline of one trial."""

    @property
    @abstractmethod
    def is_baseline(self) -> float:
        """1.0 if this trial is the reference, else 0.0."""

    @property
    @abstractmethod
    def source(self) -> str:
        """`trial`, `probe` or `given`; "" while there is no baseline."""

    @property
    @abstractmethod
    def error(self) -> float:
        """Half-width of its 95 % interval [%]; NaN if unknown."""

    @property
    @abstractmethod
    def age(self) -> float:
        """Seconds since it was measured; NaN if unknown."""

    @property
    def follows_drift(self) -> bool:
        """Whether it changes with the cost of the trial's env steps."""
        return False

    def observe(self, env_steps: float, spent: TimeBreakdown) -> bool:
        """Take note of an iteration of the trial; return whether earlier iterations were other work."""
        return False

    @abstractmethod
    def update(self, steady: Steady) -> None:
        """Look for a baseline, or publish one."""

    @abstractmethod
    def compare_with(self, steady: Steady, env_steps: float, breakdown: TimeBreakdown) -> Counterpart:
        """Return the reference to compare an iteration or a window with, given its env steps and time breakdown."""

    def take_seconds(self) -> float:
        """Return the seconds spent on measuring it since the last call."""
        return 0.0

    def end(self) -> None:  # noqa: B027
        """Release what it holds, and warn if no baseline was found by the end of the trial."""
