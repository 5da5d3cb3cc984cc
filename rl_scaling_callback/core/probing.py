"""What probes say: the throughput of whole iterations at scales that no trial ran at. Numbers in, numbers out.

An iteration samples env steps and does the rest: learning, weights, bookkeeping. Only sampling depends on the scale, and a probe
measures it, so that with t(scale) seconds of sampling per env step

    SPS(scale) = 1 / (t(scale) + rest per env step + rest per round / env steps per round(scale))

On-policy algorithms (PPO) learn from a batch of one size, so their rest goes with the env steps. Off-policy ones (DQN, SAC) learn
once a round, and a round is as many env steps as the scale samples in one go: their rest goes with the rounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median, median_low

from rl_scaling_callback.core.scale import Scale


@dataclass(frozen=True, slots=True)
class Probe:
    """One measurement of sampling at one scale.

    Attributes:
        scale: env runners and envs per env runner that sampled.
        round: the round that it belongs to; all scales are measured once in each.
        env_steps: env steps of all env runners together.
        seconds: how long the Algorithm's process waited for them.
        busy: how long each env runner was in `sample()` [s].
        excess: the part of `seconds` that is there only because a probe's calls are shorter than the algorithm's: each call costs
            something that doesn't depend on its length.
    """

    scale: Scale
    round: int
    env_steps: float
    seconds: float
    busy: tuple[float, ...]
    excess: float = 0.0

    @property
    def seconds_per_step(self) -> float:
        """Sampling per env step, as in the algorithm's own, longer calls [s]."""
        return (self.seconds - self.excess) / self.env_steps

    @property
    def busy_per_step(self) -> float:
        """Time in `sample()` of the typical env runner, the lower median, per env step of all of them [s]."""
        return median_low(self.busy) / self.env_steps

    @property
    def longest_per_step(self) -> float:
        """Time in `sample()` of the env runner that took longest, per env step of all of them [s]."""
        return max(self.busy) / self.env_steps


@dataclass(frozen=True, slots=True)
class Rest:
    """What an iteration does besides sampling.

    Attributes:
        per_step: seconds per env step.
        per_round: seconds per round of the algorithm; 0 for one that learns from batches of one size.
        steps_per_round: env steps of a round at a scale.
    """

    per_step: float
    per_round: float
    steps_per_round: Callable[[Scale], float]

    @classmethod
    def of_iteration(
        cls, seconds: float, env_steps: float, probe: float, scale: Scale, steps_per_round: Callable[[Scale], float]
    ) -> Rest:
        """Return what is left of an iteration when the sampling that a probe predicts for it is taken off.

        The prediction for the iteration's own scale is then exact, and what a probe can't see, such as weights that a sample waits
        for, is in the rest of every scale.

        Args:
            seconds: duration of the iteration, or of several.
            env_steps: their env steps.
            probe: seconds of sampling per env step by probes at the iteration's scale.
            scale: the iteration's scale.
            steps_per_round: env steps of a round at a scale; infinite for an algorithm whose rest goes with the env steps.
        """
        rest, steps = seconds / env_steps - probe, steps_per_round(scale)
        return cls(rest, 0.0, steps_per_round) if math.isinf(steps) else cls(0.0, rest * steps, steps_per_round)

    def sps(self, scale: Scale, seconds_per_step: float) -> float:
        """Return the env steps per second of whole iterations at `scale`, where sampling takes `seconds_per_step`."""
        return 1 / (seconds_per_step + self.per_step + self.per_round / self.steps_per_round(scale))


def seconds_per_step(probes: Iterable[Probe]) -> dict[Scale, float]:
    """Return sampling per env step of each scale [s], the median over rounds."""
    times: dict[Scale, list[float]] = {}
    for probe in probes:
        times.setdefault(probe.scale, []).append(probe.seconds_per_step)
    return {scale: median(measured) for scale, measured in times.items()}
