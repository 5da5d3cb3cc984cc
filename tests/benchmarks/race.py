"""Measures how well and how fast a race finds the best configuration: `python tests/benchmarks/race.py`. Takes minutes.

Simulates sweeps on known surfaces of 12 to 20 configurations: with stragglers, saturation at the cores, and falling throughput. The
noise is that of shared machines: 5 % per probe, varying between configurations; a machine speed that drifts by a tenth within a
minute for all alike; occasionally a core stolen for half a second; and a remaining (learner) time known to 2 %.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from judge import regret

from rl_scaling_callback.analysis.choice import GOALS, Goal
from rl_scaling_callback.analysis.race import Outcome, Race
from rl_scaling_callback.core.scale import Scale

PROBE, TICK = 0.05, 0.05
DRIFT, DRIFT_LASTS = 0.08, 20.0
STOLEN_EVERY, STOLEN_FOR = 10.0, 0.5
REST_ERROR = 0.02


@dataclass(frozen=True)
class Surface:
    """Sampling time per env step of each configuration, time of the rest, and duration and noise of a probe."""

    sampling: Mapping[Scale, float]
    rest: float
    probe_seconds: float
    noise: Mapping[Scale, float]

    @property
    def sps(self) -> dict[Scale, float]:
        """The true throughput."""
        return {scale: 1 / (seconds + self.rest) for scale, seconds in self.sampling.items()}


def surface(rng: np.random.Generator) -> Surface:
    """Return a random surface on a random grid."""
    runners = ((1, 2, 4), (1, 2, 3, 4), (1, 2, 3, 4, 6), (1, 2, 4, 8))[rng.integers(4)]
    envs = ((1, 2, 4, 8), (1, 2, 4, 8), (1, 2, 4))[rng.integers(3 if len(runners) > 3 else 2)]
    fixed, share, cap = rng.uniform(0.02, 0.5), rng.uniform(0.2, 0.95), math.exp(rng.uniform(math.log(1.5), math.log(16)))
    c = (1 - fixed) * share
    b = 1 - fixed - c
    spread, slowing, law = rng.uniform(0.05, 0.4), rng.uniform(0, 0.02, size=2), rng.integers(5)
    sampling = {}
    for scale in (Scale(r, e) for r in runners for e in envs):
        r, e = scale.num_env_runners, scale.num_envs_per_env_runner
        step = b + c / e
        sampling[scale] = (
            step / r,
            step / r * (1 + spread * math.sqrt(2 * math.log(r))),
            step * max(1 / r, 1 / cap),
            step / r + (slowing[0] + slowing[1] / e) * (r - 1),
            step * (r**-4 + cap**-4) ** 0.25 + slowing[0] * (r - 1),
        )[law]
    noise = {scale: PROBE * math.exp(rng.normal(0, 0.3)) for scale in sampling}
    return Surface(sampling, fixed, rng.uniform(0.1, 0.2), noise)


class Machine:
    """Probes configurations on a machine whose speed drifts, and whose cores are stolen from time to time.

    Args:
        surface: the truth.
        rng: its random generator.
        lasting: standard deviation of additional noise of each configuration, which is correlated over a few rounds.
    """

    def __init__(self, surface: Surface, rng: np.random.Generator, lasting: float = 0.0) -> None:
        self.surface, self._rng, self._lasting = surface, rng, lasting
        self.seconds, self.drift, self._stolen_until, self._slower = 0.0, rng.normal(0, DRIFT), 0.0, 1.0
        self._own = {scale: rng.normal(0, lasting) for scale in surface.sampling}
        self.rest_error = math.exp(rng.normal(0, REST_ERROR))

    def probe(self, scale: Scale) -> float:
        """Return the sampling time per env step as measured by a probe [s]."""
        spent = factor = 0.0
        while spent < self.surface.probe_seconds:
            kept = math.exp(-TICK / DRIFT_LASTS)
            self.drift = kept * self.drift + self._rng.normal(0, DRIFT * math.sqrt(1 - kept**2))
            if self.seconds > self._stolen_until and self._rng.random() < TICK / STOLEN_EVERY:
                self._stolen_until = self.seconds + self._rng.exponential(STOLEN_FOR)
                self._slower = self._rng.uniform(1.2, 2.0)
            factor += TICK * math.exp(self.drift) * (self._slower if self.seconds < self._stolen_until else 1.0)
            spent += TICK
            self.seconds += TICK
        self._own[scale] = 0.8 * self._own[scale] + 0.6 * self._rng.normal(0, self._lasting)
        noise = math.exp(self._rng.normal(0, self.surface.noise[scale]) + self._own[scale])
        return self.surface.sampling[scale] * factor / spent * noise


def run(race: Race, machine: Machine, rng: np.random.Generator, most_rounds: int) -> tuple[Outcome, int]:
    """Run a race until it is over or has had `most_rounds`; return its outcome and the number of probes."""
    scales = [*machine.surface.sampling]
    rows: list[dict[Scale, float]] = []
    racing, drifts = set(scales), []
    while True:
        order = [scales[i] for i in rng.permutation(len(scales)) if scales[i] in racing]
        rows.append({scale: machine.probe(scale) for scale in order})
        drifts.append(machine.drift)
        seconds = np.array([[row.get(scale, math.nan) for scale in scales] for row in rows])
        # The rest is known at the machine's speed during the rounds, as in a sweep, which trains between rounds.
        rest = machine.surface.rest * math.exp(fmean(drifts)) * machine.rest_error
        outcome = race.outcome(scales, seconds, rest, REST_ERROR)
        if outcome.over or len(rows) >= most_rounds:
            return outcome, sum(map(len, rows))
        racing = set(scales) - outcome.out


def figures(goal: Goal, surfaces: list[Surface], most_rounds: int, lasting: float) -> dict[str, float]:
    """Return statistics of races for a goal. Each race is run twice; intervals are judged by the other run."""
    race, regrets, probes, repeats = Race(goal), [], [], []
    for seed, each in enumerate(surfaces):
        sps = each.sps
        known: list[dict[Scale, tuple[float, float]]] = []
        for repeat in range(2):
            rng = np.random.default_rng((seed, repeat))
            outcome, probed = run(race, Machine(each, rng, lasting), rng, most_rounds)
            probes.append(probed)
            regrets.append(regret(sps, outcome.choice, goal))
            known.append({c.scale: (math.log(c.speedup), math.log1p(c.speedup_error / 100)) for c in outcome.candidates})
        for mine, its in (known, known[::-1]):
            both = mine.keys() & its.keys() - {Scale(1, 1)}
            repeats += [abs(mine[scale][0] - its[scale][0]) <= mine[scale][1] for scale in both]
    return {
        "within 5 %": 100 * fmean(each <= 0.05 for each in regrets),
        "regret 99 %": 100 * float(np.quantile(regrets, 0.99)),
        "probes": fmean(probes),
        "holds repeat": 100 * fmean(repeats),
    }


def main() -> None:
    """Print the tables."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--surfaces", type=int, default=100)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--rounds", type=int, nargs="+", default=[5, 10, 20, 40], help="maximum number of rounds")
    options = arguments.parse_args()
    rng = np.random.default_rng(options.seed)
    grids = [surface(rng) for _ in range(options.surfaces)]
    for title, lasting in (
        ("Noise that changes from probe to probe", 0.0),
        ("3 % noise of each configuration that is correlated over some rounds", 0.03),
    ):
        print(f"\n{title}")
        for goal in GOALS.values():
            for most in options.rounds:
                found = figures(goal, grids, most, lasting)
                if goal is next(iter(GOALS.values())) and most == options.rounds[0]:
                    print(f"{'goal':<10}{'most rounds':>13}" + "".join(f"{name:>{len(name) + 2}}" for name in found))
                print(f"{goal.name:<10}{most:>13}" + "".join(f"{value:>{len(name) + 2}.1f}" for name, value in found.items()))


if __name__ == "__main__":
    main()
