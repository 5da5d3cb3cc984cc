"""Which configuration to take, and why.

Source: specification §7; method, "Steady state" for the three verdicts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any, Final, Literal

from rl_scaling_callback import formulas
from rl_scaling_callback.analysis.configurations import Configuration
from rl_scaling_callback.analysis.laws import Fit, Laws
from rl_scaling_callback.checks import label, positive
from rl_scaling_callback.formulas import NAN
from rl_scaling_callback.scale import Scale
from rl_scaling_callback.steady import DEFAULT_RULE

Verdict = Literal["met", "not met", "undecided"]


@dataclass(frozen=True, slots=True)
class Goal:
    """What a configuration must reach; among those that do, the largest speedup wins.

    Attributes:
        name: its name.
        min_efficiency: least efficiency [%]; None for any.
        min_speedup: least speedup [×]; None for any.
        max_cpus: most CPUs that a trial may hold; None for any.
        max_ram_utilisation: most RAM utilisation of the node [%]; None for any.

    Raises:
        ValueError: a value out of its range.
    """

    name: str
    min_efficiency: float | None = None
    min_speedup: float | None = None
    max_cpus: float | None = None
    max_ram_utilisation: float | None = None

    def __post_init__(self) -> None:
        label("name", self.name)
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            if value is not None:
                positive(field.name, value)
        if self.max_ram_utilisation is not None and self.max_ram_utilisation > 100:
            raise ValueError(f"max_ram_utilisation is {self.max_ram_utilisation!r}; allowed are percentages up to 100")

    @classmethod
    def of(cls, name: str = "balanced", **constraints: float | None) -> Goal:
        """Return one of `GOALS`, with the user's own constraints beside or in place of its own.

        Args:
            name: the goal's name.
            **constraints: fields of `Goal`; None leaves the goal's own.

        Raises:
            ValueError: there is no such goal, or a value is out of its range.
        """
        if name not in GOALS:
            raise ValueError(f"goal is {name!r}; allowed are {', '.join(GOALS)}")
        given: dict[str, Any] = {field: value for field, value in constraints.items() if value is not None}
        return replace(GOALS[name], **given)

    @property
    def asks(self) -> str:
        """Its constraints for the reader, `"efficiency ≥ 60 % and speedup ≥ 2.5×"`; "" where it has none."""
        return _listed(each.asked(self) for each in _CONSTRAINTS if each.limit(self) is not None)


GOALS: Final[Mapping[str, Goal]] = {
    "save": Goal("save", min_efficiency=80),
    "balanced": Goal("balanced", min_efficiency=60, min_speedup=2.5),
    "fastest": Goal("fastest"),
}
"""The three goals of specification §7."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A choice with its reason.

    Attributes:
        goal: what was asked for.
        choice: the configuration to take; None where none can be recommended.
        verdict: whether the choice meets the goal's constraints; undecided where an interval straddles a threshold.
        reason: why it was chosen, with numbers, and what makes that less than certain; without a choice, what is missing and
            how to get it.
        runner_up: the next best; None where there is none.
        runner_up_reason: why it is only second; "".
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


def recommend(configurations: Sequence[Configuration], goal: Goal, laws: Laws | None = None) -> Recommendation:
    """Return the recommendation for a goal; where no configuration meets it, `choice` comes nearest and the verdict says so.

    A figure decides whether a configuration is a candidate; its interval, whether the verdict is met or undecided. Of the
    candidates that noise can't tell from the fastest, the cheapest is taken: fewest CPUs, then smallest N.
    """
    needs_speedup = goal.min_efficiency is not None or goal.min_speedup is not None
    known = [each for each in configurations if each.speedup > 0]
    if not (known or needs_speedup):
        known = [each for each in configurations if each.sps > 0]
    if not known:
        return Recommendation(goal, None, "undecided", _missing(configurations), None, "", "", (), "")
    choice, peers = _best(known, goal)
    runner_up = _runner_up(known, choice, goal)
    standings = _standings(choice, goal)
    return Recommendation(
        goal=goal,
        choice=choice,
        verdict=together(each.verdict for each in standings),
        reason=" ".join(_reason(configurations, choice, peers, goal, standings)),
        runner_up=runner_up,
        runner_up_reason=_against(runner_up, choice, goal) if runner_up else "",
        bottleneck=_bottleneck(choice),
        measure_next=_measure_next(known, choice, goal, laws),
        code=_code(choice),
    )


