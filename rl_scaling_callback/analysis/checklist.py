"""The checklist before, while and after choosing a configuration, filled in from data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, Final

from rl_scaling_callback.analysis.configurations import Configuration
from rl_scaling_callback.analysis.goals import Verdict, judge, judge_speedup, listed, together, with_interval
from rl_scaling_callback.analysis.laws import Laws, Prediction
from rl_scaling_callback.analysis.recommendation import HOW_TO_GET_A_BASELINE, Recommendation
from rl_scaling_callback.core import formulas
from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.rllib import uses_gpus

Answer = tuple[Verdict, str]

TARGET_EFFICIENCY: Final = 60.0
"""Efficiency [%] to aim for: from there on it counts as good."""

HIGHEST_UTILISATION: Final = 80.0
"""CPU and RAM utilisation [%] to stay below."""

FEWEST_RETURNS: Final = 5
"""Iterations with a return that either side of a comparison of learning needs."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the checklist.

    Attributes:
        stage: `"before"`, `"choosing"` or `"after"`.
        text: what is asked.
        verdict: the answer; "undecided" where the data don't say.
        evidence: the numbers behind it, or what is missing.
    """

    stage: str
    text: str
    verdict: Verdict
    evidence: str


def checklist(
    configurations: Sequence[Configuration],
    recommendation: Recommendation,
    laws: Laws | None = None,
    facts: Mapping[str, Any] | None = None,
) -> tuple[Check, ...]:
    """Return the checklist, filled in from data.

    Args:
        configurations: what was measured.
        recommendation: what is to be checked.
        laws: laws that were fitted to it.
        facts: facts of the workload; None where they are not known.
    """
    choice, goal = recommendation.choice, recommendation.goal
    baseline = next((each for each in configurations if each.is_baseline), None)

    def of_choice(ask: Callable[[Configuration], Answer]) -> Answer:
        return ("undecided", "There is no choice to check.") if choice is None else ask(choice)

    below = f"below {HIGHEST_UTILISATION:g} %"
    return (
        Check("before", "Is the baseline's SPS measured?", *_baseline(configurations, baseline)),
        Check("before", "Are the CPU cores known?", *_cores(configurations)),
        Check("before", "Is the GPU known?", *_gpu(facts or {})),
        Check("before", "Is the RAM headroom known?", *_ram(configurations)),
        Check("before", "Is the VRAM headroom known?", *_vram(configurations, facts or {})),
        Check(
            "choosing",
            f"Is the efficiency at least {TARGET_EFFICIENCY:g} %?",
            *of_choice(lambda each: _efficiency(each, TARGET_EFFICIENCY)),
        ),
        Check(
            "choosing",
            f"Is the CPU utilisation {below}?",
            *of_choice(lambda each: _utilisation(each.cpu_utilisation, "on average")),
        ),
        Check(
            "choosing", f"Is the RAM utilisation {below}?", *of_choice(lambda each: _utilisation(each.ram_utilisation, "at most"))
        ),
        Check("after", "Did SPS rise?", *of_choice(_rose)),
        Check("after", "Is the speedup in the expected range?", *of_choice(lambda each: _expected(each, laws, configurations))),
        Check(
            "after",
            "Does the efficiency reach the goal's threshold?",
            *of_choice(lambda each: _efficiency(each, goal.min_efficiency)),
        ),
        Check("after", "Is learning still stable?", *of_choice(lambda each: _learning(each, baseline))),
    )


def _baseline(configurations: Sequence[Configuration], baseline: Configuration | None) -> Answer:
    if baseline is not None and baseline.sps > 0:
        error = "without an error" if math.isnan(baseline.sps_error) else f"± {baseline.sps_error:.1f} %"
        runs = f"{len(baseline.runs)} run{'' if len(baseline.runs) == 1 else 's'}"
        return "met", f"{baseline.scale}: {baseline.sps:,.0f} steps/s, {error}, from {runs}."
    given = next((each.baseline_sps for each in configurations if each.baseline_sps > 0), None)
    if given is not None:
        return "met", f"{given:,.0f} steps/s, from outside this experiment."
    return "not met", HOW_TO_GET_A_BASELINE


def _cores(configurations: Sequence[Configuration]) -> Answer:
    cores = max((run.cores for each in configurations for run in each.runs if run.cores > 0), default=None)
    if cores is None:
        return "undecided", "Not recorded: ScalingCallback writes down those of a trial's hosts."
    return "met", f"{cores:g} logical cores."


_NO_GPU: Final = "None is used: the config asks for none."


def _gpu(facts: Mapping[str, Any]) -> Answer:
    if "num_gpus" not in facts:
        return "undecided", "Not recorded: ask nvidia-smi on the training host."
    if not uses_gpus(facts):
        return "met", _NO_GPU
    if facts.get("accelerators"):
        return "met", f"{listed(facts['accelerators'])}, as Ray names it."
    return "undecided", "One is used; which is not recorded: ask nvidia-smi on the training host."


def _vram(configurations: Sequence[Configuration], facts: Mapping[str, Any]) -> Answer:
    used = [run.vram_utilisation for each in configurations for run in each.runs if run.vram_utilisation >= 0]
    if used:
        return "met", f"At most {max(used):.0f} % of a GPU's memory were in use: {100 - max(used):.0f} % are free."
    if "num_gpus" in facts and not uses_gpus(facts):
        return "met", _NO_GPU
    return "undecided", "Not recorded: RLlib records it with the package GPUtil installed; or watch nvidia-smi during a trial."


_NO_PERF: Final = "Not recorded: RLlib's results hold it under perf, for iterations of 0.7 s or more."


def _ram(configurations: Sequence[Configuration]) -> Answer:
    most = max((each.ram_utilisation for each in configurations if each.ram_utilisation >= 0), default=None)
    if most is None:
        return "undecided", _NO_PERF
    return "met", f"At most {most:.0f} % of a node's RAM were in use: {100 - most:.0f} % are free."


def _utilisation(percent: float, how: str) -> Answer:
    if math.isnan(percent):
        return "undecided", _NO_PERF
    return ("met" if percent < HIGHEST_UTILISATION else "not met"), f"{percent:.0f} % of the node {how}."


def _efficiency(choice: Configuration, least: float | None) -> Answer:
    if math.isnan(choice.efficiency):
        return "undecided", HOW_TO_GET_A_BASELINE
    figure = f"{with_interval(choice.efficiency, choice.speedup_error, 1, ' %')}, {choice.band}"
    if least is None:
        return "met", f"The goal has none; it is {figure}."
    return judge_speedup(choice, choice.efficiency, least), f"{figure}; at least {least:g} %."


def _rose(choice: Configuration) -> Answer:
    if choice.is_baseline:
        return "not met", f"The choice, {choice.scale}, is the baseline."
    if math.isnan(choice.speedup):
        return "undecided", HOW_TO_GET_A_BASELINE
    speedup = with_interval(choice.speedup, choice.speedup_error, 2, "×")
    return (
        judge_speedup(choice, choice.speedup, 1.0),
        f"{choice.sps:,.0f} steps/s against {choice.baseline_sps:,.0f}: {speedup}.",
    )


def expected_speedups(laws: Laws, prediction: Prediction, configurations: Sequence[Configuration]) -> tuple[float, float]:
    """Return the 95 % interval of the speedup if a configuration and the baseline were measured now [×]; NaN where not known."""
    baseline_sps = next((each.baseline_sps for each in configurations if each.baseline_sps > 0), NAN)
    doubt = next((math.log1p(each.own_error / 100) for each in configurations if each.is_baseline and each.own_error > 0), 0.0)
    middle, *ends = (
        formulas.speedup(laws.sps(seconds), baseline_sps) for seconds in (prediction.seconds, prediction.high, prediction.low)
    )
    low, high = (
        middle * math.exp(sign * math.hypot(math.log(end / middle), doubt)) for sign, end in zip((-1, 1), ends, strict=True)
    )
    return low, high


def _expected(choice: Configuration, laws: Laws | None, configurations: Sequence[Configuration]) -> Answer:
    """Compare with the law's interval for a new measurement, or where there is none with 1 to N."""
    speedup, n = choice.speedup, choice.scale.parallelism
    if math.isnan(speedup):
        return "undecided", HOW_TO_GET_A_BASELINE
    figure = with_interval(speedup, choice.speedup_error, 2, "×")
    if laws is not None and laws.chosen is not None:
        law = laws.chosen
        low, high = expected_speedups(laws, law.predict(choice.scale), configurations)
        if low < high:
            expected = f"law {law.name} expects {low:.2f} to {high:.2f}×, its mean leave-one-out error is {law.mean_error:.1f} %"
            return ("met" if low <= speedup <= high else "not met"), f"{figure}; {expected}."
    verdict = together((judge(speedup, choice.speedup_error, 1.0), judge(n / speedup, choice.speedup_error, 1.0)))
    return verdict, f"{figure}; without a prediction, anything from 1 to N = {n} is expected."


