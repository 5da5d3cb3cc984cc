"""The checklist for before, during and after the choice of a configuration, filled in from data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any, Final, Literal, NamedTuple

from rl_scaling_callback.analysis.configurations import Configuration
from rl_scaling_callback.analysis.goals import Verdict, combined, judge, judge_speedup
from rl_scaling_callback.analysis.laws import Laws
from rl_scaling_callback.analysis.recommendation import Recommendation

TARGET_EFFICIENCY: Final = 60.0
"""Efficiency [%] to aim for: the lower bound of the band "good"."""

HIGHEST_UTILISATION: Final = 80.0
"""CPU and RAM utilisation [%] to stay below."""

FEWEST_RETURNS: Final = 5
"""Minimum number of iterations with a return on each side of a comparison of learning."""

Stage = Literal["before", "choosing", "after"]


class Check(NamedTuple):
    """One item of the checklist; `report.decisions` turns it into text.

    Attributes:
        stage: when the question arises.
        name: the question: whether `"baseline"`, `"cores"`, `"gpu"`, `"ram"` and `"vram"` are known; whether `"efficiency"`,
            `"cpu_utilisation"` and `"ram_utilisation"` are good enough; whether `"sps"` increased, the `"speedup"` is as expected,
            the efficiency meets the `"goal"`, and `"learning"` is still stable.
        verdict: the answer; "undecided" if the data are insufficient.
        finding: the basis of the verdict, such as `"recorded"`, `"no baseline"` or `"compared"`.
        figures: the values behind it, by name.
    """

    stage: Stage
    name: str
    verdict: Verdict
    finding: str
    figures: Mapping[str, Any]


def checklist(
    configurations: Sequence[Configuration],
    recommendation: Recommendation,
    laws: Laws | None = None,
    gpus: Sequence[str] | None = None,
) -> tuple[Check, ...]:
    """Return the checklist, filled in from data.

    Args:
        configurations: the measured configurations.
        recommendation: the recommendation to check.
        laws: the scaling laws fitted to the configurations.
        gpus: names of the GPUs in use, see `Study`.
    """
    choice, goal = recommendation.choice, recommendation.goal
    baseline = next((each for each in configurations if each.is_baseline), None)
    runs = [run for each in configurations for run in each.runs]
    ram = [each.ram_utilisation for each in configurations]
    answers: dict[tuple[Stage, str], _Finding] = {
        ("before", "baseline"): _baseline(configurations, baseline),
        ("before", "cores"): _recorded([run.cores for run in runs]),
        ("before", "gpu"): _gpu(gpus),
        ("before", "ram"): _recorded(ram),
        ("before", "vram"): _vram([run.vram_utilisation for run in runs], gpus),
    }
    of_choice: dict[tuple[Stage, str], _Finding] = dict.fromkeys(_OF_CHOICE, ("undecided", "no choice", {}))
    if choice is not None:
        answers_of_choice = (
            _efficiency(choice, TARGET_EFFICIENCY),
            _utilisation(choice.cpu_utilisation),
            _utilisation(choice.ram_utilisation),
            _rose(choice),
            _expected(choice, laws),
            _efficiency(choice, goal.min_efficiency),
            _learning(choice, baseline),
        )
        of_choice = dict(zip(_OF_CHOICE, answers_of_choice, strict=True))
    return tuple(Check(stage, name, *answer) for (stage, name), answer in (answers | of_choice).items())


_Finding = tuple[Verdict, str, Mapping[str, Any]]
"""Verdict, finding and figures of a check."""

_OF_CHOICE: Final[tuple[tuple[Stage, str], ...]] = (
    ("choosing", "efficiency"),
    ("choosing", "cpu_utilisation"),
    ("choosing", "ram_utilisation"),
    ("after", "sps"),
    ("after", "speedup"),
    ("after", "goal"),
    ("after", "learning"),
)


def _baseline(configurations: Sequence[Configuration], baseline: Configuration | None) -> _Finding:
    if baseline is not None and baseline.sps > 0:
        return "met", "measured", {"configuration": baseline}
    given = next((each.baseline_sps for each in configurations if each.baseline_sps > 0), None)
    return ("not met", "no baseline", {}) if given is None else ("met", "given", {"sps": given})


def _recorded(values: Sequence[float]) -> _Finding:
    known = [value for value in values if value >= 0]
    return ("met", "recorded", {"most": max(known)}) if known else ("undecided", "not recorded", {})


def _gpu(gpus: Sequence[str] | None) -> _Finding:
    if gpus is None:
        return "undecided", "not recorded", {}
    if not gpus:
        return "met", "none used", {}
    return ("met", "recorded", {"names": gpus}) if all(gpus) else ("undecided", "not named", {})


def _vram(used: Sequence[float], gpus: Sequence[str] | None) -> _Finding:
    recorded = _recorded(used)
    return ("met", "none used", {}) if recorded[0] != "met" and gpus is not None and not gpus else recorded


def _utilisation(percent: float) -> _Finding:
    if math.isnan(percent):
        return "undecided", "not recorded", {}
    return ("met" if percent < HIGHEST_UTILISATION else "not met"), "recorded", {"percent": percent}


def _efficiency(choice: Configuration, least: float | None) -> _Finding:
    if math.isnan(choice.efficiency):
        return "undecided", "no baseline", {}
    if least is None:
        return "met", "no threshold", {"choice": choice}
    return judge_speedup(choice, choice.efficiency, least), "compared", {"choice": choice, "least": least}


def _rose(choice: Configuration) -> _Finding:
    if choice.is_baseline:
        return "not met", "is baseline", {"choice": choice}
    if math.isnan(choice.speedup):
        return "undecided", "no baseline", {}
    return judge_speedup(choice, choice.speedup, 1.0), "compared", {"choice": choice}


def _expected(choice: Configuration, laws: Laws | None) -> _Finding:
    """Compare with the law's prediction interval, or with 1 to N if there is none."""
    speedup, n = choice.speedup, choice.ideal
    if math.isnan(speedup):
        return "undecided", "no baseline", {}
    if laws is not None and laws.chosen is not None:
        low, high = laws.chosen.predict(choice.scale).speedups
        if low < high:
            figures = {"choice": choice, "law": laws.chosen.name, "error": laws.chosen.mean_error, "low": low, "high": high}
            return ("met" if low <= speedup <= high else "not met"), "predicted", figures
    verdict = combined((judge(speedup, choice.speedup_error, 1.0), judge(n / speedup, choice.speedup_error, 1.0)))
    return verdict, "not predicted", {"choice": choice}


