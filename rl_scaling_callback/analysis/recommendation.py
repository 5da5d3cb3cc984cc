"""Which configuration to take, and why."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from rl_scaling_callback.analysis.configurations import Configuration
from rl_scaling_callback.analysis.goals import Goal, Standing, Verdict, judge, listed, may_meet, standings, together, with_interval
from rl_scaling_callback.analysis.laws import Laws
from rl_scaling_callback.analysis.suggestions import worth_measuring
from rl_scaling_callback.core import formulas
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import DEFAULT_RULE

_ENOUGH: Final = DEFAULT_RULE.warmup_iterations + DEFAULT_RULE.max_iterations
"""Iterations after which a trial's throughput is as settled as it gets."""

HOW_TO_GET_A_BASELINE: Final = (
    f"Run a trial of the same workload with 1 env runner × 1 env for {_ENOUGH} iterations, "
    "or give ScalingCallback a baseline_dir or baseline_sps."
)
_NO_BASELINE: Final = f"Without a baseline, speedup and efficiency are not known. {HOW_TO_GET_A_BASELINE}"
_TOO_SHORT: Final = f"The first {DEFAULT_RULE.warmup_iterations} iterations of a trial are warm-up: let it run {_ENOUGH}."
_MOST_REPEATS: Final = 9
"""The interval of ten runs has a third of the width of one's; who wants it narrower than that is after something else."""
_WORTH_CPUS: Final = 1.1
"""What noise can't tell apart is still more likely slower where it was measured as slower: a tenth is risked for fewer CPUs."""
_ONE_AT_A_TIME: Final = "Let trials run one at a time: TuneConfig(max_concurrent_trials=1)."


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A choice with its reason.

    Attributes:
        goal: what was asked for.
        choice: the configuration to take; None where none can be recommended.
        verdict: whether the choice meets the goal's constraints; undecided where an interval straddles a threshold, and where
            there is no choice.
        reason: why it was chosen, with numbers, and what makes that less than certain; without a choice, what is missing and
            how to get it.
        runner_up: the next best; None where there is none.
        runner_up_reason: why it is only second; "" without a runner-up.
        bottleneck: what limits the choice; "" where not known.
        measure_next: configurations worth measuring before deciding, with the predicted speedup, best first. The prediction is
            NaN where there is no law or no baseline.
        code: lines of `AlgorithmConfig` code ready to paste; "" without a choice.
    """

    goal: Goal
    choice: Configuration | None
    verdict: Verdict
    reason: str
    runner_up: Configuration | None
    runner_up_reason: str
    bottleneck: str
    measure_next: tuple[tuple[Scale, float], ...]
    code: str


def recommend(
    configurations: Sequence[Configuration], goal: Goal, laws: Laws | None = None, believed: Scale | None = None
) -> Recommendation:
    """Return the recommendation for a goal; where no configuration meets it, `choice` comes nearest and the verdict says so.

    A figure decides whether a configuration is a candidate; its interval, whether the verdict is met or undecided. Of the
    candidates that noise can't tell from the fastest, the cheapest is taken: fewest CPUs, then smallest N. Where there is no
    candidate, the same goes for those that come equally near, as far as noise lets that be told.

    Args:
        configurations: what was measured.
        goal: what the configuration is for.
        laws: laws that were fitted to it.
        believed: the best by all measurements taken together, as a search knows it; where it was measured, it is the choice.
    """
    needs_speedup = goal.min_efficiency is not None or goal.min_speedup is not None
    known = [each for each in configurations if each.speedup > 0]
    if not (known or needs_speedup):
        known = [each for each in configurations if each.sps > 0]
    if not known:
        return Recommendation(goal, None, "undecided", _missing(configurations), None, "", "", (), "")
    best = _best(known, goal)
    told = [each for each in known if each.scale == believed]
    choice, why = (told[0], _belief(told[0], goal)) if told else (best.choice, _reason(best, goal))
    runner_up = _runner_up(known, choice, goal)
    stands = standings(choice, goal)
    baseline = next((each for each in known if each.is_baseline), None)
    return Recommendation(
        goal=goal,
        choice=choice,
        verdict=together(each.verdict for each in stands),
        reason=" ".join([why, *_uncertain(choice, baseline, stands), *_doubts(configurations, choice)]),
        runner_up=runner_up,
        runner_up_reason=_against(runner_up, choice, goal) if runner_up else "",
        bottleneck=_bottleneck(choice),
        measure_next=worth_measuring(known, choice, goal, laws),
        code=_code(choice),
    )


# The choice


class _Best(NamedTuple):
    """The best of a pool, all that noise can't tell from the fastest (or from the nearest), and whether they meet the goal."""

    choice: Configuration
    peers: list[Configuration]
    fits: bool


