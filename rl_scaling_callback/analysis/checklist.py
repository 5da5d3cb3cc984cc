"""The checklist for before, during and after the choice of a configuration, filled in from data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import fmean, stdev
from typing import Final, Literal, NamedTuple

from rl_scaling_callback.analysis.configurations import Configuration
from rl_scaling_callback.analysis.goals import Verdict, combined, judge, judge_speedup
from rl_scaling_callback.analysis.laws import Laws
from rl_scaling_callback.analysis.recommendation import ENOUGH_ITERATIONS, Recommendation
from rl_scaling_callback.analysis.returns import FEWEST_RETURNS, LASTING
from rl_scaling_callback.core.formulas import interval
from rl_scaling_callback.core.text import counted, listed, percent, rounded, with_interval

TARGET_EFFICIENCY: Final = 60.0
"""Efficiency [%] to aim for: the lower bound of the band "good"."""

HIGHEST_UTILISATION: Final = 80.0
"""CPU and RAM utilisation [%] to stay below."""

TO_GET_A_BASELINE: Final = (
    f"Run a trial of the same workload with 1 env runner × 1 env for {ENOUGH_ITERATIONS} iterations, "
    "or give ScalingCallback probe=True, a baseline_dir or baseline_sps. A table needs a row of that scale."
)

_NO_SPEEDUP: Final = "Its speedup is unknown."
_NO_PERF: Final = "Not recorded: RLlib reports it under perf, for iterations of 0.7 s or more."

Stage = Literal["before", "choosing", "after"]

_Answer = tuple[Verdict, str]
"""Verdict and evidence."""


class Check(NamedTuple):
    """One item of the checklist.

    Attributes:
        stage: when the question arises.
        question: the question.
        verdict: the answer; "undecided" if the data are insufficient.
        evidence: the numbers behind the verdict, or what is missing and how to get it.
    """

    stage: Stage
    question: str
    verdict: Verdict
    evidence: str


def checklist(recommendation: Recommendation, laws: Laws | None = None, gpus: Sequence[str] | None = None) -> tuple[Check, ...]:
    """Return the checklist, filled in from data.

    Args:
        recommendation: the recommendation to check, with the configurations that it is based on.
        laws: the scaling laws fitted to them.
        gpus: names of the GPUs in use, see `Study`.
    """
    configurations = recommendation.measured
    runs = [run for each in configurations for run in each.runs]
    before: dict[str, _Answer] = {
        "Was the baseline's SPS measured?": _baseline(configurations),
        "Are the CPU cores known?": _cores([run.cores for run in runs]),
        "Is the GPU known?": _gpu(gpus),
        "Is the RAM headroom known?": _headroom("a node's RAM", [each.ram_utilisation for each in configurations], _NO_PERF),
        "Is the VRAM headroom known?": _vram([run.vram_utilisation for run in runs], gpus),
    }
    stages: dict[Stage, dict[str, _Answer]] = {"before": before, **_of_choice(recommendation, laws)}
    return tuple(Check(stage, question, *answer) for stage, answers in stages.items() for question, answer in answers.items())


def _of_choice(recommendation: Recommendation, laws: Laws | None) -> dict[Stage, dict[str, _Answer]]:
    choice = recommendation.choice
    if choice is None:
        return {}
    baseline = next((each for each in recommendation.measured if each.is_baseline), None)
    return {
        "choosing": {
            f"Is the efficiency at least {TARGET_EFFICIENCY:g} %?": _efficiency(choice, TARGET_EFFICIENCY),
            f"Is the CPU utilisation below {HIGHEST_UTILISATION:g} %?": _utilisation(choice.cpu_utilisation, "on average"),
            f"Is the RAM utilisation below {HIGHEST_UTILISATION:g} %?": _utilisation(choice.ram_utilisation, "at most"),
        },
        "after": {
            "Did SPS increase?": _rose(choice),
            "Is the speedup in the expected range?": _expected(choice, laws),
            "Does the efficiency meet the goal's threshold?": _efficiency(choice, recommendation.goal.min_efficiency),
            "Is learning still stable?": _learning(choice, baseline),
        },
    }


def _baseline(configurations: Sequence[Configuration]) -> _Answer:
    baseline = next((each for each in configurations if each.is_baseline), None)
    if baseline is not None and baseline.sps > 0:
        error = "no error estimate" if math.isnan(baseline.sps_error) else percent(baseline.sps_error)
        return "met", f"{baseline.scale}: {rounded(baseline.sps, 0)} steps/s, {error}, from {counted(len(baseline.runs), 'run')}."
    given = next((each.baseline_sps for each in configurations if each.baseline_sps > 0), None)
    if given is None:
        return "not met", TO_GET_A_BASELINE
    return "met", f"{rounded(given, 0)} steps/s; the experiment has no run at that scale."


def _cores(values: Sequence[float]) -> _Answer:
    known = [value for value in values if value >= 0]
    if not known:
        return "undecided", "Not recorded: the baseline file that a 1r×1e trial with ScalingCallback writes contains them."
    return "met", f"{max(known):g} logical cores."


def _gpu(gpus: Sequence[str] | None) -> _Answer:
    if gpus is not None and all(gpus):
        return "met", f"{listed(gpus)}, as named by Ray." if gpus else "The config requests no GPU."
    what = "Not recorded" if gpus is None else "A GPU is used, but its name was not recorded"
    return "undecided", f"{what}: run nvidia-smi on the training host."


def _headroom(what: str, values: Sequence[float], missing: str) -> _Answer:
    known = [value for value in values if value >= 0]
    if not known:
        return "undecided", missing
    return "met", f"At most {rounded(max(known), 0)} % of {what} was in use, {rounded(100 - max(known), 0)} % free."


def _vram(used: Sequence[float], gpus: Sequence[str] | None) -> _Answer:
    missing = "Not recorded: RLlib needs GPUtil to record it. Or watch nvidia-smi during a trial."
    recorded = _headroom("a GPU's memory", used, missing)
    return _gpu(gpus) if recorded[0] != "met" and gpus is not None and not gpus else recorded


def _utilisation(used: float, how: str) -> _Answer:
    if math.isnan(used):
        return "undecided", _NO_PERF
    return "met" if used < HIGHEST_UTILISATION else "not met", f"{rounded(used, 0)} % of the node {how}."


def _efficiency(choice: Configuration, least: float | None) -> _Answer:
    if math.isnan(choice.efficiency):
        return "undecided", _NO_SPEEDUP
    shown = f"{with_interval(choice.efficiency, choice.speedup_error, 1, ' %')}, {choice.band}"
    if least is None:
        return "met", f"{shown}; the goal has no threshold."
    return judge_speedup(choice, choice.efficiency, least), f"{shown}; threshold {least:g} %."


def _speedup(choice: Configuration) -> str:
    return with_interval(choice.speedup, choice.speedup_error, 2, "×")


def _rose(choice: Configuration) -> _Answer:
    if choice.is_baseline:
        return "not met", f"The choice, {choice.scale}, is the baseline."
    if math.isnan(choice.speedup):
        return "undecided", _NO_SPEEDUP
    evidence = f"{rounded(choice.sps, 0)} steps/s, baseline {rounded(choice.baseline_sps, 0)}: {_speedup(choice)}."
    return judge_speedup(choice, choice.speedup, 1.0), evidence


def _expected(choice: Configuration, laws: Laws | None) -> _Answer:
    """Compare with the law's prediction interval, or with 1 to N if there is none."""
    speedup, n = choice.speedup, choice.ideal
    if math.isnan(speedup):
        return "undecided", _NO_SPEEDUP
    if laws is not None and laws.chosen is not None:
        predicted = laws.chosen.predict(choice.scale)
        if predicted.speedup > 0 and predicted.speedup_error > 0:
            low, high = interval(predicted.speedup, predicted.speedup_error)
            evidence = f"{_speedup(choice)}; the scaling law predicts {rounded(low, 2)} to {rounded(high, 2)}×."
            return "met" if low <= speedup <= high else "not met", evidence
    verdict = combined((judge(speedup, choice.speedup_error, 1.0), judge(n / speedup, choice.speedup_error, 1.0)))
    return verdict, f"{_speedup(choice)}; no prediction, so any speedup from 1 to N = {n:.4g} is expected."


