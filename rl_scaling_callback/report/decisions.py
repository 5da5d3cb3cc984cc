"""Explains recommendations: the reasons, what makes them uncertain and what to do about it, and the alternatives."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from rl_scaling_callback.analysis.checklist import TO_GET_A_BASELINE
from rl_scaling_callback.analysis.choice import tied
from rl_scaling_callback.analysis.configurations import MAX_ERROR, Configuration
from rl_scaling_callback.analysis.goals import Goal, Limit, Standing, judge, standings
from rl_scaling_callback.analysis.recommendation import ENOUGH_ITERATIONS, Recommendation
from rl_scaling_callback.core import formulas
from rl_scaling_callback.core.steady import DEFAULT_RULE
from rl_scaling_callback.core.text import cpus, joined, listed, percent, printable, rounded, with_interval

MAX_REPEATS: Final = 9
"""Ten runs narrow the interval to a third of that of one run; more repeats are rarely worth their time."""


# Goals

_FIGURES: Final[Mapping[str, tuple[str, int, str]]] = {
    "efficiency": ("efficiency", 1, " %"),
    "speedup": ("speedup", 2, "×"),
    "cpus": ("CPUs", 0, ""),
    "ram_utilisation": ("RAM utilisation", 0, " %"),
    "sooner": ("speedup of the time to return", 2, "×"),
}
"""Name, decimals and unit of each figure that a goal can limit."""

_NO_BASELINE: Final = f"Without a baseline, speedup and efficiency are unknown. {TO_GET_A_BASELINE}"


def goal_text(goal: Goal) -> str:
    """Return a goal's objective: `"the largest speedup with efficiency ≥ 80 %"`."""
    return f"the largest speedup with {_asked(goal.limits)}" if goal.limits else "the largest speedup"


def _asked(limits: Iterable[Limit]) -> str:
    return listed(map(_limit, limits))


def _limit(limit: Limit) -> str:
    name, _, unit = _FIGURES[limit.figure]
    return f"{name} {'≥' if limit.is_least else '≤'} {limit.value:g}{unit}"


def _lacking(stands: Iterable[Standing]) -> str:
    """Return the constraints that are missed and by how much: `"speedup ≥ 2.5× by 0.09×"`; "" for none."""
    missed = [(each, _FIGURES[each.limit.figure][2].replace("%", "points")) for each in stands if each.misses]
    return listed(
        f"{_limit(each.limit)} by {rounded(abs(each.limit.value - each.value), 2, unit, digits=2)}" for each, unit in missed
    )


# Recommendations


def verdict_text(recommendation: Recommendation) -> str:
    """Return the decision in one line: the configuration to use, and whether it meets the goal, if that demands anything."""
    goal = recommendation.goal
    met = f" Goal {goal.name}: {recommendation.verdict}." if goal.limits and recommendation.choice is not None else ""
    return f"{choice_text(recommendation)}.{met}"


def choice_text(recommendation: Recommendation) -> str:
    """Return the recommended configuration with its figures."""
    choice = recommendation.choice
    if choice is None:
        return "No recommendation yet"
    if recommendation.ground == "guess":
        return f"Best guess {choice.scale}: the machine was too busy to tell"
    return f"Use {choice.scale}: {rounded(choice.speedup, 2, '×')}, {rounded(choice.efficiency, 1, ' %')}"


def reason_text(recommendation: Recommendation) -> str:
    """Return the reasons for the recommendation and its caveats, or what is missing and how to get it."""
    return " ".join([*why_lines(recommendation), *doubt_lines(recommendation)])


def why_lines(recommendation: Recommendation) -> Iterator[str]:
    """Yield the reasons for the choice, in sentences; nothing without a choice."""
    choice, stands = recommendation.choice, recommendation.standings
    if choice is None:
        return
    figures, scale = _figures(choice), choice.scale
    lacking, barely = _lacking(stands), _asked(each.limit for each in stands if each.reach < 1 and not each.misses)
    others = [each for each in recommendation.peers if each is not choice]
    cheapest = f"; {scale} {_why_cheapest(choice, others)}"
    if recommendation.ground == "guess":
        of_choice = f"the speedup of {scale}, the best guess, is uncertain by {percent(choice.speedup_error)}"
        uncertain = f"all speedups are uncertain by more than {MAX_ERROR:.0f} %" if choice.is_baseline else of_choice
        yield f"The machine was too busy to tell: {uncertain}. Measure again when less else runs on it, or for longer."
    elif recommendation.ground == "nearest":
        yield f"No measured configuration meets {_asked(recommendation.goal.limits)}."
        near = f"{_scales(recommendation.peers)} come about equally close{cheapest}" if others else f"{scale} comes closest"
        yield f"{near}: {figures}."
        yield f"It misses {lacking}."
    else:
        asked = _asked(each.limit for each in stands if not math.isnan(each.reach))
        asked += " within error" if barely else ""
        fastest = f"fastest with {asked}" if asked else "fastest"
        best = f"{_scales(recommendation.peers)} are the {fastest}, about equal{cheapest}" if others else ""
        yield f"{best or f'{scale} is the {fastest}'}: {figures}."
    yield from _worth(choice, recommendation.measured)


