"""Chooses a configuration for a goal: the last word in sweeps and reports, but not for a trial that tunes itself (`live.tuner`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from rl_scaling_callback.analysis.configurations import Configuration
from rl_scaling_callback.analysis.goals import Goal, Standing, Verdict, combined, may_meet, standings
from rl_scaling_callback.core.steady import DEFAULT_RULE

INDIFFERENCE: Final = 0.02
"""Relative difference in speed that never justifies more CPUs."""

ENOUGH_ITERATIONS: Final = DEFAULT_RULE.warmup_iterations + DEFAULT_RULE.iteration_limit
"""Iterations after which more would hardly improve a trial's throughput estimate."""

TO_GET_A_BASELINE: Final = (
    f"Run a trial of the same workload with 1 env runner × 1 env for {ENOUGH_ITERATIONS} iterations, "
    "or give ScalingCallback probe=True, a baseline_dir or baseline_sps. A table needs a row of that scale."
)


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A choice and the reasons for it.

    Attributes:
        goal: the requested goal.
        measured: all configurations that it is based on.
        peers: the configurations as good as the choice (see `choose`), the choice first; empty if none can be recommended.
        ground: the reason for the choice: it is the fastest that meets the goal, or the cheapest tied with it; none meets the goal
            and it comes closest; its speedup is too noisy to tell, so it is a guess; there is no choice.
        verdict: whether the choice meets the goal's constraints; undecided if an interval straddles a threshold or there is no
            choice.
        runner_up: the next best; None if there is none.
    """

    goal: Goal
    measured: tuple[Configuration, ...]
    peers: tuple[Configuration, ...] = ()
    ground: Literal["fastest", "nearest", "guess", "none"] = "none"
    verdict: Verdict = "undecided"
    runner_up: Configuration | None = None

    @property
    def choice(self) -> Configuration | None:
        """The recommended configuration; None if none can be recommended."""
        return self.peers[0] if self.peers else None

    @property
    def standings(self) -> list[Standing]:
        """The choice judged by each constraint."""
        return standings(self.peers[0], self.goal) if self.peers else []

    @property
    def baseline(self) -> Configuration | None:
        """The configuration that is the baseline; None if it is none of those measured."""
        return next((each for each in self.measured if each.is_baseline), None)


def recommend(configurations: Sequence[Configuration], goal: Goal) -> Recommendation:
    """Return the recommendation for a goal; if no measured configuration meets it, the choice is the closest.

    `choose` makes the choice, from point estimates within `goals.tolerance`; intervals decide whether the verdict is "met" or
    "undecided". If the choice's speedup is too noisy, the choice is a guess and the verdict "undecided".
    """
    measured = tuple(configurations)
    needs_speedup = goal.min_efficiency is not None or goal.min_speedup is not None
    known = [each for each in measured if each.speedup > 0]
    if not (known or needs_speedup):
        known = [each for each in measured if each.sps > 0]
    if not known:
        return Recommendation(goal, measured)
    peers = choose(known, goal)
    choice = peers[0]
    # The speedup of the baseline is exactly 1, but whether others are faster may be unclear.
    rivals = [each for each in known if not each.is_baseline] if choice.is_baseline else [choice]
    is_guess = bool(rivals) and all(each.is_noisy for each in rivals)
    verdicts = [each.verdict for each in standings(choice, goal)]
    if any(run.exclusive == 0 for run in choice.runs):
        verdicts.append("undecided")
    # The baseline is an obvious alternative: it is the runner-up only if there is no other.
    others = [each for each in known if each is not choice]
    others = [each for each in others if not each.is_baseline] or others
    return Recommendation(
        goal,
        measured,
        peers=tuple(peers),
        ground="guess" if is_guess else "fastest" if may_meet(choice, goal) else "nearest",
        verdict="undecided" if is_guess else combined(verdicts),
        runner_up=choose(others, goal)[0] if others else None,
    )


def choose(candidates: Sequence[Configuration], goal: Goal) -> list[Configuration]:
    """Return the configurations tied with the fastest that meets the goal, the cheapest first, which is the one to choose.

    If none meets it, the same applies to those tied for the closest. A configuration is tied if it is slower, or further from the
    goal, by at most 2 %, or by what noise explains and at most 4 %. The cheapest has the fewest CPUs, then the smallest N. All
    `candidates`, at least one, have a throughput.
    """
    nearest = min(candidates, key=lambda each: (*shortfall(each, goal), -each.sps))
    pool = [each for each in candidates if _is_as_near(each, nearest, goal)]
    # Configurations with unknown figures, such as a time to return, rank behind the others.
    pool = [each for each in pool if not any(math.isnan(standing.reach) for standing in standings(each, goal))] or pool
    fastest = max(pool, key=lambda each: each.sps)
    equals = [each for each in pool if math.log(fastest.sps / each.sps) <= _slack(noise(each, fastest))]
    return sorted(equals, key=lambda each: (each.cpus, each.scale.parallelism, each.scale.num_env_runners, -each.sps))


def shortfall(configuration: Configuration, goal: Goal) -> tuple[float, float]:
    """Return by how much (as ln) a configuration exceeds the goal's CPUs, and by how much it lacks speed; 0 if it doesn't."""
    missed = [(each.figure == "cpus", -math.log(each.reach)) for each in standings(configuration, goal) if each.misses]
    return sum(lack for is_cpus, lack in missed if is_cpus), sum(lack for is_cpus, lack in missed if not is_cpus)


def noise(one: Configuration, other: Configuration) -> float:
    """Return the half-width of the 95 % interval of the difference between two throughputs, as ln (Welch); 0 if unknown.

    Throughputs rather than speedups, because all speedups share the baseline's error. A relative error is that of a repeat, whose
    variance is twice that of the figure.
    """
    return math.hypot(*(math.log1p(each.relative_error / 100) for each in (one, other) if each.relative_error > 0)) / math.sqrt(2)


def tied(one: Configuration, other: Configuration) -> bool:
    """Return whether two throughputs are equal within noise."""
    return abs(math.log(one.sps / other.sps)) <= noise(one, other)


def _slack(noise: float) -> float:
    return min(2 * INDIFFERENCE, max(INDIFFERENCE, noise))


def _is_as_near(each: Configuration, nearest: Configuration, goal: Goal) -> bool:
    """Return whether a configuration meets the goal as the nearest does, or is tied with it. CPUs outweigh any lack of speed."""
    (excess, lack), (least_excess, least_lack) = shortfall(each, goal), shortfall(nearest, goal)
    if least_excess == least_lack == 0:
        return excess == lack == 0
    # The shortfall from each missed threshold changes with the throughput.
    missed = sum(standing.misses and standing.figure != "cpus" for standing in standings(each, goal))
    return excess == least_excess and lack - least_lack <= _slack(missed * noise(each, nearest))
