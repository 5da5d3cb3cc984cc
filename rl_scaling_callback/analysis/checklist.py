"""The checklist for before, during and after the choice of a configuration, filled in from data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean, stdev
from typing import Final, NamedTuple

from rl_scaling_callback.analysis.choice import TO_GET_A_BASELINE, Recommendation, Verdict, standing
from rl_scaling_callback.analysis.configurations import Configuration
from rl_scaling_callback.analysis.laws import Law
from rl_scaling_callback.analysis.returns import END_OF_RUN, MIN_RETURNS
from rl_scaling_callback.core.formulas import NAN, interval, mean_of_known
from rl_scaling_callback.core.text import counted, listed, percent, rounded, with_interval

TARGET_EFFICIENCY: Final = 60.0
"""Efficiency [%] to aim for: the lower bound of the band "good"."""

MAX_UTILISATION: Final = 80.0
"""CPU and RAM utilisation [%] to stay below."""

_NO_CORES: Final = "Not recorded: the baseline file that a 1r×1e trial with ScalingCallback writes contains them."
_NO_PERF: Final = "Not recorded: RLlib reports it under perf, for iterations of 0.7 s or more."
_NO_GPUTIL: Final = "Not recorded: RLlib needs GPUtil to record it. Or watch nvidia-smi during a trial."


class Check(NamedTuple):
    """One item of the checklist: its stage ("before", "choosing" or "after"), the question, and the answer with its evidence."""

    stage: str
    question: str
    verdict: Verdict
    evidence: str


def checklist(recommendation: Recommendation, law: Law | None = None, gpus: Sequence[str] | None = None) -> Iterator[Check]:
    """Yield the checklist, filled in from data; undecided where they are insufficient, with what is missing and how to get it.

    Args:
        recommendation: the recommendation to check, with the configurations that it is based on.
        law: the scaling law fitted to them.
        gpus: names of the GPUs in use, see `Study`.
    """
    choice, least = recommendation.choice, recommendation.goal.min_efficiency
    runs = [run for each in recommendation.measured for run in each.runs]
    cores, ram, vram = (_largest(getattr(run, name) for run in runs) for name in ("cores", "ram_utilisation", "vram_utilisation"))
    has_no_gpu = gpus is not None and not gpus and math.isnan(vram)
    headroom = _gpu(gpus) if has_no_gpu else _known(vram, f"{_free(vram)} of a GPU's memory was free.", _NO_GPUTIL)
    yield Check("before", "Was the baseline's SPS measured?", *_baseline(recommendation))
    yield Check("before", "Are the CPU cores known?", *_known(cores, f"{cores:g} logical cores.", _NO_CORES))
    yield Check("before", "Is the GPU known?", *_gpu(gpus))
    yield Check("before", "Is the RAM headroom known?", *_known(ram, f"{_free(ram)} of a node's RAM was free.", _NO_PERF))
    yield Check("before", "Is the VRAM headroom known?", *headroom)
    if choice is None:
        return
    cpu, ram = mean_of_known(run.cpu_utilisation for run in choice.runs), _largest(run.ram_utilisation for run in choice.runs)
    yield Check("choosing", f"Is the efficiency at least {TARGET_EFFICIENCY:g} %?", *_efficiency(choice, TARGET_EFFICIENCY))
    yield Check("choosing", f"Is the CPU utilisation below {MAX_UTILISATION:g} %?", *_utilisation(cpu, "on average"))
    yield Check("choosing", f"Is the RAM utilisation below {MAX_UTILISATION:g} %?", *_utilisation(ram, "at most"))
    yield Check("after", "Did SPS increase?", *_rose(choice))
    yield Check("after", "Is the speedup in the expected range?", *_expected(choice, law))
    yield Check("after", "Is learning still stable?", *_learning(choice, recommendation.baseline))
    if least is not None:
        yield Check("after", "Does the efficiency meet the goal's threshold?", *_efficiency(choice, least))


def _largest(values: Iterable[float]) -> float:
    return max((value for value in values if value >= 0), default=NAN)


def _known(value: float, evidence: str, missing: str) -> tuple[Verdict, str]:
    return ("undecided", missing) if math.isnan(value) else ("met", evidence)


def _free(used: float) -> str:
    return f"At least {rounded(100 - used, 0)} %"


def _utilisation(used: float, how: str) -> tuple[Verdict, str]:
    verdict, evidence = _known(used, f"{rounded(used, 0)} % of the node {how}.", _NO_PERF)
    return "not met" if used >= MAX_UTILISATION else verdict, evidence


def _baseline(recommendation: Recommendation) -> tuple[Verdict, str]:
    baseline = recommendation.baseline
    if baseline is not None and baseline.sps > 0:
        error = "no error estimate" if math.isnan(baseline.sps_error) else percent(baseline.sps_error)
        return "met", f"{baseline.scale}: {rounded(baseline.sps, 0)} steps/s, {error}, from {counted(len(baseline.runs), 'run')}."
    given = next((each.baseline_sps for each in recommendation.measured if each.baseline_sps > 0), NAN)
    if math.isnan(given):
        return "not met", TO_GET_A_BASELINE
    return "met", f"{rounded(given, 0)} steps/s; the experiment has no run at that scale."


def _gpu(gpus: Sequence[str] | None) -> tuple[Verdict, str]:
    if gpus is not None and all(gpus):
        return "met", f"{listed(gpus)}, as named by Ray." if gpus else "The config requests no GPU."
    what = "Not recorded" if gpus is None else "A GPU is used, but its name was not recorded"
    return "undecided", f"{what}: run nvidia-smi on the training host."


def _efficiency(choice: Configuration, least: float) -> tuple[Verdict, str]:
    shown = with_interval(choice.efficiency, choice.speedup_error, 1, " %")
    return standing(choice, "efficiency", least).verdict, f"{shown}; threshold {least:g} %."


def _rose(choice: Configuration) -> tuple[Verdict, str]:
    if choice.is_baseline:
        return "not met", f"The choice, {choice.scale}, is the baseline."
    rates = f"{rounded(choice.sps, 0)} steps/s, baseline {rounded(choice.baseline_sps, 0)}"
    return standing(choice, "speedup", 1.0).verdict, f"{rates}: {_speedup(choice)}."


def _expected(choice: Configuration, law: Law | None) -> tuple[Verdict, str]:
    """Compare with the law's prediction interval."""
    predicted = law.predict(choice.scale) if law is not None else None
    if predicted is None or not (predicted.speedup > 0 and predicted.speedup_error > 0):
        return "undecided", f"{_speedup(choice)}; no prediction: see the scaling law."
    low, high = interval(predicted.speedup, predicted.speedup_error)
    verdict: Verdict = "met" if low <= choice.speedup <= high else "not met"
    return verdict, f"{_speedup(choice)}; the scaling law predicts {rounded(low, 2)} to {rounded(high, 2)}×."


