"""What probes say: where the time of whole iterations goes at scales that no trial ran at. Numbers in, numbers out.

An iteration samples env steps, learns, and sends new weights to the env runners. Sampling depends on the scale, and so does sending
weights; probes measure both. Learning doesn't: on-policy algorithms (PPO) learn from a batch of one size, as often at any scale.
Off-policy ones (DQN, SAC) learn once a round, and a round is as many env steps as the scale samples in one go: for equal env steps
they learn the more often the smaller the scale. With t and w for the times of sampling and of sending weights, and u for the number
of updates, an iteration that spends S on sampling, W on weights and L on the rest takes, at another scale, for as many env steps

    S · t′/t + W · w′/w · u′/u + L · u′/u
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median_low

from rl_scaling_callback.core.attribution import TimeBreakdown
from rl_scaling_callback.core.scale import Scale


@dataclass(frozen=True, slots=True)
class Probe:
    """One measurement of sampling at one scale.

    Attributes:
        scale: env runners and envs per env runner that sampled.
        round: the round that it belongs to; all scales are measured once in each.
        env_steps: env steps of all env runners together.
        seconds: how long the Algorithm's process waited for them, and stored what they sampled.
        busy: how long each env runner was in `sample()` [s].
        sync: how long it took the Algorithm's process to send new weights to them, once [s]; 0 where that was not measured.
        excess: the part of `seconds` that is there only because a probe's calls are shorter than the algorithm's: each call costs
            something that doesn't depend on its length.
    """

    scale: Scale
    round: int
    env_steps: float
    seconds: float
    busy: tuple[float, ...]
    excess: float = 0.0
    sync: float = 0.0

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
class Ratios:
    """How an iteration at one scale compares with one of as many env steps at another.

    Attributes:
        sample: of the sampling times.
        updates: of the numbers of learner updates; 1 for algorithms that learn from batches of one size.
        sync: of the times that sending new weights takes once; 1 where it is not known.
    """

    sample: float
    updates: float = 1.0
    sync: float = 1.0

    @classmethod
    def of(cls, probe: Probe, by: Probe, updates: float) -> Ratios:
        """Return those of one probe by another."""
        sync = probe.sync / by.sync if probe.sync > 0 and by.sync > 0 else 1.0
        return cls(probe.seconds_per_step / by.seconds_per_step, updates, sync)

    def apply(self, spent: TimeBreakdown) -> TimeBreakdown:
        """Return where the time goes at the one scale, from where it goes at the other."""
        sync = spent.sync * self.sync * self.updates
        return TimeBreakdown(spent.sample * self.sample, spent.learn * self.updates, sync, 0.0, spent.other * self.updates)
