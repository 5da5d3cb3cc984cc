"""What the report says about a recommendation: the reasons, what makes it uncertain and what to do about it, the alternatives."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from rl_scaling_callback.analysis.choice import (
    ENOUGH_ITERATIONS,
    TO_GET_A_BASELINE,
    Goal,
    Recommendation,
    Standing,
)
from rl_scaling_callback.analysis.configurations import MAX_ERROR, Configuration
from rl_scaling_callback.core import formulas
from rl_scaling_callback.core.steady import DEFAULT_RULE
from rl_scaling_callback.core.text import cpus, joined, listed, percent, printable, rounded, with_interval
from rl_scaling_callback.report.study import StudyReport

_FIGURES: Final[Mapping[str, tuple[str, int, str]]] = {
    "efficiency": ("efficiency", 1, " %"),
    "speedup": ("speedup", 2, "×"),
    "cpus": ("CPUs", 0, ""),
}
"""Name, decimals and unit of each figure that a goal can limit."""

_NO_BASELINE: Final = f"Without a baseline, speedup and efficiency are unknown. {TO_GET_A_BASELINE}"


def goal_text(goal: Goal) -> str:
    """Return a goal's objective: `"the largest speedup with efficiency ≥ 80 %"`."""
    return f"the largest speedup with {_asked(goal)}" if goal.limits else "the largest speedup"


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
        return f"Best guess {choice.scale}: measurements vary too much to tell"
    return f"Use {choice.scale}: {rounded(choice.speedup, 2, '×')}, {rounded(choice.efficiency, 1, ' %')}"


def code_text(recommendation: Recommendation) -> str:
    """Return the line of `AlgorithmConfig` code to paste; "" without a choice."""
    choice = recommendation.choice
    if choice is None:
        return ""
    return f"config.env_runners({choice.scale.code})  # {cpus(math.ceil(choice.cpus))}"


def decision_lines(study: StudyReport) -> list[str]:
    """Return the goal, the reasons for the recommendation, and the alternatives, one paragraph each."""
    asked = study.recommendation
    return [f"Goal {asked.goal.name}: {goal_text(asked.goal)}.", reason_text(asked), *alternatives(study)]


def reason_text(recommendation: Recommendation) -> str:
    """Return the reasons for the recommendation and its caveats, or what is missing and how to get it."""
    return " ".join([*why_lines(recommendation), *doubt_lines(recommendation)])


def why_lines(recommendation: Recommendation) -> Iterator[str]:
    """Yield the reasons for the choice, in sentences; nothing without a choice."""
    choice, stands = recommendation.choice, recommendation.standings
    if choice is None:
        return
    peers, figures, asked = _scales(recommendation.peers), _figures(choice), _asked(recommendation.goal)
    is_alone, cheapest = len(recommendation.peers) == 1, f"{choice.scale} is the cheapest"
    if recommendation.ground == "guess":
        of_choice = f"the speedup of {choice.scale}, the best guess, is uncertain by {percent(choice.speedup_error)}"
        uncertain = f"all speedups are uncertain by more than {MAX_ERROR:.0f} %" if choice.is_baseline else of_choice
        yield f"Measurements vary too much to tell: {uncertain}. Measure again when less else runs on the machine, or for longer."
        if not choice.noise.from_probes:
            yield "Do all runs of a configuration do the same work?"
    elif recommendation.ground == "nearest":
        yield f"No measured configuration meets {asked}."
        near = f"{peers} comes closest" if is_alone else f"{peers} come about equally close; {cheapest}"
        yield f"{near}: {figures}. It misses {_missed(stands)}."
    else:
        within = " within error" if any(each.reach < 1 for each in stands) else ""
        fastest = f"fastest with {asked}{within}" if asked else "fastest"
        best = f"{peers} is the {fastest}" if is_alone else f"{peers} are the {fastest}, about equal; {cheapest}"
        yield f"{best}: {figures}."
    if choice.sooner > 0 and not choice.is_baseline:
        sooner = with_interval(choice.sooner, choice.to_return.sooner_error, 2, "×")
        soonest = max((each for each in recommendation.measured if each.sooner > 0), key=lambda each: each.sooner)
        other = "" if soonest is choice else f"; soonest is {soonest.scale}, {rounded(soonest.sooner, 2, '×')}"
        yield f"With {choice.scale}, the speedup of the time to {choice.to_return.name} is {sooner}{other}."


