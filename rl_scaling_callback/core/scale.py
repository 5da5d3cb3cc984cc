"""The scale of a trial: how many env runners, and how many envs in each."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from operator import index
from typing import Any, Final

_SCALE_TEXT = re.compile(r"\s*(\d+)\s*r\s*[x×*]?\s*(\d+)\s*e\s*", re.IGNORECASE)

MAX_COUNT: Final = 1_000_000
"""Maximum number of env runners, and of envs per env runner: far beyond any cluster, but small enough to keep all values finite."""


@dataclass(frozen=True, slots=True, order=True)
class Scale:
    """Env runners × envs per env runner, written `8r×2e`.

    Attributes:
        num_env_runners: number of env runners; 0 to sample in the Algorithm's process.
        num_envs_per_env_runner: number of envs in each. By default RLlib steps them one after another.
        parallelism: N = max(1, runners) × envs per runner.

    Raises:
        ValueError: there are fewer than 0 runners or 1 env per runner, or more than `MAX_COUNT` of either.
    """

    num_env_runners: int
    num_envs_per_env_runner: int
    parallelism: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        for name, least in (("num_env_runners", 0), ("num_envs_per_env_runner", 1)):
            count = index(getattr(self, name))  # grids often come from NumPy, whose integers JSON can't serialise
            if not least <= count <= MAX_COUNT:
                raise ValueError(f"{name} is {count!r}; allowed are whole numbers from {least} to {MAX_COUNT:,}")
            object.__setattr__(self, name, count)
        # A field, not a property: it is read in every iteration of every trial.
        object.__setattr__(self, "parallelism", self.samplers * self.num_envs_per_env_runner)

    @property
    def samplers(self) -> int:
        """Number of processes that sample: the env runners, or the Algorithm's process if there are none."""
        return max(1, self.num_env_runners)

    @property
    def cpus(self) -> float:
        """CPUs that a trial takes by default: one for the Algorithm and one for each env runner."""
        return 1.0 + self.num_env_runners

    @property
    def slug(self) -> str:
        """The scale in plain ASCII, for file names: `8r2e`."""
        return f"{self.num_env_runners}r{self.num_envs_per_env_runner}e"

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of an `AlgorithmConfig` at this scale."""
        return {"num_env_runners": self.num_env_runners, "num_envs_per_env_runner": self.num_envs_per_env_runner}

    @property
    def code(self) -> str:
        """The settings as arguments: `num_env_runners=8, num_envs_per_env_runner=2`."""
        return ", ".join(f"{name}={number}" for name, number in self.settings.items())

    def __str__(self) -> str:
        return f"{self.num_env_runners}r×{self.num_envs_per_env_runner}e"

    @classmethod
    def parse(cls, text: str | Scale) -> Scale:
        """Return a scale, given or as text: `1r1e`, `1rx1e` and `1r×1e` are the same.

        Raises:
            ValueError: `text` is not a scale.
        """
        if isinstance(text, cls):
            return text
        match = _SCALE_TEXT.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise ValueError(f"scale is {text!r}; allowed are strings such as '1r1e' or '8r×2e' (runners, envs per runner)")
        return cls(int(match[1]), int(match[2]))


REFERENCE_SCALE: Final = Scale(1, 1)
"""The usual reference, 1r×1e."""