def _speedup(choice: Configuration) -> str:
    return with_interval(choice.speedup, choice.speedup_error, 2, "×")


def _learning(choice: Configuration, baseline: Configuration | None) -> tuple[Verdict, str]:
    """Compare mean returns over the last quarter of the env steps that both have taken.

    The spread is the standard deviations of both sides' returns there, added in quadrature. Seeds alone make curves differ: only a
    return that is lower by more than two spreads counts as unstable; between one and two, the check is undecided.
    """
    if baseline is None:
        return "undecided", "The experiment has no run of the baseline to compare returns with."
    if choice is baseline:
        return "met", f"The choice, {choice.scale}, is the baseline."
    samples = [[sample for run in each.runs for sample in run.samples] for each in (choice, baseline)]
    known = [[each for each in both if math.isfinite(each.lifetime_steps + each.episode_return)] for both in samples]
    if not all(known):
        return "undecided", "Not recorded: results with the mean return of the episodes that ended in each iteration."
    end = min(max(each.lifetime_steps for each in both) for both in known)
    start = (1 - END_OF_RUN) * end
    ours, theirs = ([each.episode_return for each in both if start < each.lifetime_steps <= end] for both in known)
    if min(len(ours), len(theirs)) < MIN_RETURNS:
        few = f"{len(ours)} returns of {choice.scale} and {len(theirs)} of {baseline.scale} are known at the end of their training"
        return "undecided", f"{few}; {MIN_RETURNS} of each are needed. Run both longer."
    mean, target, spread = fmean(ours), fmean(theirs), math.hypot(stdev(ours), stdev(theirs))
    verdict: Verdict = "met" if target - mean <= spread else "not met" if target - mean > 2 * spread else "undecided"
    shown = [rounded(each, 6) if each else "0" for each in (mean, target, spread)]
    over = f"over env steps {rounded(start, 0)} to {rounded(end, 0)}"
    return verdict, f"Mean return {shown[0]}, {baseline.scale}: {shown[1]}, spread {shown[2]}, {over}."