def doubt_lines(recommendation: Recommendation) -> Iterator[str]:
    """Yield what makes the decision uncertain and what to do about it, in sentences; without a choice, what is missing."""
    choice, measured, stands = recommendation.choice, recommendation.measured, recommendation.standings
    if choice is None:
        without = _NO_BASELINE if any(each.sps > 0 for each in measured) else _no_throughput(measured)
        missing = "No configuration was measured: run trials with different num_env_runners and num_envs_per_env_runner."
        yield without if measured else missing
        return
    straddled = [each for each in stands if each.verdict == "undecided"]
    if straddled and recommendation.ground != "guess":
        at = listed(f"{_limit(each.figure, each.limit)} at {_shown(each)}" for each in straddled)
        yield f"Undecided: {at}; {_remedy(choice)}."
    if choice.band == "inefficient":
        yield "Its band is inefficient: consider less parallelism unless CPUs are plentiful."
    if math.isnan(choice.speedup):
        yield _NO_BASELINE
    error = choice.sps_error if choice.is_baseline or math.isnan(choice.speedup) else choice.speedup_error
    if math.isnan(error) and math.isnan(choice.sps_error):
        yield "These figures have no error estimate: repeat the trials to get one."
    elif math.isnan(error):
        enough = f"measure it with a trial of {ENOUGH_ITERATIONS} iterations in this experiment"
        yield f"The error of the baseline is unknown, so speedup and efficiency have no interval: {enough}."
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
    if unmeasured := [each for each in measured if math.isnan(each.sps)]:
        yield _no_throughput(unmeasured)


def _no_throughput(unmeasured: Sequence[Configuration]) -> str:
    warmup = f"The first {DEFAULT_RULE.warmup_iterations} iterations of a trial are warm-up: run it for {ENOUGH_ITERATIONS}."
    return f"Left out, no throughput measured: {_scales(unmeasured)}. {warmup}"


def _remedy(choice: Configuration) -> str:
    """Return how to settle undecided verdicts."""
    if choice.disturbed:
        return f"other programs interfered with {choice.scale} or the baseline. Repeat both without them"
    if choice.noise.from_probes:
        return "another sweep may decide it"
    return f"repeat {choice.scale} and the baseline"


def alternatives(study: StudyReport) -> list[str]:
    """Return what limits the choice, and the choices for other goals; nothing without a choice."""
    asked = study.recommendation
    if asked.choice is None:
        return []
    others = [
        f"{name}: {choice_text(each).removeprefix('Use ').lower()}" + (f" ({each.verdict})" if each.goal.limits else "")
        for name, each in study.recommendations.items()
        if each is not asked
    ]
    bottleneck = _bottleneck(asked.choice)
    return [*([f"Bottleneck: {bottleneck}"] if bottleneck else []), f"Other goals: {'; '.join(others)}"]


def _bottleneck(choice: Configuration) -> str:
    if choice.diagnosis:
        return choice.diagnosis
    serial = formulas.serial_fraction(choice.speedup, choice.ideal)
    if not serial > 0:
        return ""
    return f"an effective serial fraction of {rounded(100 * serial, 0)} % (Karp–Flatt); the baseline's phases are unknown"


def _asked(goal: Goal) -> str:
    return listed(_limit(*each) for each in goal.limits.items())


def _limit(figure: str, limit: float) -> str:
    name, _, unit = _FIGURES[figure]
    return f"{name} {'≤' if figure == 'cpus' else '≥'} {limit:g}{unit}"


def _shown(standing: Standing) -> str:
    return with_interval(standing.value, standing.error, *_FIGURES[standing.figure][1:])


def _missed(stands: Iterable[Standing]) -> str:
    """Return the constraints that are missed and by how much: `"speedup ≥ 2.5× by 0.09×"`; "" for none."""
    missed = [(each, _FIGURES[each.figure][2].replace("%", "points")) for each in stands if each.misses]
    return listed(
        f"{_limit(each.figure, each.limit)} by {rounded(abs(each.limit - each.value), 2, unit, digits=2)}" for each, unit in missed
    )


def _figures(configuration: Configuration) -> str:
    if math.isnan(configuration.speedup):
        rate = f"{rounded(configuration.sps, 0)} steps/s"
    else:
        speedup = with_interval(configuration.speedup, configuration.speedup_error, 2, "×")
        rate = f"{speedup}, efficiency {rounded(configuration.efficiency, 1)} %"
    return f"{rate}, {cpus(configuration.cpus)}"


def _scales(configurations: Iterable[Configuration]) -> str:
    return listed(str(each.scale) for each in configurations)
