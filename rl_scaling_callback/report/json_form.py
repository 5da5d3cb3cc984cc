"""The report in JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from rl_scaling_callback.analysis.configurations import Configuration
from rl_scaling_callback.analysis.laws import Prediction
from rl_scaling_callback.analysis.recommendation import Recommendation
from rl_scaling_callback.core.formulas import interval
from rl_scaling_callback.report.columns import Column, columns_of
from rl_scaling_callback.report.decisions import bottleneck_text, code_text, goal_text, reason_text, runner_up_text
from rl_scaling_callback.report.report import Report
from rl_scaling_callback.report.sections import law_lines, notes
from rl_scaling_callback.report.study import StudyReport


def to_json(report: Report) -> str:
    """Return a report in JSON, with full-precision numbers and null for unknown values."""
    document = {
        "provenance": report.provenance,
        "notes": report.experiment.notes,
        "studies": [_study_json(study) for study in report.studies],
        "left_out": [each._asdict() for each in report.experiment.left_out],
    }
    text = json.dumps(_without_nan(document), ensure_ascii=False, allow_nan=False, indent=2)
    # Lone surrogates are valid in Python strings and in JSON, but can't be encoded.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _study_json(study: StudyReport) -> dict[str, Any]:
    laws = study.laws
    return {
        "title": study.study.title,
        "remarks": study.remarks,
        "facts": study.study.facts,
        "target_return": study.to_return.target,
        "configurations": [_configuration_json(c, columns_of(study.configurations)) for c in study.configurations],
        "recommendations": {name: _recommendation_json(each) for name, each in study.recommendations.items()},
        "laws": {
            "chosen": laws.chosen.law.name if laws.chosen else None,
            "limit": laws.limit,
            "fits": [
                {
                    "name": fit.law.name,
                    "formula": fit.law.formula,
                    "coefficients": fit.coefficients,
                    "mean_error": fit.mean_error,
                    "max_error": max(fit.errors),
                }
                for fit in laws.fits
            ],
            "axes": [{"name": a.name, "serial_fractions": a.serial_fractions, "limit": a.limit} for a in laws.axes],
            "predictions": [_prediction_json(each) for each in study.predictions()],
            "notes": list(law_lines(laws)),
        },
        "checklist": [each._asdict() for each in study.checklist],
        "notes": list(notes(study)),
    }


def _prediction_json(prediction: Prediction) -> dict[str, Any]:
    low, high = interval(prediction.speedup, prediction.speedup_error) if prediction.speedup_error > 0 else (None, None)
    return {
        "config": str(prediction.scale),
        "sps": prediction.sps,
        "speedup": prediction.speedup,
        "low": low,
        "high": high,
        "extrapolated": prediction.extrapolated,
    }


def _configuration_json(configuration: Configuration, columns: Iterable[Column]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for column in columns:
        row[column.name] = column.value(configuration)
        if column.error is not None:
            row[f"{column.name}_error"] = column.error(configuration)
    row["from_repeats"] = configuration.noise.from_repeats
    row["losses"] = configuration.losses
    row["gains"] = configuration.gains
    row["runs"] = [run.name for run in configuration.runs]
    return row


def _recommendation_json(recommendation: Recommendation) -> dict[str, Any]:
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


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_nan(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