def _worth(choice: Configuration, measured: Sequence[Configuration]) -> Iterator[str]:
    """Yield what the choice's speedup is worth in learning, unless both agree within the error of the time to return.

    Without repeats that is unknown, and taken to be the largest error with which a speedup decides something.
    """
    to_return, speedup, sooner = choice.to_return, choice.speedup, choice.sooner
    error = MAX_ERROR if math.isnan(choice.sooner_error) else choice.sooner_error
    if abs(math.log(sooner / speedup)) > math.log1p(error / 100):
        worth = f"{'but only' if sooner < speedup else 'and even'} {rounded(sooner, 2, '×')} sooner at"
        if sooner < 1:
            worth = f"but needs {rounded(1 / sooner, 2, '×')} the time to"
        runs = " (one run each)" if math.isnan(choice.sooner_error) else ""
        yield f"{choice.scale} is {rounded(speedup, 2, '×')} faster, {worth} {to_return.name}{runs}."
        soonest = max((each for each in measured if each.sooner > 0), key=lambda each: each.sooner)
        if soonest is not choice:
            yield f"Soonest is {soonest.scale}: {rounded(soonest.sooner, 2, '×')}."


def _why_cheapest(choice: Configuration, others: list[Configuration]) -> str:
    if all(each.cpus > choice.cpus for each in others):
        return "needs the fewest CPUs"
    return "needs no more CPUs than the others and has the smallest N"


def doubt_lines(recommendation: Recommendation) -> Iterator[str]:
    """Yield what makes the decision uncertain and what to do about it, in sentences; without a choice, what is missing."""
    choice, measured = recommendation.choice, recommendation.measured
    if choice is None:
        yield _missing(measured)
        return
    stands = recommendation.standings
    if unknown := _asked(each.limit for each in stands if math.isnan(each.reach)):
        yield f"Whether {choice.scale} meets {unknown} is unknown: it was not recorded."
    straddled = [each for each in stands if each.verdict == "undecided" and each.reach > 0]
    if straddled and recommendation.ground != "guess":
        yield f"Undecided: {listed(map(_straddling, straddled))}; {_remedy(choice, measured, straddled)}."
    if choice.band == "inefficient":
        yield "Its band is inefficient: consider less parallelism unless CPUs are plentiful."
    yield from _caveats(choice, measured)


def _straddling(standing: Standing) -> str:
    figure = with_interval(standing.value, standing.error, *_FIGURES[standing.limit.figure][1:])
    return f"{_limit(standing.limit)} at {figure}"


def _missing(measured: Sequence[Configuration]) -> str:
    if not measured:
        return "No configuration was measured: run trials with different num_env_runners and num_envs_per_env_runner."
    return _NO_BASELINE if any(each.sps > 0 for each in measured) else _no_throughput(measured)


def _no_throughput(unknown: Sequence[Configuration]) -> str:
    return (
        f"Left out, no throughput measured: {_scales(unknown)}. The first {DEFAULT_RULE.warmup_iterations} iterations of a trial "
        f"are warm-up: run it for {ENOUGH_ITERATIONS}."
    )


def _remedy(choice: Configuration, measured: Sequence[Configuration], straddled: Sequence[Standing]) -> str:
    """Return how to settle undecided verdicts."""
    if any(each.limit.figure == "sooner" for each in straddled):
        return f"repeat {choice.scale} and the baseline with other seeds"
    baseline = next((each for each in measured if each.is_baseline), None)
    if choice.disturbed:
        return f"other programs interfered with {choice.scale} or the baseline. Repeat both without them"
    if baseline is None or not choice.variance + baseline.variance >= 0:
        return f"repeat {choice.scale} and the baseline"
    if choice.noise.swept:
        return "a longer sweep (--budget) would narrow the interval"
    needed = [repeats_needed(choice, baseline, each.reach) for each in straddled]
    if math.inf in needed:
        return f"too close for {MAX_REPEATS} repeats to settle"
    more = round(max(needed))
    times = {1: "once", 2: "twice"}.get(more, f"{more} times")
    seconds = more * ENOUGH_ITERATIONS * (choice.seconds + baseline.seconds)
    cost = f", about {rounded(seconds, 0)} s plus start-up" if seconds > 0 else ""
    return f"repeat {choice.scale} and the baseline {times}{cost}"