def _best(pool: Sequence[Configuration], goal: Goal) -> _Best:
    """Return the cheapest of those that noise can't tell from the fastest that fits; where none does, of those that are near.

    Near are those that noise can't tell from the nearest, by how far they are from the goal.
    """
    fit = [each for each in pool if all(standing.reach >= 1 for standing in standings(each, goal))]
    # What can't be known, such as RAM that nobody recorded, comes behind what is known to fit.
    fit = fit or [each for each in pool if may_meet(each, goal)]
    if fit:
        fastest = max(fit, key=lambda each: each.sps)
        peers = [each for each in fit if _as_fast(each, fastest)]
    else:
        nearest = min(pool, key=lambda each: _distance(each, goal))
        near = [each for each in pool if each is nearest or _as_near(each, nearest, goal)]
        fastest = max(near, key=lambda each: each.sps)
        peers = [each for each in near if _as_fast(each, fastest)]
    return _Best(min(peers, key=_cost), peers, bool(fit))


def _tied(one: Configuration, other: Configuration) -> bool:
    """Return whether the difference of two throughputs is within its 95 % interval (Welch, on logs).

    Throughputs, not speedups: the baseline's error is in all speedups alike, and tells nothing about their difference.
    """
    return abs(math.log(one.sps / other.sps)) <= _noise(one, other)


def _as_fast(one: Configuration, fastest: Configuration) -> bool:
    """Return whether one may be taken for as fast: the less is known, the less is gained by giving up what was measured."""
    return _tied(one, fastest) and one.sps * _WORTH_CPUS >= fastest.sps


def _noise(one: Configuration, other: Configuration) -> float:
    return math.hypot(*(math.log1p(each.own_error / 100) for each in (one, other) if each.own_error > 0))


def _as_near(one: Configuration, nearest: Configuration, goal: Goal) -> bool:
    """Return whether noise can't tell two by their distance from a goal. Each threshold missed moves with the throughput."""
    (resources, lack, _), (least_resources, least_lack, _) = _distance(one, goal), _distance(nearest, goal)
    missed = sum(not each.is_resource and each.reach < 1 for each in standings(one, goal))
    return resources == least_resources and lack - least_lack <= missed * _noise(one, nearest)


def _cost(configuration: Configuration) -> tuple[float, ...]:
    scale = configuration.scale
    return configuration.cpus, scale.parallelism, scale.num_env_runners, -configuration.sps


def _distance(configuration: Configuration, goal: Goal) -> tuple[float, ...]:
    """Return how far a configuration is from a goal: resources that are not there first, then what it lacks in all."""
    lacking = [(each.is_resource, -math.log(each.reach)) for each in standings(configuration, goal) if each.reach < 1]
    resources = sum(lack for is_resource, lack in lacking if is_resource)
    return resources, sum(lack for is_resource, lack in lacking if not is_resource), -configuration.sps


def ranking(configurations: Sequence[Configuration]) -> list[list[Configuration]]:
    """Return the configurations in groups, fastest first: those of a group can't be told from its fastest."""
    left = sorted((each for each in configurations if each.sps > 0), key=lambda each: -each.sps)
    groups = []
    while left:
        groups.append([each for each in left if each is left[0] or _tied(each, left[0])])
        left = [each for each in left if each not in groups[-1]]
    return groups


def _repeats(choice: Configuration, baseline: Configuration, reach: float) -> int | None:
    """Return how often to repeat both until a figure's interval leaves a threshold out, if they come out alike; None for too often.

    Args:
        choice: what is judged.
        baseline: what its speedup is counted against.
        reach: the figure over the threshold.
    """
    for more in range(1, _MOST_REPEATS + 1):
        variance = sum(each.variance * len(each.runs) / (len(each.runs) + more) for each in (choice, baseline))
        error = replace(choice.noise, freedom=choice.noise.freedom + 2 * more).error(variance)
        if judge(reach, error, 1.0) != "undecided":
            return more
    return None


