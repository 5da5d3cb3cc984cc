"""The report as one HTML page that needs nothing else: no script, no request, no font or picture from elsewhere."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from rl_scaling_callback.report import decisions, text, wording
from rl_scaling_callback.report.figures import INK, PICTURES, Picture
from rl_scaling_callback.report.report import Report, StudyReport

_TEMPLATE = "page.html.j2"


def render_page(report: Report) -> str:
    """Return a report as HTML. Every text of a run is escaped."""
    environment = Environment(
        loader=PackageLoader(__package__, ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(number=text.number, duration=text.duration, plain=text.plain, picture=_picture)
    environment.globals.update(decisions=decisions, wording=wording, unknown=text.UNKNOWN, pictures=PICTURES)
    return environment.get_template(_TEMPLATE).render(report=report)


def write_page(report: Report, path: str | Path) -> Path:
    """Write a report as an HTML file, and return its path."""
    path = Path(path)
    path.write_text(render_page(report), encoding="utf-8")
    return path


def _picture(picture: Picture, study: StudyReport, place: int) -> Markup | None:
    """Return a picture as an element of the page, in the page's own ink so that it follows light and dark."""
    svg = picture.svg(study, f"{picture.name}-{place}-")
    if svg is None:
        return None
    # Text in it is made of scales and causes, which Matplotlib escapes; nothing of it was written by a run.
    return Markup(svg.replace(INK, "currentColor"))