def repeats_needed(choice: Configuration, baseline: Configuration, reach: float) -> float:
    """Return how many repeats of both exclude the threshold from a figure's interval if the figure stays; infinite for too many.

    Args:
        choice: the configuration to judge.
        baseline: the baseline of its speedup.
        reach: figure / threshold.
    """
    for more in range(1, MAX_REPEATS + 1):
        variance = sum(each.variance * len(each.runs) / (len(each.runs) + more) for each in (choice, baseline))
        error = replace(choice.noise, dof=choice.noise.dof + 2 * more).error(variance)
        if judge(reach, error, 1.0) != "undecided":
            return more
    return math.inf


def _caveats(choice: Configuration, measured: Sequence[Configuration]) -> Iterator[str]:
    if math.isnan(choice.speedup):
        yield _NO_BASELINE
    error = choice.sps_error if choice.is_baseline or math.isnan(choice.speedup) else choice.speedup_error
    if math.isnan(error) and math.isnan(choice.sps_error):
        yield "These figures have no error estimate: repeat the trials to get one."
    elif math.isnan(error):
        yield (
            "The error of the baseline is unknown, so speedup and efficiency have no interval: measure it with a trial of "
            f"{ENOUGH_ITERATIONS} iterations in this experiment."
        )
    if len(measured) == 1:
        yield "It is the only configuration: measure others to compare it with."
    # A throughput without a speedup can't be compared with a choice that has one; its notes give the reason.
    incomparable = [each for each in measured if each.sps > 0 and math.isnan(each.speedup) and choice.speedup > 0]
    if incomparable:
        yield f"Left out, not comparable: {_scales(incomparable)}."
    concerned = [choice, *(each for each in measured if each.is_baseline and each is not choice), *incomparable]
    yield from (f"{each.scale}: {printable(joined(each.notes))}." for each in concerned if each.notes)
    if any(run.exclusive == 0 for each in concerned for run in each.runs):
        yield "Run trials one at a time: TuneConfig(max_concurrent_trials=1)."
    if unknown := [each for each in measured if math.isnan(each.sps)]:
        yield _no_throughput(unknown)


def runner_up_text(recommendation: Recommendation) -> str:
    """Return how the runner-up compares with the choice; "" if there is none."""
    choice, runner_up = recommendation.choice, recommendation.runner_up
    if choice is None or runner_up is None:
        return ""
    is_tied = tied(runner_up, choice)
    change = 100 * (runner_up.sps / choice.sps - 1)
    more_cpus = runner_up.cpus - choice.cpus
    size = rounded(abs(change), 1, " %", digits=2)
    speed = "is as fast within noise" if is_tied else f"is {size} {'faster' if change > 0 else 'slower'}"
    if more_cpus:
        needs = f"needs {cpus(abs(more_cpus), 'more' if more_cpus > 0 else 'fewer')}"
    else:
        needs = f"needs as many CPUs, with N = {runner_up.scale.parallelism} instead of {choice.scale.parallelism}"
    # Faster for more CPUs, or slower for fewer: one is the price of the other.
    trades = more_cpus * change > 0 and not is_tied
    text = f"{runner_up.scale} {speed} {'but' if trades else 'and'} {needs}"
    stands = standings(runner_up, recommendation.goal)
    lacking = _lacking(stands)
    unclear = _asked(each.limit for each in stands if each.verdict == "undecided" and not each.misses)
    return text + (f"; it misses {lacking}" if lacking else "") + (f"; undecided: {unclear}" if unclear else "") + "."


def bottleneck_text(recommendation: Recommendation) -> str:
    """Return what limits the choice; "" if unknown."""
    choice = recommendation.choice
    if choice is None:
        return ""
    if choice.diagnosis:
        return choice.diagnosis + (" (estimated: stepping and contention can't be separated)" if choice.losses_estimated else "")
    serial = formulas.serial_fraction(choice.speedup, choice.ideal)
    if not serial > 0:
        return ""
    return f"an effective serial fraction of {rounded(100 * serial, 0)} % (Karp–Flatt); the baseline's phases are unknown"


def code_text(recommendation: Recommendation) -> str:
    """Return the line of `AlgorithmConfig` code to paste; "" without a choice."""
    choice = recommendation.choice
    if choice is None:
        return ""
    scale = choice.scale
    counts = f"num_env_runners={scale.num_env_runners}, num_envs_per_env_runner={scale.num_envs_per_env_runner}"
    return f"config.env_runners({counts})  # {cpus(math.ceil(choice.cpus))}"


def _figures(configuration: Configuration) -> str:
    if math.isnan(configuration.speedup):
        rate = f"{rounded(configuration.sps, 0)} steps/s"
    else:
        speedup = with_interval(configuration.speedup, configuration.speedup_error, 2, "×")
        rate = f"{speedup}, efficiency {rounded(configuration.efficiency, 1)} %"
    return f"{rate}, {cpus(configuration.cpus)}"


def _scales(configurations: Iterable[Configuration]) -> str:
    return listed(str(each.scale) for each in configurations)