def _runner_up(known: Sequence[Configuration], choice: Configuration, goal: Goal) -> Configuration | None:
    others = [each for each in known if each is not choice]
    # Everybody knows the baseline: as an alternative it is worth naming only where there is no other.
    others = [each for each in others if not each.is_baseline] or others
    return _best(others, goal).choice if others else None


# The words


def _missing(configurations: Sequence[Configuration]) -> str:
    """Return what is missing where no configuration can be judged, and how to get it."""
    if not configurations:
        return "No configuration was measured: run trials that differ in num_env_runners and num_envs_per_env_runner."
    if any(each.sps > 0 for each in configurations):
        return _NO_BASELINE
    return f"No configuration has a steady throughput ({_scales(configurations)}). {_TOO_SHORT}"


def _belief(choice: Configuration, goal: Goal) -> str:
    text = f"{choice.scale} is the best by all measurements taken together; its own figures: {_figures(choice)}."
    lacking = listed(each.lacking for each in standings(choice, goal) if each.reach < 1)
    return f"{text} By these it misses {lacking}." if lacking else text


def _reason(best: _Best, goal: Goal) -> str:
    choice, peers, fits = best
    figures, stands = _figures(choice), standings(choice, goal)
    others = [each for each in peers if each is not choice]
    cheapest = f"; {choice.scale} {_why_cheapest(choice, others)}"
    if not fits:
        lacking = listed(each.lacking for each in stands if each.reach < 1)
        near = f"{_scales(peers)} come equally near within noise{cheapest}" if others else f"{choice.scale} comes nearest"
        return f"None was measured with {goal.asks}. {near}: {figures}. It misses {lacking}."
    asks = listed(each.asked for each in stands if not math.isnan(each.reach))
    fastest = f"fastest with {asks}" if asks else "fastest"
    if others:
        return f"{_scales(peers)} are the {fastest} and equal within noise{cheapest}: {figures}."
    return f"{choice.scale} is the {fastest}: {figures}."


def _why_cheapest(choice: Configuration, others: Sequence[Configuration]) -> str:
    fewer = [each for each in others if each.cpus > choice.cpus]
    return "holds the fewest CPUs" if len(fewer) == len(others) else "holds no more CPUs than any and has the smallest N of these"


def _uncertain(choice: Configuration, baseline: Configuration | None, stands: Sequence[Standing]) -> Iterator[str]:
    """Yield what leaves open whether the choice meets its goal, and whether the goal is a wise one."""
    unknown = listed(each.asked for each in stands if math.isnan(each.reach))
    if unknown:
        yield f"{choice.scale} can't be held against {unknown}: that was not recorded."
    straddled = listed(f"{each.asked} at {each.found}" for each in stands if each.verdict == "undecided" and each.reach > 0)
    if straddled and choice.disturbed:
        yield f"Undecided is {straddled}, for other programs disturbed {choice.scale} or the baseline: repeat both without them."
    elif straddled:
        yield f"Undecided is {straddled}: {_to_settle(choice, baseline, stands)}."
    if choice.band == "inefficient":
        yield "That is in the band inefficient: consider less parallelism, unless resources are to spare."


def _to_settle(choice: Configuration, baseline: Configuration | None, stands: Sequence[Standing]) -> str:
    """Return what would settle which thresholds are reached, and what it costs."""
    if baseline is None or not choice.variance + baseline.variance >= 0:
        return f"repeat {choice.scale} and the baseline"
    reaches = [each.reach for each in stands if each.verdict == "undecided" and each.reach > 0]
    if choice.noise.probed:
        return _rounds(choice, reaches)
    needed = [_repeats(choice, baseline, reach) for reach in reaches]
    known = [each for each in needed if each is not None]
    if len(known) < len(needed):
        return f"too close for {_MOST_REPEATS} repeats to settle"
    more = max(known)
    times = "once" if more == 1 else "twice" if more == 2 else f"{more} times"
    seconds = more * _ENOUGH * (choice.seconds + baseline.seconds)
    cost = f", about {seconds:.0f} s and start-up" if seconds > 0 else ""
    return f"repeat {choice.scale} and {baseline.scale} {times} each{cost}"