def _learning(choice: Configuration, baseline: Configuration | None) -> _Answer:
    """Compare mean returns over the last quarter of the env steps that both have taken, and times to return if they are known.

    The spread is the standard deviations of both sides' returns there, added in quadrature. Seeds alone make curves differ: only a
    return that is lower by more than two spreads counts as unstable; between one and two, the check is undecided. The same holds
    for a choice that gets to a return later than the baseline: it counts as unstable only if its interval confirms that.
    """
    if baseline is None:
        return "undecided", "The experiment has no run of the baseline to compare returns with."
    if choice is baseline:
        return "met", f"The choice, {choice.scale}, is the baseline."
    ours, theirs = _returns(choice), _returns(baseline)
    if not (ours and theirs):
        lacking = listed(str(each.scale) for each, known in ((choice, ours), (baseline, theirs)) if not known)
        advice = "episodes must end, and the result of each iteration must be kept"
        return "undecided", f"No returns recorded for {lacking}: {advice}."
    common = min(max(ours)[0], max(theirs)[0])
    start = (1 - LASTING) * common
    here, there = ([each for steps, each in returns if start < steps <= common] for returns in (ours, theirs))
    over = f"over env steps {rounded(start, 0)} to {rounded(common, 0)}"
    if min(len(here), len(there)) < FEWEST_RETURNS:
        return "undecided", (
            f"{len(here)} iterations of {choice.scale} and {len(there)} of {baseline.scale} have returns {over}; "
            f"{FEWEST_RETURNS} of each are needed. Run both longer."
        )
    mean, target, spread = fmean(here), fmean(there), math.hypot(stdev(here), stdev(there))
    lower = target - mean
    verdict: Verdict = "met" if lower <= spread else "not met" if lower > 2 * spread else "undecided"
    shown = [*_alike(mean, target, spread)]
    evidence = f"Mean return {shown[0]}, {baseline.scale}: {shown[1]}, spread {shown[2]}, {over}."
    if math.isnan(choice.to_return.target):
        return verdict, evidence
    steps = [rounded(each.env_steps, 0) for each in (choice.to_return, baseline.to_return)]
    evidence += f" At {choice.to_return.name} after {steps[0]} env steps, {baseline.scale}: {steps[1]}"
    evidence += f"; speedup of the time to it {with_interval(choice.sooner, choice.sooner_error, 2, '×')}."
    error = math.inf if math.isnan(choice.sooner_error) else choice.sooner_error
    by_time: Verdict = "met" if choice.sooner >= 1 else judge(choice.sooner, error, 1.0)
    return combined((verdict, by_time)), evidence


def _alike(mean: float, target: float, spread: float) -> Iterator[str]:
    """Yield returns and their spread with equally many decimals."""
    # Two digits of the spread; without a spread, of a hundredth of the returns.
    unit = spread or max(abs(mean), abs(target)) / 100
    decimals = min(6, max(0, 1 - math.floor(math.log10(unit)))) if unit > 0 else 0
    yield from (f"{each:,.{decimals}f}" for each in (mean, target, spread))


def _returns(configuration: Configuration) -> list[tuple[float, float]]:
    """Return the lifetime env steps and mean return of each iteration of all runs, if both are known."""
    pairs = [(sample.lifetime_steps, sample.episode_return) for run in configuration.runs for sample in run.samples]
    return [pair for pair in pairs if all(map(math.isfinite, pair))]
