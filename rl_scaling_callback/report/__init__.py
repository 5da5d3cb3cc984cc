"""Report formats: terminal, JSON, HTML page, figures and a TensorBoard curve. Heavy imports are deferred."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rl_scaling_callback.report.decisions import reason_text
    from rl_scaling_callback.report.figures import PICTURES, save_figures
    from rl_scaling_callback.report.json_form import to_json
    from rl_scaling_callback.report.report import Report, make_report, render_page, write_page
    from rl_scaling_callback.report.study import StudyReport
    from rl_scaling_callback.report.tensorboard import write_curve
    from rl_scaling_callback.report.terminal import print_report, print_so_far

PAGE: Final = "scaling_report.html"
"""File name of the page in the experiment's folder."""

__all__ = [
    "PAGE",
    "PICTURES",
    "Report",
    "StudyReport",
    "make_report",
    "print_report",
    "print_so_far",
    "reason_text",
    "render_page",
    "save_figures",
    "to_json",
    "write_curve",
    "write_page",
]

_HOME: Final = {
    "PICTURES": "figures",
    "Report": "report",
    "StudyReport": "study",
    "make_report": "report",
    "print_report": "terminal",
    "print_so_far": "terminal",
    "reason_text": "decisions",
    "render_page": "report",
    "save_figures": "figures",
    "to_json": "json_form",
    "write_curve": "tensorboard",
    "write_page": "report",
}


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