def _rounds(choice: Configuration, reaches: Sequence[float]) -> str:
    """Return how many more rounds of probes would settle it: an interval narrows with the root of their number."""
    rounds = choice.runs[0].steady.iterations
    half_width = math.log1p(choice.speedup_error / 100)
    more = max(rounds * ((half_width / math.log(reach)) ** 2 - 1) if reach != 1 else math.inf for reach in reaches)
    if more > _MOST_REPEATS * rounds:
        return f"too close for {_MOST_REPEATS * rounds} more rounds of probes to settle"
    return f"about {math.ceil(more)} more rounds of probes after these {rounds} would settle it"


def _doubts(configurations: Sequence[Configuration], choice: Configuration) -> Iterator[str]:
    """Yield what makes the choice less than certain in the measurements themselves, and what to do about it."""
    if math.isnan(choice.speedup):
        yield _NO_BASELINE
    by_throughput = choice.is_baseline or math.isnan(choice.speedup)
    if math.isnan(choice.sps_error if by_throughput else choice.speedup_error):
        yield "This rests on single figures without an error: repeat the trials to know how sure it is."
    if len(configurations) == 1:
        yield "It is the only configuration: there is nothing to choose from until others are measured."
    # What is known by throughput alone can't be compared with a choice that has a speedup; its note says why.
    incomparable = [each for each in configurations if each.sps > 0 and math.isnan(each.speedup) and choice.speedup > 0]
    if incomparable:
        yield f"Not comparable, and so left out: {_scales(incomparable)}."
    concerned = [choice, *(each for each in configurations if each.is_baseline and each is not choice), *incomparable]
    for each in concerned:
        if each.note:
            yield f"{each.scale}: {each.note}."
    if any(run.exclusive == 0 for each in concerned for run in each.runs):
        yield _ONE_AT_A_TIME
    unknown = [each for each in configurations if math.isnan(each.sps)]
    if unknown:
        yield f"Without a throughput, and so left out: {_scales(unknown)}. {_TOO_SHORT}"


def _against(runner_up: Configuration, choice: Configuration, goal: Goal) -> str:
    """Return what the runner-up has and lacks beside the choice."""
    tied = _tied(runner_up, choice)
    percent = 100 * (runner_up.sps / choice.sps - 1)
    more_cpus = runner_up.cpus - choice.cpus
    if tied:
        pace = "is as fast within the noise"
    else:
        size = f"{abs(percent):.{0 if abs(percent) >= 1 else 1}f} %"
        pace = f"is {size} {'faster' if percent > 0 else 'slower'}"
    if more_cpus:
        books = f"holds {_cpus(abs(more_cpus))} {'more' if more_cpus > 0 else 'fewer'}"
    else:
        books = f"holds as many CPUs, with N = {runner_up.scale.parallelism} against {choice.scale.parallelism}"
    # Faster for more CPUs, or slower for fewer: one is the price of the other.
    trades = more_cpus * percent > 0 and not tied
    text = f"{runner_up.scale} {pace} {'but' if trades else 'and'} {books}"
    stands = standings(runner_up, goal)
    lacking = listed(each.lacking for each in stands if each.reach < 1)
    unclear = listed(each.asked for each in stands if each.verdict == "undecided" and not each.reach < 1)
    return text + (f"; it misses {lacking}" if lacking else "") + (f"; undecided is {unclear}" if unclear else "") + "."


def _bottleneck(choice: Configuration) -> str:
    if choice.diagnosis:
        return choice.diagnosis + (" (estimated: stepping and contention can't be told apart)" if choice.losses_estimated else "")
    serial = formulas.serial_fraction(choice.speedup, choice.scale.parallelism)
    if not serial > 0:
        return ""
    return f"as if {100 * serial:.0f} % of the work were serial (Karp–Flatt); where the time goes was not recorded"


def _code(choice: Configuration) -> str:
    return f"{choice.scale.code}# a trial takes {_cpus(choice.cpus)}: ray.init(num_cpus={math.ceil(choice.cpus)}) or more"


def _figures(configuration: Configuration) -> str:
    if math.isnan(configuration.speedup):
        rate = f"{configuration.sps:,.0f} steps/s"
    else:
        speedup = with_interval(configuration.speedup, configuration.speedup_error, 2, "×")
        rate = f"{speedup}, efficiency {configuration.efficiency:.1f} %"
    return f"{rate}, {_cpus(configuration.cpus)}"


def _cpus(cpus: float) -> str:
    return f"{cpus:g} CPU{'' if cpus == 1 else 's'}"


def _scales(configurations: Sequence[Configuration]) -> str:
    return listed(str(each.scale) for each in configurations)
