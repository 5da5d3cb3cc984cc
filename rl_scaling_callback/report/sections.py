"""The sections of the report, which terminal and page share."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from rl_scaling_callback.analysis.laws import FEWEST, LARGEST_ERROR, Laws, Prediction
from rl_scaling_callback.analysis.noise import USUAL_STD, Noise
from rl_scaling_callback.analysis.recommendation import ranking
from rl_scaling_callback.analysis.runs import LeftOut, Study
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.text import UNKNOWN, counted, joined, listed, percent, printable, rounded, with_interval
from rl_scaling_callback.report.decisions import bottleneck_text, choice_text, goal_text, reason_text, runner_up_text
from rl_scaling_callback.report.study import StudyReport

_WIDEST: Final = 350.0
"""Predictions with a larger error [%] are not worth showing."""

_MOST_NAMES: Final = 3
"""Maximum number of names to list of what shares a reason."""

_MARKS: Final = {"met": "✓", "not met": "✗", "undecided": "?"}


class Section(NamedTuple):
    """A section of the report: a title, and lines of one paragraph each. It is left out if it has none."""

    title: str
    lines: Sequence[str]


def sections(study: StudyReport) -> tuple[Section, ...]:
    """Return the sections behind the decision, in order."""
    found = (
        Section("Notes", [*notes(study)]),
        Section("Checklist", [f"{_MARKS[c.verdict]} {c.stage}: {c.question} {c.evidence}" for c in study.checklist]),
        Section("Scaling laws", [*law_lines(study.laws), *map(_prediction, study.predictions())]),
        Section("Runs", [*(f"{name}: {text}" for name, text in study.study.facts.items()), *_runs(study.study)]),
    )
    return tuple(Section(each.title, [printable(line) for line in each.lines]) for each in found if each.lines)


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
        if each is not asked
    ]
    lines = {
        "Bottleneck": bottleneck_text(asked),
        "Runner-up": runner_up_text(asked),
        "By throughput (= means tied within noise)": _ranking(study),
        "Other goals": "; ".join(others) if asked.choice else "",
    }
    return [f"{what}: {text}" for what, text in lines.items() if text]


def _ranking(study: StudyReport) -> str:
    """Return the configurations in order of throughput; "" if no two are tied within noise."""
    groups = ranking(study.configurations)
    if len(groups) == sum(map(len, groups)):
        return ""
    return " > ".join(" = ".join(str(c.scale) for c in group) for group in groups)


def law_lines(laws: Laws) -> Iterator[str]:
    """Yield the chosen law with its error, the others, the axes and the limits, or why there is no law."""
    chosen, best = laws.chosen, laws.fits[0] if laws.fits else None
    if chosen is not None:
        coefficients = ", ".join(f"{name} = {rounded(value, 2)}" for name, value in chosen.coefficients.items())
        yield (
            f"Chosen law, {chosen.law.name}: {chosen.law.formula}, in µs per env step for r env runners with e envs each, "
            f"{coefficients}."
        )
        yield (
            f"Its leave-one-out error is {rounded(chosen.mean_error, 1, ' %')} on average and "
            f"{rounded(max(chosen.errors), 1, ' %')} at most."
        )
        if chosen.on_a_line:
            yield "All configurations lie on one line: r stands for N, as if env runners and envs were interchangeable."
    elif best is not None:
        yield (
            f"No law predicts these configurations: the best has a mean leave-one-out error of {rounded(best.mean_error, 0)} %, "
            f"above the allowed {LARGEST_ERROR:.0f} %."
        )
    else:
        yield f"{counted(len(laws.fitted_to), 'configuration')}: a scaling law needs at least {FEWEST}."
    others = [f"{fit.law.name} ({rounded(fit.mean_error, 1, ' %')})" for fit in laws.fits if fit is not chosen]
    if others:
        yield f"Mean leave-one-out error of {'other ' if chosen else ''}laws: {', '.join(others)}."
    for axis in laws.axes:
        limit = f"limit {rounded(axis.limit, 1, '×')}" if axis.limit > 0 else "no limit"
        yield f"Amdahl along {axis.name} alone: serial fraction {rounded(axis.serial_fraction, 3)}, {limit}."
    low, high = laws.limit
    if high > low:
        yield f"Speedup limit, over all laws and axes: {rounded(low, 1)} to {rounded(high, 1, '×')}."
    if laws.fits and Scale(1, 1) not in laws.fitted_to:
        yield "1r×1e was not measured: serial fractions are unknown, and limits are relative to the predicted 1r×1e."


def _prediction(prediction: Prediction) -> str:
    beyond = ", beyond twice the measured range" if prediction.extrapolated else ""
    if not prediction.speedup_error <= _WIDEST:
        return f"Predicted {prediction.scale}: {UNKNOWN}{beyond}"
    speedup = with_interval(prediction.speedup, prediction.speedup_error, 2, "×")
    return f"Predicted {prediction.scale}: {speedup}, {rounded(prediction.efficiency, 1, ' %')}{beyond}"


def notes(study: StudyReport) -> Iterator[str]:
    """Yield what readers need to interpret the numbers: what is missing, what ± means, and the notes of the runs."""
    found = study.configurations
    noise = next((c.noise for c in found if not math.isnan(c.sps_error)), None)
    if noise is not None:
        yield (
            "± is the 95 % interval for a repeat with as many runs: from figure / (1 + ±) to figure × (1 + ±). It covers the noise "
            "within and between runs and, for speedups, that of the baseline."
        )
        yield _differ(noise)
    if study.study.timed_iterations:
        yield "Iterations have a fixed duration: compare throughput, not time."
    if study.study.waits_are_known:
        yield "Phases overlap in this algorithm: losses describe how the env runners spent their time, on average."
    elif not study.study.exclusive_phases:
        yield "Phases overlap in this algorithm, so losses can't be attributed to causes."
    estimated = [str(c.scale) for c in found if c.losses_estimated]
    if estimated:
        yield (
            f"Serial stepping includes contention for {', '.join(estimated)}: a run of one runner with as many envs separates them."
        )
    if study.study.baseline is not None:
        baseline = study.study.baseline
        origin = (f"{rounded(baseline.steady.sps, 0)} steps/s", baseline.name, joined(baseline.notes))
        yield f"No run at the scale of the baseline; its throughput: {printable(', '.join(filter(None, origin)))}."
    for c in found:
        if c.notes:
            yield f"{c.scale}: {printable(joined(c.notes))}"


def _differ(noise: Noise) -> str:
    if noise.swept:
        return "Errors of speedups are estimated from the rounds of the sweep."
    deviation = f"{100 * math.sqrt(noise.factor) * USUAL_STD:.0f} % (standard deviation)"
    if noise.from_repeats:
        return f"Repeated runs of one configuration differ by {deviation}, in addition to the noise within runs."
    return (
        f"No configuration was repeated: runs are assumed to differ by {deviation}, as is usual on shared machines, in addition to "
        "the noise within runs. Repeat trials to measure it."
    )


def _runs(study: Study) -> Iterator[str]:
    for run in study.runs:
        steady = run.steady
        name = run.name if run.name == str(run.scale) else f"{run.name} ({run.scale})"
        error = "" if study.swept or math.isnan(steady.error) else f" {percent(steady.error)} within the run"
        # Too few for an error, as in a table with one row per configuration, are neither steady nor not.
        is_window = not (study.swept or math.isnan(steady.error))
        length = counted(steady.iterations, "steady iteration" if is_window else "measurement")
        length += ", not converged" if is_window and not steady.converged else ""
        note = f"; {joined(run.notes)}" if run.notes else ""
        yield f"{name}: {rounded(steady.sps, 0)} steps/s{error}, {length}{note}"


def left_out(found: Sequence[LeftOut]) -> Iterator[str]:
    """Yield what was left out, all that share a reason in one line."""
    names: dict[str, list[str]] = {}
    for each in found:
        names.setdefault(printable(each.reason), []).append(printable(each.name))
    for reason, sharing in names.items():
        more = [f"{len(sharing) - _MOST_NAMES} more"] if len(sharing) > _MOST_NAMES else []
        yield f"{listed([*sharing[:_MOST_NAMES], *more])}: {reason}"
