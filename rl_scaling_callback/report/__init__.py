"""Report formats: terminal, Markdown, JSON, HTML page, figures and a TensorBoard curve. Heavy imports are deferred."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rl_scaling_callback.report.decisions import reason_text
    from rl_scaling_callback.report.figures import PICTURES, save_figures
    from rl_scaling_callback.report.json_form import to_json
    from rl_scaling_callback.report.markdown import to_markdown
    from rl_scaling_callback.report.page import render_page, write_page
    from rl_scaling_callback.report.report import Report, StudyReport, make_report
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
    "to_markdown",
    "write_curve",
    "write_page",
]

_HOME: Final = {
    "PICTURES": "figures",
    "Report": "report",
    "StudyReport": "report",
    "make_report": "report",
    "print_report": "terminal",
    "print_so_far": "terminal",
    "reason_text": "decisions",
    "render_page": "page",
    "save_figures": "figures",
    "to_json": "json_form",
    "to_markdown": "markdown",
    "write_curve": "tensorboard",
    "write_page": "page",
}


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
