"""What the report says beside the recommendation (see `decisions`): terminal and page show the same sections."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from rl_scaling_callback.analysis.configurations import Configuration
from rl_scaling_callback.analysis.laws import FORMULA, MAX_LAW_ERROR, MIN_CONFIGURATIONS
from rl_scaling_callback.analysis.runs import USUAL_STD, LeftOut, Noise
from rl_scaling_callback.core.attribution import MIN_LOSS
from rl_scaling_callback.core.formulas import amdahl_limit, interval
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.text import joined, listed, printable, rounded, with_interval
from rl_scaling_callback.report.study import StudyReport

_MAX_NAMES: Final = 3
"""Maximum number of names to list of what shares a reason."""

_MARKS: Final = {"met": "✓", "not met": "✗", "undecided": "?"}


def sections(study: StudyReport) -> Mapping[str, list[str]]:
    """Return the sections behind the decision in order: by title, lines of one paragraph each."""
    found = {
        "Notes": _notes(study),
        "Losses by cause, and the speed without each": (_lost(c) for c in study.configurations if not c.is_baseline),
        "Checklist": (f"{_MARKS[c.verdict]} {c.stage}: {c.question} {c.evidence}" for c in study.checklist),
        "Scaling law": (*_law(study), _prediction(study)),
        "Study": (f"{name}: {text}" for name, text in study.study.facts.items()),
    }
    written = {title: [printable(line) for line in lines if line] for title, lines in found.items()}
    return {title: lines for title, lines in written.items() if lines}


def remarks(study: StudyReport) -> Iterator[str]:
    """Yield sentences without which the table could be misread."""
    found = study.configurations
    if smallest := next((c.scale for c in found if c.is_baseline and c.scale != study.reference), None):
        without = f"Without a run at {study.reference}, speedup is relative to {smallest}"
        yield f"{without}, the smallest scale measured, and efficiency to its N."
    # Above 100 % by more than the error, and than that of figures with two digits.
    beyond = [c for c in found if interval(c.efficiency, c.speedup_error if c.speedup_error > 2 else 2.0)[0] > 100]
    if beyond:
        scales = ", ".join(f"{c.scale} ({c.efficiency:.0f} %)" for c in beyond)
        yield f"Superlinear: {scales}. Is the work per env step the same, and was the baseline undisturbed?"
    known = [c.to_return for c in found if c.to_return.seconds > 0]
    if known:
        why = "the highest at which most runs of each configuration stay for their last quarter or longer"
        yield f"Time to {known[0].name}: training time until the mean return stays at or above it, {why}."
        if len(known) < len(found):
            yield "It is – where not all runs of a configuration do."
        if all(len(c.runs) == 1 for c in found):
            yield "Times to return are those of one run each: other seeds may differ."


def left_out(found: Iterable[LeftOut]) -> Iterator[str]:
    """Yield what was left out, all that share a reason in one line."""
    names: dict[str, list[str]] = {}
    for each in found:
        names.setdefault(printable(each.reason), []).append(printable(each.name))
    for reason, sharing in names.items():
        more = [f"{len(sharing) - _MAX_NAMES} more"] if len(sharing) > _MAX_NAMES else []
        yield f"{listed([*sharing[:_MAX_NAMES], *more])}: {reason}"


def _notes(study: StudyReport) -> Iterator[str]:
    """Yield what ± means, how phases and the baseline were measured, and the notes of the runs."""
    found, baseline = study.configurations, study.study.baseline
    noise = next((c.noise for c in found if not math.isnan(c.sps_error)), None)
    if noise is not None:
        yield (
            "± is the 95 % interval for a repeat with as many runs: from figure / (1 + ±) to figure × (1 + ±). It covers the noise "
            "within and between runs and, for speedups, that of the baseline."
        )
        yield _noise(noise)
    if study.study.steps_vary:
        yield "Env steps per iteration may vary: compare throughput, not time."
    if study.study.phases_overlap and any(c.losses for c in found):
        yield "Phases overlap in this algorithm: losses describe how the env runners spent their time, on average."
    elif study.study.phases_overlap:
        yield "Phases overlap in this algorithm, so losses can't be attributed to causes."
    if baseline is not None:
        origin = (f"{rounded(baseline.steady.sps, 0)} steps/s", baseline.name, joined(baseline.notes))
        yield f"No run at the scale of the baseline; its throughput: {', '.join(filter(None, origin))}."
    yield from (f"{c.scale}: {joined(c.notes)}" for c in found if c.notes)


def _noise(noise: Noise) -> str:
    if noise.from_probes:
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


def _law(study: StudyReport) -> Iterator[str]:
    """Yield the law with its error, or why there is none, and Amdahl's limits."""
    if (law := study.law) is not None:
        where = "in µs per env step for r env runners with e envs each"
        coefficients = ", ".join(f"{name} = {rounded(value, 2)}" for name, value in law.coefficients.items())
        yield f"{FORMULA}, {where}, {coefficients}."
        mean, most = rounded(law.mean_error, 1, " %"), rounded(max(law.errors), 1, " %")
        yield f"Its leave-one-out error is {mean} on average and {most} at most."
    else:
        needed = f"at least {MIN_CONFIGURATIONS} configurations, with different numbers of env runners"
        yield f"None: it needs {needed}, which it predicts within {MAX_LAW_ERROR:.0f} % on average."
    for name, fraction in study.axes.items():
        limit = amdahl_limit(fraction)
        bound = "no limit" if math.isnan(limit) else f"limit {rounded(limit, 1, '×')}"
        yield f"Amdahl along {name} alone: serial fraction {rounded(fraction, 3)}, {bound}."
    if not study.axes:
        yield "Serial fractions need 1r×1e, and others with one env each or with one env runner."


def _prediction(study: StudyReport) -> str:
    """Return the fastest of the gaps in the grid and of twice the env runners, up to twice the largest N, as predicted."""
    law, measured = study.law, {c.scale for c in study.configurations}
    if law is None:
        return ""
    runners, most = {scale.num_env_runners for scale in measured}, 2 * max(scale.parallelism for scale in measured)
    wanted = {Scale(r, c.num_envs_per_env_runner) for r in {*runners, 2 * max({1, *runners})} for c in measured} - measured
    predicted = [law.predict(scale) for scale in sorted(wanted) if scale.parallelism <= most]
    best = max((each for each in predicted if each.speedup > 0), key=lambda each: each.speedup, default=None)
    if best is None:
        return ""
    figures = f"{with_interval(best.speedup, best.speedup_error, 2, '×')}, {rounded(best.efficiency, 1, ' %')}"
    return f"Fastest of those not measured, up to twice the largest N: {best.scale}, predicted {figures}."
