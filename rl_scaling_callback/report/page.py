"""The report as a self-contained HTML page: no scripts, no requests, no external fonts or images."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from rl_scaling_callback.report import decisions, text, wording
from rl_scaling_callback.report.figures import INK, PICTURES, Picture
from rl_scaling_callback.report.notes import notes_text
from rl_scaling_callback.report.report import Report, StudyReport

_TEMPLATE = "page.html.j2"


def render_page(report: Report) -> str:
    """Return a report as HTML. All text from runs is escaped."""
    environment = Environment(
        loader=PackageLoader(__package__, ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        rounded=text.rounded, duration=text.duration, printable=text.printable, notes=notes_text, picture=_picture
    )
    environment.globals.update(decisions=decisions, wording=wording, unknown=text.UNKNOWN, pictures=PICTURES)
    return environment.get_template(_TEMPLATE).render(report=report)


def write_page(report: Report, path: str | Path) -> Path:
    """Write a report as an HTML file, and return its path."""
    path = Path(path)
    path.write_text(render_page(report), encoding="utf-8")
    return path


def _picture(picture: Picture, study: StudyReport, index: int) -> Markup | None:
    """Return a picture as an SVG element that uses the page's text colour, so that it follows light and dark mode."""
    svg = picture.svg(study, f"{picture.name}-{index}-")
    if svg is None:
        return None
    # Its texts are scales and causes, escaped by Matplotlib; none of them comes from a run.
    return Markup(svg.replace(INK, "currentColor"))