# Verdicts


def interval(value: float, error: float) -> tuple[float, float]:
    """Return the interval whose half-width is `error` [%], symmetric on a log scale; the value alone where that is NaN."""
    width = 1.0 if math.isnan(error) else 1 + error / 100
    return value / width, value * width


def judge(value: float, error: float, least: float) -> Verdict:
    """Return whether a figure with a 95 % interval of half-width `error` [%] reaches `least`."""
    low, high = interval(value, error)
    if low >= least:
        return "met"
    return "not met" if high < least else "undecided"


def together(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the verdict on all of several conditions."""
    found = set(verdicts)
    if "not met" in found:
        return "not met"
    return "undecided" if "undecided" in found else "met"


def with_interval(value: float, error: float, digits: int, unit: str) -> str:
    """Return a figure for the reader, with its interval where that is known: `"2.71× (2.60 to 2.82)"`."""
    text = f"{value:.{digits}f}{unit}"
    if not error > 0:
        return text
    low, high = interval(value, error)
    return f"{text} ({low:.{digits}f} to {high:.{digits}f})"


@dataclass(frozen=True, slots=True)
class _Constraint:
    """A kind of constraint: the goal's field, the configuration's field, and how both are written."""

    field: str
    figure: str
    name: str
    digits: int
    unit: str
    missing_unit: str

    @property
    def is_least(self) -> bool:
        return self.field.startswith("min_")

    def limit(self, goal: Goal) -> float | None:
        limit: float | None = getattr(goal, self.field)
        return limit

    def asked(self, goal: Goal) -> str:
        return f"{self.name} {'≥' if self.is_least else '≤'} {self.limit(goal):g}{self.unit}"

    def found(self, value: float, error: float) -> str:
        if math.isnan(value):
            return "not known"
        return with_interval(value, error, self.digits, self.unit)


_EFFICIENCY: Final = _Constraint("min_efficiency", "efficiency", "efficiency", 1, " %", " points")
_SPEEDUP: Final = _Constraint("min_speedup", "speedup", "speedup", 2, "×", "×")
_CONSTRAINTS: Final = (
    _EFFICIENCY,
    _SPEEDUP,
    _Constraint("max_cpus", "cpus", "CPUs", 0, "", ""),
    _Constraint("max_ram_utilisation", "ram_utilisation", "RAM utilisation", 0, " %", " points"),
)


@dataclass(frozen=True, slots=True)
class _Standing:
    """How a configuration stands to one constraint of a goal.

    Attributes:
        asked: the constraint.
        found: the configuration's figure, with its interval.
        missing: what the figure lacks.
        reach: figure / threshold, or threshold / figure for an upper limit: from 1 up the constraint holds. NaN where not known.
        verdict: with the interval in mind.
        is_resource: True for what a machine has and time can't make up for.
    """

    asked: str
    found: str
    missing: str
    reach: float
    verdict: Verdict
    is_resource: bool


def _standings(configuration: Configuration, goal: Goal) -> list[_Standing]:
    standings = []
    for each in _CONSTRAINTS:
        limit = each.limit(goal)
        if limit is None:
            continue
        value = getattr(configuration, each.figure)
        error = configuration.speedup_error if each.is_least else NAN
        reach = formulas.ratio(value, limit) if each.is_least else formulas.ratio(limit, value)
        missing = f"{abs(limit - value):.3g}{each.missing_unit}"
        standings.append(
            _Standing(each.asked(goal), each.found(value, error), missing, reach, judge(reach, error, 1.0), not each.is_least)
        )
    return standings


# The choice


def _best(pool: Sequence[Configuration], goal: Goal) -> tuple[Configuration, list[Configuration]]:
    """Return the best of a pool, and all that noise can't tell from the fastest; those are empty where none meets the goal."""
    reaches = {each.scale: [standing.reach for standing in _standings(each, goal)] for each in pool}
    fit = [each for each in pool if all(reach >= 1 for reach in reaches[each.scale])]
    # What can't be known, such as RAM that nobody recorded, comes behind what is known to fit.
    fit = fit or [each for each in pool if not any(reach < 1 for reach in reaches[each.scale])]
    if not fit:
        return min(pool, key=lambda each: _distance(each, goal)), []
    fastest = max(fit, key=lambda each: each.sps)
    peers = [each for each in fit if _tied(each, fastest)]
    return min(peers, key=_cost), peers


def _tied(one: Configuration, other: Configuration) -> bool:
    """Return whether the difference of two throughputs is within its 95 % interval (Welch, on logs).

    Throughputs, not speedups: the baseline's error is in all speedups alike, and tells nothing about their difference.
    """
    errors = [math.log1p(each.sps_error / 100) for each in (one, other) if each.sps_error > 0]
    return abs(math.log(one.sps / other.sps)) <= math.hypot(*errors)


def _cost(configuration: Configuration) -> tuple[float, ...]:
    scale = configuration.scale
    return configuration.cpus, scale.parallelism, scale.num_env_runners, -configuration.sps


def _distance(configuration: Configuration, goal: Goal) -> tuple[float, ...]:
    """Return how far a configuration is from a goal: resources that are not there first, then what it lacks in all."""
    lacking = [(each.is_resource, 1 / each.reach - 1) for each in _standings(configuration, goal) if each.reach < 1]
    resources = sum(lack for is_resource, lack in lacking if is_resource)
    return resources, sum(lack for is_resource, lack in lacking if not is_resource), -configuration.sps


def _runner_up(known: Sequence[Configuration], choice: Configuration, goal: Goal) -> Configuration | None:
    others = [each for each in known if each is not choice]
    # Everybody knows the baseline: as an alternative it is worth naming only where there is no other.
    others = [each for each in others if not each.is_baseline] or others
    return _best(others, goal)[0] if others else None


# The words


def _listed(texts: Iterable[str]) -> str:
    *first, last = [*texts] or [""]
    return f"{', '.join(first)} and {last}" if first else last


def _cpus(cpus: float) -> str:
    return f"{cpus:g} CPU{'' if cpus == 1 else 's'}"


def _figures(configuration: Configuration) -> str:
    if math.isnan(configuration.speedup):
        rate = f"{configuration.sps:,.0f} steps/s"
    else:
        speedup = _SPEEDUP.found(configuration.speedup, configuration.speedup_error)
        rate = f"{speedup}, efficiency {configuration.efficiency:.1f} %"
    return f"{rate}, {_cpus(configuration.cpus)}"


def _reason(
    configurations: Sequence[Configuration],
    choice: Configuration,
    peers: Sequence[Configuration],
    goal: Goal,
    standings: Sequence[_Standing],
) -> list[str]:
    """Return the sentences that give the reason, and then those that say what makes it less than certain."""
    asks = _listed(each.asked for each in standings if not math.isnan(each.reach))
    asks = f" with {asks}" if asks else ""
    others = _listed(str(each.scale) for each in peers if each is not choice)
    if not peers:
        misses = _listed(f"{each.asked} by {each.missing}" for each in standings if each.reach < 1)
        sentences = [f"None was measured with {goal.asks}. {choice.scale} comes nearest ({_figures(choice)}): it misses {misses}."]
    elif others:
        which = f"the cheapest of the fastest{asks}, which noise can't tell apart (also {others})"
        sentences = [f"{choice.scale} is {which}: {_figures(choice)}."]
    else:
        sentences = [f"{choice.scale} is the fastest{asks}: {_figures(choice)}."]
    sentences += _undecided(standings, choice)
    if choice.band == "inefficient":
        sentences.append("That is in the band inefficient: consider less parallelism, unless resources are to spare.")
    return sentences + _doubts(configurations, choice)


def _undecided(standings: Sequence[_Standing], choice: Configuration) -> Iterator[str]:
    unknown = _listed(each.asked for each in standings if math.isnan(each.reach))
    if unknown:
        yield f"{choice.scale} can't be held against {unknown}: that was not recorded."
    straddled = _listed(f"{each.asked} at {each.found}" for each in standings if each.verdict == "undecided" and each.reach > 0)
    if straddled:
        yield f"Undecided is {straddled}: repeat {choice.scale} and the baseline to narrow the interval."


def _doubts(configurations: Sequence[Configuration], choice: Configuration) -> list[str]:
    sentences = []
    if math.isnan(choice.speedup):
        sentences.append(_NO_BASELINE)
    if math.isnan(choice.sps_error if math.isnan(choice.speedup) or choice.is_baseline else choice.speedup_error):
        sentences.append("This rests on single figures without an error: repeat the trials to know how sure it is.")
    elif not choice.between_runs:
        sentences.append("The interval speaks of one run's iterations; another run may differ by more.")
    if len(configurations) == 1:
        sentences.append("It is the only configuration: there is nothing to choose from until others are measured.")
    # What is known by throughput alone can't be compared with a choice that has a speedup; its note says why.
    incomparable = [each for each in configurations if each.sps > 0 and math.isnan(each.speedup) and choice.speedup > 0]
    if incomparable:
        sentences.append(f"Not comparable, and so left out: {_listed(str(each.scale) for each in incomparable)}.")
    concerned = [choice, *(each for each in configurations if each.is_baseline and each is not choice), *incomparable]
    sentences += [f"{each.scale}: {each.note}." for each in concerned if each.note]
    unknown = [str(each.scale) for each in configurations if math.isnan(each.sps)]
    if unknown:
        sentences.append(f"Without a throughput, and so left out: {_listed(unknown)}. {_TOO_SHORT}")
    return sentences


_ENOUGH: Final = DEFAULT_RULE.warmup_iterations + DEFAULT_RULE.max_iterations
"""Iterations after which a trial's throughput is as settled as it gets."""

HOW_TO_GET_A_BASELINE: Final = (
    f"Run a trial of the same workload with 1 env runner × 1 env for {_ENOUGH} iterations, "
    "or give ScalingCallback a baseline_dir or baseline_sps."
)
_NO_BASELINE: Final = f"Without a baseline, speedup and efficiency are not known. {HOW_TO_GET_A_BASELINE}"
_TOO_SHORT: Final = f"The first {DEFAULT_RULE.warmup_iterations} iterations of a trial are warm-up: let it run {_ENOUGH}."


def _missing(configurations: Sequence[Configuration]) -> str:
    """Return what is missing where no configuration can be judged, and how to get it."""
    if not configurations:
        return "No configuration was measured: run trials that differ in num_env_runners and num_envs_per_env_runner."
    if any(each.sps > 0 for each in configurations):
        return _NO_BASELINE
    return f"No configuration has a steady throughput ({_listed(str(each.scale) for each in configurations)}). {_TOO_SHORT}"


def _against(runner_up: Configuration, choice: Configuration, goal: Goal) -> str:
    """Return what the runner-up has and lacks beside the choice."""
    percent = 100 * (runner_up.sps / choice.sps - 1)
    if _tied(runner_up, choice):
        pace = "is as fast within the noise"
    else:
        pace = f"is {abs(percent):.{0 if abs(percent) >= 1 else 1}f} % {'faster' if percent > 0 else 'slower'}"
    more = runner_up.cpus - choice.cpus
    if more:
        books = f"holds {_cpus(abs(more))} {'more' if more > 0 else 'fewer'}"
    else:
        books = f"holds as many CPUs, with N = {runner_up.scale.parallelism} against {choice.scale.parallelism}"
    pays = more * percent > 0 and not _tied(runner_up, choice)
    text = f"{runner_up.scale} {pace} {'but' if pays else 'and'} {books}"
    standings = _standings(runner_up, goal)
    short = _listed(f"{each.asked} by {each.missing}" for each in standings if each.reach < 1)
    unclear = _listed(each.asked for each in standings if each.verdict == "undecided" and not each.reach < 1)
    return text + (f"; it misses {short}" if short else "") + (f"; undecided is {unclear}" if unclear else "") + "."


def _bottleneck(choice: Configuration) -> str:
    if choice.diagnosis:
        return choice.diagnosis + (" (estimated: stepping and contention can't be told apart)" if choice.losses_estimated else "")
    serial = formulas.serial_fraction(choice.speedup, choice.scale.parallelism)
    if not serial > 0:
        return ""
    return f"as if {100 * serial:.0f} % of the work were serial (Karp–Flatt); where the time goes was not recorded"


def _code(choice: Configuration) -> str:
    scale = choice.scale
    return (
        "config.env_runners(\n"
        f"    num_env_runners={scale.num_env_runners},\n"
        f"    num_envs_per_env_runner={scale.num_envs_per_env_runner},\n"
        ")\n"
        f"# a trial takes {_cpus(choice.cpus)}: ray.init(num_cpus={math.ceil(choice.cpus)}) or more"
    )


# What was not measured


_MOST_NEXT: Final = 3
"""How many configurations are named to measure next: a batch that is worth the time before the law is fitted anew."""


def env_steps_of(law: Fit, configurations: Sequence[Configuration]) -> float:
    """Return the env steps that the seconds of a law stand for: the geometric mean of measured SPS × its seconds.

    A law predicts the time of some equal amount of work; divided by that time, these steps are the predicted SPS.
    """
    steps = [each.sps * law.predict(each.scale).seconds for each in configurations]
    logs = [math.log(each) for each in steps if each > 0]
    return math.exp(math.fsum(logs) / len(logs)) if logs else NAN


def _measure_next(
    known: Sequence[Configuration], choice: Configuration, goal: Goal, laws: Laws | None
) -> tuple[tuple[Scale, float], ...]:
    measured = {each.scale for each in known}
    if laws is None or laws.chosen is None:
        beyond = [_unmeasured(scale, NAN, choice) for scale in _beyond(measured, choice.scale)]
        return tuple((each.scale, NAN) for each in beyond if each.cpus <= _most_cpus(known) and _may_fit(each, goal))
    law = laws.chosen
    env_steps = env_steps_of(law, known)
    # Where the choice misses the goal, whatever meets it is better.
    to_beat = interval(choice.sps, choice.sps_error)[1] if _may_fit(choice, goal) else 0.0
    found = []
    for scale in _between_and_beyond(measured):
        prediction = law.predict(scale)
        if prediction.extrapolated:
            continue
        each = _unmeasured(scale, formulas.ratio(env_steps, prediction.seconds), choice)
        if each.sps > to_beat and each.cpus <= _most_cpus(known) and _may_fit(each, goal):
            found.append(each)
    found.sort(key=lambda each: -each.sps)
    return tuple((each.scale, each.speedup) for each in found[:_MOST_NEXT])


def _may_fit(configuration: Configuration, goal: Goal) -> bool:
    return not any(each.reach < 1 for each in _standings(configuration, goal))


def _unmeasured(scale: Scale, sps: float, choice: Configuration) -> Configuration:
    """Return what a configuration is expected to be; its CPUs go by those that the choice holds for an env runner."""
    runners = choice.scale.num_env_runners
    each = (choice.cpus - 1) / runners if runners else 1.0
    speedup = formulas.ratio(sps * choice.speedup, choice.sps)
    return replace(
        choice,
        scale=scale,
        sps=sps,
        speedup=speedup,
        speedup_error=NAN,
        efficiency=formulas.efficiency(speedup, scale.parallelism),
        cpus=1 + each * scale.num_env_runners,
        ram_utilisation=NAN,
    )


def _most_cpus(known: Sequence[Configuration]) -> float:
    """Return the CPUs that a trial may take here: the cores, or what one has taken already; infinite where not known."""
    cores = [run.cores for each in known for run in each.runs if run.cores > 0]
    return max([*cores, *(each.cpus for each in known)]) if cores else math.inf


def _beyond(measured: set[Scale], scale: Scale) -> list[Scale]:
    """Return the doublings of a scale along each axis on which nothing larger was measured."""
    runners, envs = scale.num_env_runners, scale.num_envs_per_env_runner
    doubled = []
    if runners == max(each.num_env_runners for each in measured):
        doubled.append(Scale(max(1, 2 * runners), envs))
    if envs == max(each.num_envs_per_env_runner for each in measured):
        doubled.append(Scale(runners, 2 * envs))
    return doubled


def _between_and_beyond(measured: set[Scale]) -> list[Scale]:
    """Return the scales of the measured grid, refined and doubled, that were not measured."""
    runners = _refined({each.num_env_runners for each in measured})
    envs = _refined({each.num_envs_per_env_runner for each in measured})
    return [scale for r in runners for e in envs if (scale := Scale(r, e)) not in measured]


def _refined(values: set[int]) -> list[int]:
    """Return counts with their doubles and the middles between neighbours."""
    ordered = sorted(values)
    middles = {(low + high) // 2 for low, high in pairwise(ordered)}
    return sorted(values | middles | {max(1, 2 * each) for each in ordered})
