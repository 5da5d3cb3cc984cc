"""Recommends a configuration for a goal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from rl_scaling_callback.analysis.choice import choose
from rl_scaling_callback.analysis.configurations import Configuration
from rl_scaling_callback.analysis.goals import Goal, Standing, Verdict, combined, standings
from rl_scaling_callback.core.steady import DEFAULT_RULE

ENOUGH_ITERATIONS: Final = DEFAULT_RULE.warmup_iterations + DEFAULT_RULE.iteration_limit
"""Iterations after which more would hardly improve a trial's throughput estimate."""

TO_GET_A_BASELINE: Final = (
    f"Run a trial of the same workload with 1 env runner × 1 env for {ENOUGH_ITERATIONS} iterations, "
    "or give ScalingCallback probe=True, a baseline_dir or baseline_sps. A table needs a row of that scale."
)

Ground = Literal["fastest", "nearest", "guess", "none"]
"""The reason for a choice: it is the fastest that meets the goal (or the cheapest tied with it); none meets the goal and it comes
closest; its speedup is too noisy to tell, so it is a guess; there is no choice."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A choice and the reasons for it.

    Attributes:
        goal: the requested goal.
        choice: the recommended configuration; None if none can be recommended.
        verdict: whether the choice meets the goal's constraints; undecided if an interval straddles a threshold or there is no
            choice.
        ground: the reason for the choice.
        peers: the configurations as good as the choice (see `choice`), including itself.
        standings: the choice judged by each constraint.
        runner_up: the next best; None if there is none.
        measured: all configurations that it is based on.
    """

    goal: Goal
    choice: Configuration | None = None
    verdict: Verdict = "undecided"
    ground: Ground = "none"
    peers: tuple[Configuration, ...] = ()
    standings: tuple[Standing, ...] = ()
    runner_up: Configuration | None = None
    measured: tuple[Configuration, ...] = ()

    @property
    def baseline(self) -> Configuration | None:
        """The configuration that is the baseline; None if it is none of those measured."""
        return next((each for each in self.measured if each.is_baseline), None)


def recommend(configurations: Sequence[Configuration], goal: Goal) -> Recommendation:
    """Return the recommendation for a goal; if no configuration meets it, the choice is the closest and the verdict "not met".

    `choose` makes the choice, from point estimates within `goals.tolerance`; intervals decide whether the verdict is "met" or
    "undecided". If the choice's speedup is too noisy, the choice is a guess and the verdict "undecided".

    Args:
        configurations: the measured configurations.
        goal: the goal.
    """
    needs_speedup = goal.min_efficiency is not None or goal.min_speedup is not None
    known = [each for each in configurations if each.speedup > 0]
    if not (known or needs_speedup):
        known = [each for each in configurations if each.sps > 0]
    if not known:
        return Recommendation(goal, measured=tuple(configurations))
    choice, peers, fits = choose(known, goal)
    stands = tuple(standings(choice, goal))
    # The speedup of the baseline is exactly 1, but whether others are faster may be unclear.
    rivals = [each for each in known if not each.is_baseline] if choice.is_baseline else [choice]
    is_guess = bool(rivals) and all(each.is_noisy for each in rivals)
    shared: list[Verdict] = ["undecided"] if any(run.exclusive == 0 for run in choice.runs) else []
    # The baseline is an obvious alternative: it is the runner-up only if there is no other.
    others = [each for each in known if each is not choice]
    others = [each for each in others if not each.is_baseline] or others
    return Recommendation(
        goal=goal,
        choice=choice,
        verdict="undecided" if is_guess else combined([*shared, *(each.verdict for each in stands)]),
        ground="guess" if is_guess else "fastest" if fits else "nearest",
        peers=tuple(peers),
        standings=stands,
        runner_up=choose(others, goal).best if others else None,
        measured=tuple(configurations),
    )
