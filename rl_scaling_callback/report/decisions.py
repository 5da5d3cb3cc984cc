"""Turns the decisions of `analysis` into text: goals, recommendations and the checklist."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from rl_scaling_callback.analysis.checklist import FEWEST_RETURNS, HIGHEST_UTILISATION, TARGET_EFFICIENCY, Check
from rl_scaling_callback.analysis.configurations import Configuration
from rl_scaling_callback.analysis.goals import Goal, Limit, Standing, standings
from rl_scaling_callback.analysis.recommendation import ENOUGH_ITERATIONS, Doubt, Recommendation, Remedy, tied
from rl_scaling_callback.core import formulas
from rl_scaling_callback.core.steady import DEFAULT_RULE
from rl_scaling_callback.report.notes import notes_text
from rl_scaling_callback.report.text import counted, cpus, listed, percent, printable, rounded, with_interval

_TO_GET_A_BASELINE: Final = (
    f"Run a trial of the same workload with 1 env runner × 1 env for {ENOUGH_ITERATIONS} iterations, "
    "or give ScalingCallback probe=True, a baseline_dir or baseline_sps. A table needs a row of that scale."
)
_TO_GET_A_THROUGHPUT: Final = (
    f"The first {DEFAULT_RULE.warmup_iterations} iterations of a trial are warm-up: run it for {ENOUGH_ITERATIONS}."
)


# Goals

_FIGURES: Final[Mapping[str, tuple[str, int, str]]] = {
    "efficiency": ("efficiency", 1, " %"),
    "speedup": ("speedup", 2, "×"),
    "cpus": ("CPUs", 0, ""),
    "ram_utilisation": ("RAM utilisation", 0, " %"),
}
"""Name, decimals and unit of each figure that a goal can limit."""


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


def choice_text(recommendation: Recommendation) -> str:
    """Return the recommended configuration with its figures."""
    choice = recommendation.choice
    if choice is None:
        return "No recommendation yet"
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
    if recommendation.ground == "surrogate":
        yield f"{scale} ranks best when all measurements are combined. Its own figures: {figures}."
        if lacking:
            yield f"These miss {lacking}."
        if barely:
            yield f"These meet {barely} only within error."
    elif recommendation.ground == "nearest":
        yield f"No measured configuration meets {_asked(recommendation.goal.limits)}."
        near = f"{_scales(recommendation.peers)} come equally close, within noise{cheapest}" if others else f"{scale} comes closest"
        yield f"{near}: {figures}."
        yield f"It misses {lacking}."
    else:
        asked = _asked(each.limit for each in stands if not math.isnan(each.reach))
        asked += " within error" if barely else ""
        fastest = f"fastest with {asked}" if asked else "fastest"
        best = f"{_scales(recommendation.peers)} are the {fastest}, tied within noise{cheapest}" if others else ""
        yield f"{best or f'{scale} is the {fastest}'}: {figures}."


def _why_cheapest(choice: Configuration, others: list[Configuration]) -> str:
    if all(each.cpus > choice.cpus for each in others):
        return "needs the fewest CPUs"
    return "needs no more CPUs than the others and has the smallest N"


def doubt_lines(recommendation: Recommendation) -> Iterator[str]:
    """Yield what makes the decision uncertain and what to do about it, in sentences."""
    choice = recommendation.choice
    if choice is not None:
        stands = recommendation.standings
        if unknown := _asked(each.limit for each in stands if math.isnan(each.reach)):
            yield f"Whether {choice.scale} meets {unknown} is unknown: it was not recorded."
        straddled = listed(
            f"{_limit(each.limit)} at {with_interval(each.value, each.error, *_FIGURES[each.limit.figure][1:])}"
            for each in stands
            if each.verdict == "undecided" and each.reach > 0
        )
        if recommendation.remedy is not None:
            yield f"Undecided: {straddled}; {_remedy(recommendation.remedy, choice)}."
        if choice.band == "inefficient":
            yield "Its band is inefficient: consider less parallelism unless CPUs are plentiful."
    for doubt in recommendation.doubts:
        yield from _doubt(doubt)


def _remedy(remedy: Remedy, choice: Configuration) -> str:
    if remedy.kind == "undisturbed repeats":
        return f"other programs interfered with {choice.scale} or the baseline. Repeat both without them"
    what = "repeats" if remedy.kind == "repeats" else "more rounds of probes"
    if remedy.times == math.inf:
        return f"too close for {remedy.most} {what} to settle"
    if remedy.kind == "rounds":
        return f"about {counted(round(remedy.times), 'more round')} of probes would settle it"
    times = {1: " once", 2: " twice"}.get(int(remedy.times), f" {remedy.times:.0f} times") if remedy.times > 0 else ""
    cost = f", about {rounded(remedy.seconds, 0)} s plus start-up" if remedy.seconds > 0 else ""
    return f"repeat {choice.scale} and the baseline{times}{cost}"


def _doubt(doubt: Doubt) -> Iterator[str]:
    about = _scales(doubt.about)
    if doubt.kind == "noted":
        yield from (f"{each.scale}: {printable(notes_text(each.notes))}." for each in doubt.about)
    elif doubt.kind == "no throughput":
        yield f"Left out, no throughput measured: {about}. {_TO_GET_A_THROUGHPUT}"
    else:
        yield {
            "nothing measured": "No configuration was measured: run trials with different num_env_runners and "
            "num_envs_per_env_runner.",
            "no baseline": f"Without a baseline, speedup and efficiency are unknown. {_TO_GET_A_BASELINE}",
            "no error": "These figures have no error estimate: repeat the trials to get one.",
            "no baseline error": "The error of the baseline is unknown, so speedup and efficiency have no interval: measure it "
            f"with a trial of {ENOUGH_ITERATIONS} iterations in this experiment.",
            "nothing to compare": "It is the only configuration: measure others to compare it with.",
            "not comparable": f"Left out, not comparable: {about}.",
            "not alone": "Run trials one at a time: TuneConfig(max_concurrent_trials=1).",
        }[doubt.kind]


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


# The checklist

_QUESTIONS: Final[Mapping[str, str]] = {
    "baseline": "Was the baseline's SPS measured?",
    "cores": "Are the CPU cores known?",
    "gpu": "Is the GPU known?",
    "ram": "Is the RAM headroom known?",
    "vram": "Is the VRAM headroom known?",
    "efficiency": f"Is the efficiency at least {TARGET_EFFICIENCY:g} %?",
    "cpu_utilisation": f"Is the CPU utilisation below {HIGHEST_UTILISATION:g} %?",
    "ram_utilisation": f"Is the RAM utilisation below {HIGHEST_UTILISATION:g} %?",
    "sps": "Did SPS increase?",
    "speedup": "Is the speedup in the expected range?",
    "goal": "Does the efficiency meet the goal's threshold?",
    "learning": "Is learning still stable?",
}

_NO_PERF: Final = "Not recorded: RLlib reports it under perf, for iterations of 0.7 s or more."
_NO_GPU: Final = "The config requests no GPU."


def question_text(check: Check) -> str:
    """Return the question of a checklist item."""
    return _QUESTIONS[check.name]


def answer_text(check: Check) -> str:
    """Return the answer to the question: yes, no or undecided."""
    return {"met": "yes", "not met": "no"}.get(check.verdict, check.verdict)


def evidence_text(check: Check) -> str:
    """Return the numbers behind the verdict, or what is missing and how to get it."""
    found = check.figures
    written = _EVIDENCE.get((check.name, check.finding)) or _EVIDENCE["", check.finding]
    return written if isinstance(written, str) else written(found)


def _efficiency(found: Mapping[str, Any]) -> str:
    choice = found["choice"]
    return f"{with_interval(choice.efficiency, choice.speedup_error, 1, ' %')}, {choice.band}"


def _speedup(found: Mapping[str, Any]) -> str:
    return with_interval(found["choice"].speedup, found["choice"].speedup_error, 2, "×")


def _free(found: Mapping[str, Any]) -> str:
    return f"in use, {rounded(100 - found['most'], 0)} % free."


def _baseline(found: Mapping[str, Any]) -> str:
    baseline: Configuration = found["configuration"]
    error = "no error estimate" if math.isnan(baseline.sps_error) else percent(baseline.sps_error)
    return f"{baseline.scale}: {rounded(baseline.sps, 0)} steps/s, {error}, from {counted(len(baseline.runs), 'run')}."


def _returns(found: Mapping[str, Any]) -> str:
    mean, target, spread = found["mean"], found["target"], found["spread"]
    # Two digits of the spread; without a spread, of a hundredth of the returns.
    unit = spread or max(abs(mean), abs(target)) / 100
    decimals = min(6, max(0, 1 - math.floor(math.log10(unit)))) if unit > 0 else 0
    ours, theirs, noise = (f"{each:,.{decimals}f}" for each in (mean, target, spread))
    return f"Mean return {ours}, {found['baseline'].scale}: {theirs}, spread {noise}, {_over(found)}."


def _over(found: Mapping[str, Any]) -> str:
    return f"over env steps {rounded(found['start'], 0)} to {rounded(found['end'], 0)}"


_EVIDENCE: Final[Mapping[tuple[str, str], str | Callable[[Mapping[str, Any]], str]]] = {
    ("", "no choice"): "No configuration is recommended.",
    ("", "no baseline"): _TO_GET_A_BASELINE,
    ("", "is baseline"): lambda found: f"The choice, {found['choice'].scale}, is the baseline.",
    ("", "none used"): _NO_GPU,
    ("baseline", "measured"): _baseline,
    ("baseline", "given"): lambda found: f"{rounded(found['sps'], 0)} steps/s; the experiment has no run at that scale.",
    ("cores", "recorded"): lambda found: f"{found['most']:g} logical cores.",
    ("cores", "not recorded"): "Not recorded: the baseline file that a 1r×1e trial with ScalingCallback writes contains them.",
    ("gpu", "recorded"): lambda found: f"{listed(found['names'])}, as named by Ray.",
    ("gpu", "not recorded"): "Not recorded: run nvidia-smi on the training host.",
    ("gpu", "not named"): "A GPU is used, but its name was not recorded: run nvidia-smi on the training host.",
    ("ram", "recorded"): lambda found: f"At most {rounded(found['most'], 0)} % of a node's RAM was {_free(found)}",
    ("vram", "recorded"): lambda found: f"At most {rounded(found['most'], 0)} % of a GPU's memory was {_free(found)}",
    (
        "vram",
        "not recorded",
    ): "Not recorded: RLlib needs GPUtil to record it. Or watch nvidia-smi during a trial.",
    ("cpu_utilisation", "recorded"): lambda found: f"{rounded(found['percent'], 0)} % of the node on average.",
    ("ram_utilisation", "recorded"): lambda found: f"{rounded(found['percent'], 0)} % of the node at most.",
    ("", "not recorded"): _NO_PERF,
    ("", "no threshold"): lambda found: f"{_efficiency(found)}; the goal has no threshold.",
    ("", "compared"): lambda found: f"{_efficiency(found)}; threshold {found['least']:g} %.",
    ("sps", "compared"): lambda found: (
        f"{rounded(found['choice'].sps, 0)} steps/s, baseline {rounded(found['choice'].baseline_sps, 0)}: {_speedup(found)}."
    ),
    ("speedup", "predicted"): lambda found: (
        f"{_speedup(found)}; law {found['law']} predicts {rounded(found['low'], 2)} to {rounded(found['high'], 2)}× "
        f"(mean leave-one-out error {rounded(found['error'], 1)} %)."
    ),
    ("speedup", "not predicted"): lambda found: (
        f"{_speedup(found)}; no prediction, so any speedup from 1 to N = {found['choice'].ideal:.4g} is expected."
    ),
    ("learning", "no baseline"): "The experiment has no run of the baseline to compare returns with.",
    ("learning", "no returns"): lambda found: (
        f"No returns recorded for {_scales(found['of'])}: episodes must end, and the result of each iteration must be kept."
    ),
    ("learning", "too few returns"): lambda found: (
        f"{found['here']} iterations of {found['choice'].scale} and {found['there']} of {found['baseline'].scale} have returns "
        f"{_over(found)}; {FEWEST_RETURNS} of each are needed. Run both longer."
    ),
    ("learning", "compared"): _returns,
}
"""The text of each finding: for the check of that name, otherwise for all checks (name "")."""