def _learning(choice: Configuration, baseline: Configuration | None) -> _Finding:
    """Compare mean returns over the last quarter of the env steps that both have taken.

    The spread is the standard deviations of both sides' returns there, added in quadrature. Seeds alone make curves differ: only a
    return that is lower by more than two spreads counts as unstable; between one and two, the check is undecided.
    """
    if baseline is None:
        return "undecided", "no baseline", {}
    if choice is baseline:
        return "met", "is baseline", {"choice": choice}
    both = {"choice": choice, "baseline": baseline}
    ours, theirs = _returns(choice), _returns(baseline)
    if not (ours and theirs):
        return "undecided", "no returns", {"of": [each for each, known in ((choice, ours), (baseline, theirs)) if not known]}
    common = min(max(ours)[0], max(theirs)[0])
    start = 0.75 * common
    here, there = ([each for steps, each in returns if start < steps <= common] for returns in (ours, theirs))
    where = {**both, "start": start, "end": common}
    if min(len(here), len(there)) < FEWEST_RETURNS:
        return "undecided", "too few returns", {**where, "here": len(here), "there": len(there)}
    mean, target, spread = fmean(here), fmean(there), math.hypot(stdev(here), stdev(there))
    lower = target - mean
    verdict: Verdict = "met" if lower <= spread else "not met" if lower > 2 * spread else "undecided"
    return verdict, "compared", {**where, "mean": mean, "target": target, "spread": spread}


def _returns(configuration: Configuration) -> list[tuple[float, float]]:
    """Return the lifetime env steps and mean return of each iteration of all runs, if both are known."""
    pairs = [(sample.lifetime_steps, sample.episode_return) for run in configuration.runs for sample in run.samples]
    return [pair for pair in pairs if all(map(math.isfinite, pair))]
