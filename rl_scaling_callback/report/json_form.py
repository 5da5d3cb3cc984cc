"""The report in JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from rl_scaling_callback.analysis.configurations import Configuration
from rl_scaling_callback.analysis.laws import Prediction
from rl_scaling_callback.analysis.recommendation import Recommendation
from rl_scaling_callback.report.decisions import (
    bottleneck_text,
    code_text,
    evidence_text,
    goal_text,
    question_text,
    reason_text,
    runner_up_text,
)
from rl_scaling_callback.report.notes import left_out_text
from rl_scaling_callback.report.report import Report, StudyReport
from rl_scaling_callback.report.wording import COLUMNS, law_notes, notes


def to_json(report: Report) -> str:
    """Return a report in JSON, with full-precision numbers and null for unknown values."""
    document = {
        "provenance": report.provenance,
        "notes": report.experiment.notes,
        "studies": [_study_json(study) for study in report.studies],
        "left_out": [{"name": each.name, "reason": left_out_text(each)} for each in report.experiment.left_out],
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
        "configurations": [_configuration_json(c) for c in study.configurations],
        "recommendations": {name: _recommendation_json(each) for name, each in study.recommendations.items()},
        "laws": {
            "chosen": laws.chosen.name if laws.chosen else None,
            "limit": laws.limit,
            "fits": [
                {
                    "name": f.name,
                    "formula": f.formula,
                    "parameters": f.parameters,
                    "mean_error": f.mean_error,
                    "max_error": f.max_error,
                }
                for f in laws.fits
            ],
            "axes": [{"name": a.name, "serial_fractions": a.serial_fractions, "limit": a.limit} for a in laws.axes],
            "falls_beyond": [[str(top), str(fallen)] for top, fallen in laws.falls_beyond],
            "predictions": [_prediction_json(study, each) for each in study.predictions()],
            "notes": list(law_notes(laws)),
        },
        "checklist": [
            {"stage": c.stage, "text": question_text(c), "verdict": c.verdict, "evidence": evidence_text(c)}
            for c in study.checklist
        ],
        "notes": list(notes(study)),
    }


def _prediction_json(study: StudyReport, prediction: Prediction) -> dict[str, Any]:
    (low, high), (lowest, highest) = prediction.speedups, study.laws.span(prediction.scale)
    return {
        "config": str(prediction.scale),
        "sps": prediction.sps,
        "speedup": prediction.speedup,
        "low": low,
        "high": high,
        "lowest": lowest,
        "highest": highest,
        "extrapolated": prediction.extrapolated,
    }


def _configuration_json(configuration: Configuration) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for column in COLUMNS:
        row[column.name] = column.value(configuration)
        if column.error is not None:
            row[f"{column.name}_error"] = column.error(configuration)
    row["from_repeats"] = configuration.noise.from_repeats
    row["losses"] = configuration.losses
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
        "measure_next": [{"config": str(each.scale), "speedup": each.speedup} for each in recommendation.measure_next],
        "code": code_text(recommendation),
    }


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_nan(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
