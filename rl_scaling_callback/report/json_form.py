"""The report in JSON: figures in full precision, and the same sections as on the page."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from rl_scaling_callback.analysis.choice import Recommendation
from rl_scaling_callback.analysis.configurations import Configuration
from rl_scaling_callback.report.columns import COLUMNS
from rl_scaling_callback.report.decisions import alternatives, code_text, reason_text
from rl_scaling_callback.report.report import Report
from rl_scaling_callback.report.sections import remarks, sections
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
    chosen = study.laws.chosen
    return {
        "title": study.study.title,
        "facts": study.study.facts,
        "target_return": study.to_return.target,
        "configurations": [_configuration(c) for c in study.configurations],
        "recommendations": {name: _recommendation(each) for name, each in study.recommendations.items()},
        "law": {"name": chosen.law.name, "formula": chosen.law.formula, **chosen.coefficients} if chosen else None,
        "checklist": [each._asdict() for each in study.checklist],
        "sections": {"Remarks": [*remarks(study)], "Alternatives": alternatives(study), **sections(study)},
    }


def _configuration(c: Configuration) -> dict[str, Any]:
    figures = {column.name: column.value(c) for column in COLUMNS}
    errors = {f"{column.name}_error": column.error(c) for column in COLUMNS if column.error is not None}
    return {**figures, **errors, "losses": c.losses, "gains": c.gains, "runs": [run.name for run in c.runs]}


def _recommendation(recommendation: Recommendation) -> dict[str, Any]:
    return {
        "choice": str(recommendation.choice.scale) if recommendation.choice else None,
        "verdict": recommendation.verdict,
        "reason": reason_text(recommendation),
        "runner_up": str(recommendation.runner_up.scale) if recommendation.runner_up else None,
        "code": code_text(recommendation),
    }


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_nan(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
