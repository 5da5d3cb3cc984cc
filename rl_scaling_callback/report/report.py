"""The report of an experiment, also as a page (`page.html.j2`): HTML without scripts, requests, external fonts or images."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from html import escape
from pathlib import Path
from typing import Any, Final

from rl_scaling_callback import __version__
from rl_scaling_callback.analysis.choice import Goal
from rl_scaling_callback.analysis.runs import Experiment
from rl_scaling_callback.core import text
from rl_scaling_callback.core.scale import REFERENCE_SCALE, Scale
from rl_scaling_callback.report import decisions, sections
from rl_scaling_callback.report.study import StudyReport, columns_of, study_report

PAGE: Final = "scaling_report.html"
"""File name of the page in the experiment's folder."""
SWEEP_PAGE: Final = f"~/ray_results/scaling_sweep/{PAGE}"
"""Where a sweep writes the page."""


@dataclass(frozen=True, slots=True, repr=False)
class Report:
    """The report of an experiment.

    Attributes:
        experiment: the runs that were read, and those left out.
        studies: one for each workload, in the experiment's order.
        provenance: source, time and version, as texts by name.
        config: after a sweep, the `AlgorithmConfig` with the recommended numbers; otherwise None.
        interrupted: True if a sweep was interrupted before it had measured everything.
    """

    experiment: Experiment
    studies: tuple[StudyReport, ...]
    provenance: Mapping[str, str]
    config: Any = None
    interrupted: bool = False

    def __repr__(self) -> str:
        choices = [f"{each.study.title}: {decisions.choice_text(each.recommendation)}" for each in self.studies]
        return f"<Report: {'; '.join(choices) or 'nothing to show'}>"

    def _repr_html_(self) -> str:
        """Return the page in an iframe, for notebooks."""
        return f'<iframe srcdoc="{escape(render_page(self))}" style="width: 100%; height: 40em; border: 0"></iframe>'


def make_report(
    experiment: Experiment,
    goal: str | Goal = "balanced",
    reference: str | Scale = REFERENCE_SCALE,
    made: datetime | None = None,
) -> Report:
    """Return the report of an experiment.

    Args:
        experiment: the experiment, as read by `read_experiment`.
        goal: the name of one of `GOALS`, or a `Goal`. The report also covers the other goals of `GOALS`.
        reference: scale of the baseline, such as `"1r1e"`.
        made: timestamp of the report; now by default.

    Raises:
        TypeError: if `experiment` is not an `Experiment`.
        ValueError: if the goal or scale is not allowed.
    """
    if not isinstance(experiment, Experiment):
        raise TypeError(f"experiment is {experiment!r}; allowed is an Experiment: read_experiment returns one")
    goal, reference = Goal.of(goal), Scale.parse(reference)
    made = made or datetime.now(timezone.utc)
    provenance = {
        "Source": experiment.source,
        "Made": made.strftime("%Y-%m-%d %H:%M %Z").strip(),
        "Made by": f"rl_scaling_callback {__version__}",
    }
    studies = tuple(study_report(study, goal, reference) for study in experiment.studies)
    return Report(experiment, studies, provenance)


def check_installed() -> None:
    """Check that the packages that showing a report needs are installed.

    Raises:
        ImportError: one is missing.
    """
    if missing := [name for name in ("jinja2", "matplotlib", "rich") if importlib.util.find_spec(name) is None]:
        raise ImportError(f'A report needs {", ".join(missing)}: pip install "rl-scaling-callback[report]"')


def render_page(report: Report) -> str:
    """Return a report as HTML. All text from runs is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from rl_scaling_callback.report.figures import INK, PICTURES, Picture

    def drawings(study: StudyReport, index: int) -> list[tuple[Picture, str]]:
        drawn = [(picture, picture.svg(study, f"{picture.name}-{index}-")) for picture in PICTURES]
        return [(picture, svg) for picture, svg in drawn if svg]

    environment = Environment(
        loader=PackageLoader(__package__, ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(rounded=text.rounded, printable=text.printable)
    environment.globals.update(decisions=decisions, sections=sections, columns_of=columns_of, drawings=drawings, ink=INK)
    return environment.get_template("page.html.j2").render(report=report)


def write_page(report: Report, path: str | Path) -> Path:
    """Write a report as an HTML file, and return its path."""
    path = Path(path)
    path.write_text(render_page(report), encoding="utf-8")
    return path
