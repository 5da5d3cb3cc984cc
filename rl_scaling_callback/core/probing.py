"""Probes, and what they tell of an iteration at another scale.

An iteration samples env steps, learns, and sends new weights to the env runners. The times of sampling and of sending weights
depend on the scale, and probes measure both. An update is taken to last as long at any scale; sweeps and autotune, which train at
several, fit how it depends on the scale (`analysis.probe_rounds`). On-policy algorithms (PPO) learn from batches of a
fixed size, equally often at any scale. Off-policy algorithms (DQN, SAC) learn once per sampling round, and a round has more env
steps at larger scales: for the same number of env steps, they learn more often at smaller scales. Let t and w be the times of
sampling and of sending weights, and u the number of updates. An iteration that spends S on sampling, W on weights and L on the rest
takes, at another scale and for as many env steps,

    S · t′/t + W · w′/w · u′/u + L · u′/u

Env resets are too rare for short probes, and may take longer than all of a probe's steps. So probes exclude them, and the trial's
own iterations measure them: of S, the env runners' resets take R (they reset at the same time), and altogether Z. At another scale
with r′ env runners, S becomes (S − R) · t′/t + Z/r′.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median_low
from typing import Final

from rl_scaling_callback.core.scale import Scale

DISAGREE: Final = 2.0
"""Probes and iterations of the same scale whose sampling times have a larger ratio don't do the same work. A smaller one may be
noise: the speed of a shared machine was seen to change by 1.55× within seconds."""


class ProbeError(RuntimeError):
    """A scale can't be probed in this trial. The message gives the reason and an alternative. Training is not affected."""


class ProbeTimeoutError(ProbeError):
    """Not even one round of probes was complete within the time limit."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One measurement of sampling at one scale, without env resets.

    Attributes:
        scale: env runners and envs per env runner that sampled.
        env_steps: env steps of all env runners together.
        seconds: time the Algorithm's process waited for the samples and stored them.
        busy: time of each env runner in `sample()` [s].
        sync: time to send new weights to the env runners once [s]; 0 if not measured.
        excess: the part of `seconds` caused by the probe's shorter calls: each call has a fixed overhead.
    """

    scale: Scale
    env_steps: float
    seconds: float
    busy: tuple[float, ...]
    excess: float = 0.0
    sync: float = 0.0

    @property
    def seconds_per_step(self) -> float:
        """Sampling time per env step, corrected to the algorithm's longer calls [s]."""
        return (self.seconds - self.excess) / self.env_steps

    @property
    def busy_per_step(self) -> float:
        """Time of the typical (lower median) env runner in `sample()`, per env step of all env runners [s]."""
        return median_low(self.busy) / self.env_steps

    @property
    def longest_per_step(self) -> float:
        """Time of the slowest env runner in `sample()`, per env step of all env runners [s]."""
        return max(self.busy) / self.env_steps
