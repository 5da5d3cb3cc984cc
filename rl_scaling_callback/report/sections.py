"""The sections of the report, which terminal and page share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from rl_scaling_callback.analysis.configurations import Configuration
from rl_scaling_callback.analysis.laws import MAX_LAW_ERROR, MIN_CONFIGURATIONS, Laws, axis_limit
from rl_scaling_callback.analysis.noise import USUAL_STD, Noise
from rl_scaling_callback.analysis.runs import LeftOut
from rl_scaling_callback.core.attribution import MIN_LOSS
from rl_scaling_callback.core.text import UNKNOWN, counted, joined, listed, percent, printable, rounded, with_interval
from rl_scaling_callback.report.decisions import bottleneck_text, choice_text, goal_text, reason_text, runner_up_text
from rl_scaling_callback.report.study import StudyReport

_MAX_ERROR: Final = 350.0
"""Predictions with a larger error [%] are not worth showing."""

_MAX_NAMES: Final = 3
"""Maximum number of names to list of what shares a reason."""

_MARKS: Final = {"met": "✓", "not met": "✗", "undecided": "?"}


def sections(study: StudyReport) -> Mapping[str, list[str]]:
    """Return the sections behind the decision in order: by title, lines of one paragraph each."""
    found = {
        "Notes": notes(study),
        "Losses by cause, and the speed without each": (_lost(c) for c in study.configurations if not c.is_baseline),
        "Checklist": (f"{_MARKS[c.verdict]} {c.stage}: {c.question} {c.evidence}" for c in study.checklist),
        "Scaling laws": (*law_lines(study.laws), *map(_prediction, study.predictions())),
        "Runs": (*(f"{name}: {text}" for name, text in study.study.facts.items()), *_runs(study)),
    }
    written = {title: [printable(line) for line in lines if line] for title, lines in found.items()}
    return {title: lines for title, lines in written.items() if lines}


def reasons(study: StudyReport) -> list[str]:
    """Return the goal, the reasons for the recommendation, and the alternatives, one paragraph each."""
    asked = study.recommendation
    return [f"Goal {asked.goal.name}: {goal_text(asked.goal)}.", reason_text(asked), *alternatives(study)]


def alternatives(study: StudyReport) -> list[str]:
    """Return what limits the choice, the runner-up and the choices for other goals."""
    asked = study.recommendation
    others = [
        f"{name}: {choice_text(each).removeprefix('Use ').lower()}" + (f" ({each.verdict})" if each.goal.limits else "")
        for name, each in study.recommendations.items()
        if each is not asked and asked.choice
    ]
    lines = {"Bottleneck": bottleneck_text(asked), "Runner-up": runner_up_text(asked), "Other goals": "; ".join(others)}
    return [f"{what}: {text}" for what, text in lines.items() if text]


def notes(study: StudyReport) -> Iterator[str]:
    """Yield what readers need to interpret the numbers: what is missing, what ± means, and the notes of the runs."""
    found, baseline = study.configurations, study.study.baseline
    noise = next((c.noise for c in found if not math.isnan(c.sps_error)), None)
    if noise is not None:
        yield (
            "± is the 95 % interval for a repeat with as many runs: from figure / (1 + ±) to figure × (1 + ±). It covers the noise "
            "within and between runs and, for speedups, that of the baseline."
        )
        yield _noise(noise)
    if study.study.timed_iterations:
        yield "Iterations have a fixed duration: compare throughput, not time."
    if study.study.phases_overlap and any(c.losses for c in found):
        yield "Phases overlap in this algorithm: losses describe how the env runners spent their time, on average."
    elif study.study.phases_overlap:
        yield "Phases overlap in this algorithm, so losses can't be attributed to causes."
    if estimated := ", ".join(str(c.scale) for c in found if c.losses_estimated):
        yield f"Serial stepping includes contention for {estimated}: a run of one runner with as many envs separates them."
    if baseline is not None:
        origin = (f"{rounded(baseline.steady.sps, 0)} steps/s", baseline.name, joined(baseline.notes))
        yield f"No run at the scale of the baseline; its throughput: {', '.join(filter(None, origin))}."
    yield from (f"{c.scale}: {joined(c.notes)}" for c in found if c.notes)


def _noise(noise: Noise) -> str:
    if noise.swept:
        return "Errors of speedups are estimated from the rounds of the sweep."
    deviation = f"{100 * math.sqrt(noise.factor) * USUAL_STD:.0f} % (standard deviation)"
    if noise.from_repeats:
        return f"Repeated runs of one configuration differ by {deviation}, in addition to the noise within runs."
    return (
        f"No configuration was repeated: runs are assumed to differ by {deviation}, as is usual on shared machines, in addition to "
        "the noise within runs. Repeat trials to measure it."
    )


def _lost(configuration: Configuration) -> str:
    """Return what each cause of lost efficiency costs, the largest first; "" if nothing is lost or the causes are unknown."""
    gains = {cause: f" ({rounded(factor, 2, '×')})" for cause, factor in configuration.gains.items()}
    largest = sorted(configuration.losses.items(), key=lambda item: -item[1])
    costs = [
        f"{cause.replace('_', ' ')} {points:.0f}{gains.get(cause, '')}" for cause, points in largest if abs(points) >= MIN_LOSS
    ]
    return f"{configuration.scale}, {configuration.loss:.0f} points: {', '.join(costs)}" if costs else ""


def law_lines(laws: Laws) -> Iterator[str]:
    """Yield the chosen law with its error, the others, the axes and the limits, or why there is no law."""
    chosen, best = laws.chosen, laws.fits[0] if laws.fits else None
    if chosen is not None:
        coefficients = ", ".join(f"{name} = {rounded(value, 2)}" for name, value in chosen.coefficients.items())
        terms = f"{chosen.law.formula}, in µs per env step for r env runners with e envs each, {coefficients}"
        mean, most = rounded(chosen.mean_error, 1, " %"), rounded(max(chosen.errors), 1, " %")
        yield f"Chosen law, {chosen.law.name}: {terms}."
        yield f"Its leave-one-out error is {mean} on average and {most} at most."
    elif best is not None:
        error = f"the best has a mean leave-one-out error of {rounded(best.mean_error, 0)} %"
        yield f"No law predicts these configurations: {error}, above the allowed {MAX_LAW_ERROR:.0f} %."
    else:
        yield f"A scaling law needs at least {MIN_CONFIGURATIONS} configurations, with different numbers of env runners."
    if others := ", ".join(f"{fit.law.name} ({rounded(fit.mean_error, 1, ' %')})" for fit in laws.fits if fit is not chosen):
        yield f"Mean leave-one-out error of {'other ' if chosen else ''}laws: {others}."
    for name, fractions in laws.axes.items():
        limit = axis_limit(fractions)
        bound = "no limit" if math.isnan(limit) else f"limit {rounded(limit, 1, '×')}"
        yield f"Amdahl along {name} alone: serial fraction {rounded(fractions[max(fractions)], 3)}, {bound}."
    if laws.fits and not laws.axes:
        yield "Serial fractions need 1r×1e, and others with one env each or with one env runner."


def _prediction(prediction: Configuration) -> str:
    if not prediction.speedup_error <= _MAX_ERROR:
        return f"Predicted {prediction.scale}: {UNKNOWN}"
    speedup = with_interval(prediction.speedup, prediction.speedup_error, 2, "×")
    return f"Predicted {prediction.scale}: {speedup}, {rounded(prediction.efficiency, 1, ' %')}"


def _runs(study: StudyReport) -> Iterator[str]:
    for run in study.study.runs:
        steady, swept = run.steady, study.study.swept
        name = run.name if run.name == str(run.scale) else f"{run.name} ({run.scale})"
        error = "" if swept or math.isnan(steady.error) else f" {percent(steady.error)} within the run"
        # Too few for an error, as in a table with one row per configuration, are neither steady nor not.
        is_window = not (swept or math.isnan(steady.error))
        length = counted(steady.iterations, "steady iteration" if is_window else "measurement")
        length += ", not converged" if is_window and not steady.converged else ""
        note = f"; {joined(run.notes)}" if run.notes else ""
        yield f"{name}: {rounded(steady.sps, 0)} steps/s{error}, {length}{note}"


def left_out(found: Iterable[LeftOut]) -> Iterator[str]:
    """Yield what was left out, all that share a reason in one line."""
    names: dict[str, list[str]] = {}
    for each in found:
        names.setdefault(printable(each.reason), []).append(printable(each.name))
    for reason, sharing in names.items():
        more = [f"{len(sharing) - _MAX_NAMES} more"] if len(sharing) > _MAX_NAMES else []
        yield f"{listed([*sharing[:_MAX_NAMES], *more])}: {reason}"
