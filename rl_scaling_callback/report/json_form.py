"""The report in JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from rl_scaling_callback.analysis.choice import Recommendation
from rl_scaling_callback.analysis.configurations import Configuration
from rl_scaling_callback.analysis.laws import Laws, axis_limit
from rl_scaling_callback.core.formulas import NAN, interval
from rl_scaling_callback.report.columns import COLUMNS
from rl_scaling_callback.report.decisions import bottleneck_text, code_text, goal_text, reason_text, runner_up_text
from rl_scaling_callback.report.report import Report
from rl_scaling_callback.report.sections import law_lines, notes
from rl_scaling_callback.report.study import StudyReport


def to_json(report: Report) -> str:
    """Return a report in JSON, with full-precision numbers and null for unknown values."""
    document = {
        "provenance": report.provenance,
        "notes": report.experiment.notes,
        "studies": [_study(study) for study in report.studies],
        "left_out": [each._asdict() for each in report.experiment.left_out],
    }
    text = json.dumps(_without_nan(document), ensure_ascii=False, allow_nan=False, indent=2)
    # Lone surrogates are valid in Python strings and in JSON, but can't be encoded.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _study(study: StudyReport) -> dict[str, Any]:
    return {
        "title": study.study.title,
        "remarks": study.remarks,
        "facts": study.study.facts,
        "target_return": study.to_return.target,
        "configurations": [_configuration(c) for c in study.configurations],
        "recommendations": {name: _recommendation(each) for name, each in study.recommendations.items()},
        "laws": {**_laws(study.laws), "predictions": [_prediction(each) for each in study.predictions()]},
        "checklist": [each._asdict() for each in study.checklist],
        "notes": list(notes(study)),
    }


def _configuration(c: Configuration) -> dict[str, Any]:
    figures = {column.name: column.value(c) for column in COLUMNS}
    errors = {f"{column.name}_error": column.error(c) for column in COLUMNS if column.error is not None}
    more = {"from_repeats": c.noise.from_repeats, "losses": c.losses, "gains": c.gains, "runs": [run.name for run in c.runs]}
    return figures | errors | more


def _recommendation(recommendation: Recommendation) -> dict[str, Any]:
    choice, runner_up = recommendation.choice, recommendation.runner_up
    return {
        "asked": goal_text(recommendation.goal),
        "choice": str(choice.scale) if choice else None,
        "verdict": recommendation.verdict,
        "reason": reason_text(recommendation),
        "runner_up": str(runner_up.scale) if runner_up else None,
        "runner_up_reason": runner_up_text(recommendation),
        "bottleneck": bottleneck_text(recommendation),
        "code": code_text(recommendation),
    }


def _laws(laws: Laws) -> dict[str, Any]:
    fits = [
        {
            "name": fit.law.name,
            "formula": fit.law.formula,
            "coefficients": fit.coefficients,
            "mean_error": fit.mean_error,
            "max_error": max(fit.errors),
        }
        for fit in laws.fits
    ]
    axes = [{"name": name, "serial_fractions": each, "limit": axis_limit(each)} for name, each in laws.axes.items()]
    chosen = laws.chosen.law.name if laws.chosen else None
    return {"chosen": chosen, "fits": fits, "axes": axes, "notes": list(law_lines(laws))}


def _prediction(prediction: Configuration) -> dict[str, Any]:
    is_known = prediction.speedup_error > 0
    low, high = interval(prediction.speedup, prediction.speedup_error) if is_known else (NAN, NAN)
    figures = {"sps": prediction.sps, "speedup": prediction.speedup, "low": low, "high": high}
    return {"config": str(prediction.scale), **figures}


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_nan(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
