"""The checklist for before, during and after the choice of a configuration, filled in from data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import fmean, stdev
from typing import Final, NamedTuple

from rl_scaling_callback.analysis.choice import TO_GET_A_BASELINE, Recommendation
from rl_scaling_callback.analysis.configurations import Configuration
from rl_scaling_callback.analysis.goals import Verdict, combined, judge, standing
from rl_scaling_callback.analysis.laws import Laws
from rl_scaling_callback.analysis.returns import END_OF_RUN, MIN_RETURNS
from rl_scaling_callback.analysis.runs import Run
from rl_scaling_callback.core.formulas import NAN, interval, mean_of_known
from rl_scaling_callback.core.text import counted, listed, percent, rounded, with_interval

TARGET_EFFICIENCY: Final = 60.0
"""Efficiency [%] to aim for: the lower bound of the band "good"."""

MAX_UTILISATION: Final = 80.0
"""CPU and RAM utilisation [%] to stay below."""

_NO_CORES: Final = "Not recorded: the baseline file that a 1r×1e trial with ScalingCallback writes contains them."
_NO_PERF: Final = "Not recorded: RLlib reports it under perf, for iterations of 0.7 s or more."
_NO_GPUTIL: Final = "Not recorded: RLlib needs GPUtil to record it. Or watch nvidia-smi during a trial."

_Answer = tuple[Verdict, str]
"""Verdict, "undecided" if the data are insufficient, and the numbers behind it, or what is missing and how to get it."""


class Check(NamedTuple):
    """One item of the checklist: its stage ("before", "choosing" or "after"), the question, and the answer with its evidence."""

    stage: str
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
    return (*_before(recommendation, gpus), *_of_choice(recommendation, laws))


def _before(recommendation: Recommendation, gpus: Sequence[str] | None) -> Iterator[Check]:
    runs = [run for each in recommendation.measured for run in each.runs]
    cores, ram, vram = (_largest(runs, figure) for figure in ("cores", "ram_utilisation", "vram_utilisation"))
    has_no_gpu = gpus is not None and not gpus
    free_vram = _gpu(gpus) if has_no_gpu and math.isnan(vram) else _recorded(vram, _headroom("a GPU's memory", vram), _NO_GPUTIL)
    yield Check("before", "Was the baseline's SPS measured?", *_baseline(recommendation))
    yield Check("before", "Are the CPU cores known?", *_recorded(cores, f"{cores:g} logical cores.", _NO_CORES))
    yield Check("before", "Is the GPU known?", *_gpu(gpus))
    yield Check("before", "Is the RAM headroom known?", *_recorded(ram, _headroom("a node's RAM", ram), _NO_PERF))
    yield Check("before", "Is the VRAM headroom known?", *free_vram)


def _of_choice(recommendation: Recommendation, laws: Laws | None) -> Iterator[Check]:
    choice, least = recommendation.choice, recommendation.goal.min_efficiency
    if choice is None:
        return
    cpu, ram = mean_of_known(run.cpu_utilisation for run in choice.runs), _largest(choice.runs, "ram_utilisation")
    yield Check("choosing", f"Is the efficiency at least {TARGET_EFFICIENCY:g} %?", *_efficiency(choice, TARGET_EFFICIENCY))
    yield Check("choosing", f"Is the CPU utilisation below {MAX_UTILISATION:g} %?", *_utilisation(cpu, "on average"))
    yield Check("choosing", f"Is the RAM utilisation below {MAX_UTILISATION:g} %?", *_utilisation(ram, "at most"))
    yield Check("after", "Did SPS increase?", *_rose(choice))
    yield Check("after", "Is the speedup in the expected range?", *_expected(choice, laws))
    yield Check("after", "Does the efficiency meet the goal's threshold?", *_efficiency(choice, least))
    yield Check("after", "Is learning still stable?", *_learning(choice, recommendation.baseline))


def _largest(runs: Sequence[Run], figure: str) -> float:
    return max((getattr(run, figure) for run in runs if getattr(run, figure) >= 0), default=NAN)


def _recorded(value: float, evidence: str, missing: str) -> _Answer:
    return ("undecided", missing) if math.isnan(value) else ("met", evidence)


def _headroom(what: str, used: float) -> str:
    return f"At most {rounded(used, 0)} % of {what} was in use, {rounded(100 - used, 0)} % free."


def _utilisation(used: float, how: str) -> _Answer:
    verdict, evidence = _recorded(used, f"{rounded(used, 0)} % of the node {how}.", _NO_PERF)
    return "not met" if used >= MAX_UTILISATION else verdict, evidence


def _baseline(recommendation: Recommendation) -> _Answer:
    baseline = recommendation.baseline
    if baseline is not None and baseline.sps > 0:
        error = "no error estimate" if math.isnan(baseline.sps_error) else percent(baseline.sps_error)
        return "met", f"{baseline.scale}: {rounded(baseline.sps, 0)} steps/s, {error}, from {counted(len(baseline.runs), 'run')}."
    given = next((each.baseline_sps for each in recommendation.measured if each.baseline_sps > 0), None)
    if given is None:
        return "not met", TO_GET_A_BASELINE
    return "met", f"{rounded(given, 0)} steps/s; the experiment has no run at that scale."


def _gpu(gpus: Sequence[str] | None) -> _Answer:
    if gpus is not None and all(gpus):
        return "met", f"{listed(gpus)}, as named by Ray." if gpus else "The config requests no GPU."
    what = "Not recorded" if gpus is None else "A GPU is used, but its name was not recorded"
    return "undecided", f"{what}: run nvidia-smi on the training host."


def _efficiency(choice: Configuration, least: float | None) -> _Answer:
    shown = f"{with_interval(choice.efficiency, choice.speedup_error, 1, ' %')}, {choice.band}"
    if least is None:
        return _of_speedup(choice, "met", f"{shown}; the goal has no threshold.")
    return _of_speedup(choice, standing(choice, "efficiency", least).verdict, f"{shown}; threshold {least:g} %.")


def _rose(choice: Configuration) -> _Answer:
    if choice.is_baseline:
        return "not met", f"The choice, {choice.scale}, is the baseline."
    rates = f"{rounded(choice.sps, 0)} steps/s, baseline {rounded(choice.baseline_sps, 0)}"
    return _of_speedup(choice, standing(choice, "speedup", 1.0).verdict, f"{rates}: {_speedup(choice)}.")


def _expected(choice: Configuration, laws: Laws | None) -> _Answer:
    """Compare with the law's prediction interval, or with 1 to N if there is none."""
    speedup, error, n = choice.speedup, choice.speedup_error, choice.ideal
    predicted = laws.chosen.predict(choice.scale) if laws is not None and laws.chosen is not None else None
    if predicted is not None and predicted.speedup > 0 and predicted.speedup_error > 0:
        low, high = interval(predicted.speedup, predicted.speedup_error)
        evidence = f"{_speedup(choice)}; the scaling law predicts {rounded(low, 2)} to {rounded(high, 2)}×."
        return _of_speedup(choice, "met" if low <= speedup <= high else "not met", evidence)
    verdict = combined((judge(speedup, error, 1.0), judge(n / speedup, error, 1.0)))
    return _of_speedup(choice, verdict, f"{_speedup(choice)}; no prediction, so any speedup from 1 to N = {n:.4g} is expected.")