def _learning(choice: Configuration, baseline: Configuration | None) -> Answer:
    """Compare mean returns over the last quarter of the env steps that both have taken.

    The spread is the standard deviations of both sides' returns there, added in quadrature; seeds alone make curves differ, so
    only a return that is lower by more than two of them counts as unstable, and between one and two it is undecided.
    """
    if baseline is None:
        return "undecided", "No run of the baseline is here, so its returns are not known."
    if choice is baseline:
        return "met", f"The choice, {choice.scale}, is the baseline."
    ours, theirs = _returns(choice), _returns(baseline)
    if not (ours and theirs):
        without = " and ".join(str(each.scale) for each, known in ((choice, ours), (baseline, theirs)) if not known)
        return "undecided", f"No return is recorded of {without}: episodes must end, and results be kept for each iteration."
    common = min(max(ours)[0], max(theirs)[0])
    start = 0.75 * common
    here, there = ([each for steps, each in returns if start < steps <= common] for returns in (ours, theirs))
    where = f"over env steps {start:,.0f} to {common:,.0f}"
    if min(len(here), len(there)) < FEWEST_RETURNS:
        return "undecided", (
            f"{len(here)} iterations of {choice.scale} and {len(there)} of {baseline.scale} have a return {where}; "
            f"{FEWEST_RETURNS} of each are needed: let both run longer."
        )
    mean, target, spread = fmean(here), fmean(there), math.hypot(stdev(here), stdev(there))
    lower = target - mean
    verdict: Verdict = "met" if lower <= spread else "not met" if lower > 2 * spread else "undecided"
    digits = _decimals(spread or max(abs(mean), abs(target)) / 100)
    figures = f"{mean:,.{digits}f} against {target:,.{digits}f} of {baseline.scale}, spread {spread:,.{digits}f}"
    return verdict, f"Mean return {figures}, {where}."


def _decimals(spread: float) -> int:
    """Return the decimals that show two digits of a spread, six at most."""
    return min(6, max(0, 1 - math.floor(math.log10(spread)))) if spread > 0 else 0


def _returns(configuration: Configuration) -> list[tuple[float, float]]:
    """Return the lifetime env steps and mean return of each iteration, of all runs, where both are known."""
    pairs = [(sample.lifetime_steps, sample.episode_return) for run in configuration.runs for sample in run.samples]
    return [pair for pair in pairs if all(map(math.isfinite, pair))]