def _of_speedup(choice: Configuration, verdict: Verdict, evidence: str) -> _Answer:
    return ("undecided", "Its speedup is unknown.") if math.isnan(choice.speedup) else (verdict, evidence)


def _speedup(choice: Configuration) -> str:
    return with_interval(choice.speedup, choice.speedup_error, 2, "×")


def _learning(choice: Configuration, baseline: Configuration | None) -> _Answer:
    """Compare mean returns over the last quarter of the env steps that both have taken.

    The spread is the standard deviations of both sides' returns there, added in quadrature. Seeds alone make curves differ: only a
    return that is lower by more than two spreads counts as unstable; between one and two, the check is undecided.
    """
    if baseline is None:
        return "undecided", "The experiment has no run of the baseline to compare returns with."
    if choice is baseline:
        return "met", f"The choice, {choice.scale}, is the baseline."
    returns = {each.scale: _returns(each) for each in (choice, baseline)}
    if lacking := listed(str(scale) for scale, known in returns.items() if not known):
        advice = "episodes must end, and the result of each iteration must be kept"
        return "undecided", f"No returns recorded for {lacking}: {advice}."
    end = min(max(known)[0] for known in returns.values())
    start = (1 - END_OF_RUN) * end
    ours, theirs = ([each for steps, each in known if start < steps <= end] for known in returns.values())
    over = f"over env steps {rounded(start, 0)} to {rounded(end, 0)}"
    if min(len(ours), len(theirs)) < MIN_RETURNS:
        few = f"{len(ours)} iterations of {choice.scale} and {len(theirs)} of {baseline.scale} have returns {over}"
        return "undecided", f"{few}; {MIN_RETURNS} of each are needed. Run both longer."
    mean, target, spread = fmean(ours), fmean(theirs), math.hypot(stdev(ours), stdev(theirs))
    verdict: Verdict = "met" if target - mean <= spread else "not met" if target - mean > 2 * spread else "undecided"
    shown = [rounded(each, 6) if each else "0" for each in (mean, target, spread)]
    return verdict, f"Mean return {shown[0]}, {baseline.scale}: {shown[1]}, spread {shown[2]}, {over}."


def _returns(configuration: Configuration) -> list[tuple[float, float]]:
    """Return the lifetime env steps and mean return of each iteration of all runs, if both are known."""
    pairs = [(sample.lifetime_steps, sample.episode_return) for run in configuration.runs for sample in run.samples]
    return [pair for pair in pairs if all(map(math.isfinite, pair))]
