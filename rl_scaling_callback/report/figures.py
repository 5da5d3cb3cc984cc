"""The figures of the report, drawn with Matplotlib. Legible in print and for colour-blind readers.

Colours are those of Okabe and Ito (2008), each combined with a marker or hatch.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FormatStrFormatter, MaxNLocator, NullLocator

from rl_scaling_callback.analysis.configurations import Configuration
from rl_scaling_callback.analysis.returns import reached
from rl_scaling_callback.core.attribution import CAUSES
from rl_scaling_callback.core.formulas import interval
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.text import UNKNOWN, rounded
from rl_scaling_callback.report.study import StudyReport

INK: Final = "#1b1f24"
"""Colour of text, axes and outlines; the page replaces it with its text colour."""

_COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C", "#F0E442")
_MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "h")
_HATCHES: Final = ("", "///", "...", "\\\\\\", "xx", "---", "++", "o")
_LIGHT, _DARK = "#ffffff", "#1a1a1a"
_WIDTH: Final = 5.4

_STYLE: Final[Mapping[str, Any]] = {
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "grid.alpha": 0.18,
    "grid.color": INK,
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.7,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


@contextmanager
def _style(**more: Any) -> Iterator[None]:
    parameters: dict[Any, Any] = {**_STYLE, **more}
    with mpl.rc_context(parameters):
        yield


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure of the report.

    Attributes:
        name: its name, used in file names.
        title: its title.
        caption: how to read it.
        absent: the reason to give if there is nothing to draw; "" for none.
        draw: draws a study; returns None if there is nothing to draw.
    """

    name: str
    title: str
    caption: str
    absent: str
    draw: Callable[[StudyReport], Figure | None]

    def svg(self, study: StudyReport, prefix: str = "") -> str | None:
        """Return the figure as an SVG element, identical for the same study; None if there is nothing to draw.

        Args:
            study: the study to draw.
            prefix: prefix of its ids, so that those of several figures on one page don't clash.
        """
        figure = self.draw(study)
        if figure is None:
            return None
        written = io.StringIO()
        with _style(**{"svg.hashsalt": self.name}):
            figure.savefig(written, format="svg", metadata={"Date": None, "Creator": None, "Title": self.title})
        svg = written.getvalue()
        return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}", svg[svg.index("<svg") :])


def save_figures(study: StudyReport, folder: str | Path, form: str = "svg") -> tuple[Path, ...]:
    """Write those figures of a study that can be drawn, and return their paths.

    Args:
        study: the study to draw.
        folder: folder to write to; created if missing.
        form: `"svg"`, `"png"`, `"pdf"` or another format that Matplotlib supports.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    paths = []
    for picture in PICTURES:
        figure = picture.draw(study)
        if figure is not None:
            path = Path(folder) / f"{picture.name}.{form}"
            with _style(**{"svg.hashsalt": picture.name}):
                figure.savefig(path, dpi=200, facecolor="white", metadata={"Date": None} if form == "svg" else None)
            paths.append(path)
    return tuple(paths)


def speedup_over_n(study: StudyReport) -> Figure | None:
    """Return speedup over N on logarithmic axes: ideal line, measured points with their errors, the chosen law with its band."""
    known = [c for c in study.configurations if c.speedup > 0]
    if not known:
        return None
    top, unit = max(c.scale.parallelism for c in known), known[0].scale.parallelism / known[0].ideal
    with _style():
        figure = Figure(figsize=(_WIDTH, 4.6))
        axes = figure.subplots()
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        ideal = axes.plot((unit, 2 * top), (1, 2 * top / unit), color=INK, linestyle="--", linewidth=1, label="ideal")
        points: list[Line2D] = []
        curves: list[Line2D] = []
        for family in _families(known):
            n, speedup = [c.scale.parallelism for c in family.members], [c.speedup for c in family.members]
            bars = [[abs(end - c.speedup) for c, end in zip(family.members, ends, strict=True)] for ends in _ends(family.members)]
            axes.errorbar(n, speedup, bars, ecolor=family.colour, fmt="none", capsize=4, zorder=3)
            looks: dict[str, Any] = {"color": family.colour, "marker": family.marker, "linestyle": "none", "zorder": 3}
            points += axes.plot(n, speedup, **looks, label=family.label)
            curves += _law(axes, study, family, 2 * top)
        ring: list[Line2D] = []
        for c in known:
            if c is study.recommendation.choice:
                looks = {"color": INK, "marker": "o", "markersize": 12, "fillstyle": "none", "linestyle": "none", "zorder": 4}
                ring = axes.plot(c.scale.parallelism, c.speedup, **looks, label=f"recommended: {c.scale}")
        # Show bars down to their lower end, unless that squeezes everything else.
        lowest = max(min(_ends(known)[0]), min(c.speedup for c in known) / 8)
        axes.set(xlabel="N = env runners × envs per runner", ylabel="speedup [×]")
        axes.set(xlim=(0.85 * unit, 2.15 * top), ylim=(min(0.85, 0.8 * lowest), 2.15 * top / unit))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FormatStrFormatter("%g"))
            axis.set_minor_locator(NullLocator())
        axes.legend(handles=[*ideal, *points, *curves[:1], *ring], loc="upper left")
    return figure


@dataclass(frozen=True, slots=True)
class _Family:
    """Configurations with the same number of env runners or of envs, drawn in the same style."""

    members: tuple[Configuration, ...]
    shared: int
    by_runners: bool
    colour: str
    marker: str

    @property
    def label(self) -> str:
        plural = "s" if self.shared > 1 else ""
        return f"{self.shared} env runner{plural}" if self.by_runners else f"{self.shared} env{plural} per runner"

    def scale(self, step: int) -> Scale:
        return Scale(self.shared, step) if self.by_runners else Scale(step, self.shared)


def _families(known: Sequence[Configuration]) -> Iterator[_Family]:
    """Yield the configurations grouped by envs per runner, or by env runners if that makes fewer groups."""
    by_envs: dict[int, list[Configuration]] = {}
    by_runners: dict[int, list[Configuration]] = {}
    for c in known:
        by_envs.setdefault(c.scale.num_envs_per_env_runner, []).append(c)
        by_runners.setdefault(max(1, c.scale.num_env_runners), []).append(c)
    fewer = len(by_runners) < len(by_envs)
    for index, (shared, members) in enumerate(sorted((by_runners if fewer else by_envs).items())):
        yield _Family(tuple(members), shared, fewer, _COLOURS[index % len(_COLOURS)], _MARKERS[index % len(_MARKERS)])


def _ends(members: Sequence[Configuration]) -> tuple[list[float], list[float]]:
    """Return the lower and the upper ends of the intervals of speedups."""
    lows, highs = zip(*(interval(c.speedup, c.speedup_error) for c in members), strict=True)
    return list(lows), list(highs)


def _law(axes: Axes, study: StudyReport, family: _Family, top: int) -> list[Line2D]:
    fit = study.laws.chosen
    # Whole numbers, about evenly spread on the logarithmic axis.
    steps = sorted({round((top / family.shared) ** (i / 40)) for i in range(41)})
    if fit is None or len(steps) < 2:
        return []
    predictions = [fit.predict(family.scale(step)) for step in steps]
    n = [each.scale.parallelism for each in predictions]
    lows, highs = zip(*(interval(each.speedup, each.speedup_error) for each in predictions), strict=True)
    axes.fill_between(n, lows, highs, color=family.colour, alpha=0.13, linewidth=0)
    looks: dict[str, Any] = {"color": family.colour, "linewidth": 1.2, "label": "scaling law with 95 % band"}
    return axes.plot(n, [each.speedup for each in predictions], **looks)


def efficiency_map(study: StudyReport) -> Figure | None:
    """Return efficiency over env runners and envs per runner, as numbers in a heat map; the recommended cell is outlined."""
    known = {c.scale: c for c in study.configurations if not math.isnan(c.efficiency)}
    if not known:
        return None
    runners = sorted({scale.num_env_runners for scale in known})
    envs = sorted({scale.num_envs_per_env_runner for scale in known})
    with _style(**{"axes.grid": False, "axes.spines.left": False, "axes.spines.bottom": False}):
        figure = Figure(figsize=(_WIDTH, 1.0 + 0.55 * len(envs)))
        axes = figure.subplots()
        colours = mpl.colormaps["cividis"]
        for (x, r), (y, e) in product(enumerate(runners), enumerate(envs)):
            c = known.get(Scale(r, e))
            if c is None:
                axes.text(x, y, UNKNOWN, ha="center", va="center")
                continue
            red, green, blue, _ = colour = colours(min(1.0, max(0.0, c.efficiency / 100)))
            axes.add_patch(Rectangle((x - 0.48, y - 0.48), 0.96, 0.96, facecolor=colour, edgecolor="none"))
            light = 0.299 * red + 0.587 * green + 0.114 * blue > 0.5
            axes.text(x, y, rounded(c.efficiency, 1), ha="center", va="center", color=_DARK if light else _LIGHT)
            if c is study.recommendation.choice:
                axes.add_patch(Rectangle((x - 0.46, y - 0.46), 0.92, 0.92, fill=False, edgecolor="#D55E00", linewidth=3))
        axes.set(xlim=(-0.5, len(runners) - 0.5), ylim=(-0.5, len(envs) - 0.5))
        axes.set_xticks(range(len(runners)), [str(n) for n in runners])
        axes.set_yticks(range(len(envs)), [str(n) for n in envs])
        axes.tick_params(length=0)
        axes.set(xlabel="env runners", ylabel="envs per runner")
    return figure


def loss_by_cause(study: StudyReport) -> Figure | None:
    """Return the loss by cause as stacked bars, negative shares to the left, with a marker at the total."""
    known = [c for c in study.configurations if c.losses and not any(math.isnan(share) for share in c.losses.values())]
    known = [c for c in known if not c.is_baseline]
    if not known:
        return None
    causes = [cause for cause in CAUSES if any(abs(c.losses.get(cause, 0.0)) >= 0.05 for c in known)]
    with _style(**{"axes.grid.axis": "x"}):
        figure = Figure(figsize=(_WIDTH, 1.6 + 0.32 * len(known)))
        axes = figure.subplots()
        places = range(len(known))
        right, left = [0.0] * len(known), [0.0] * len(known)
        for cause in causes:
            index = list(CAUSES).index(cause)
            shares = [c.losses.get(cause, 0.0) for c in known]
            starts = [right[i] if share >= 0 else left[i] for i, share in enumerate(shares)]
            looks: dict[str, Any] = {
                "color": _COLOURS[index],
                "hatch": _HATCHES[index],
                "edgecolor": _DARK,
                "linewidth": 0.5,
                "height": 0.68,
            }
            axes.barh(places, shares, left=starts, label=cause.replace("_", " "), **looks)
            for i, share in enumerate(shares):
                (right if share >= 0 else left)[i] += share
        axes.plot([c.loss for c in known], places, color=INK, marker="D", markersize=5, linestyle="none", label="100 − efficiency")
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_yticks(places, [str(c.scale) for c in known])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(known) - 0.5, -0.6)
        axes.set(xlabel="lost efficiency [% points]")
        figure.legend(loc="outside lower center", ncols=3)
    return figure


def iteration_times(study: StudyReport) -> Figure | None:
    """Return the duration of each iteration, one panel per configuration: hollow for warm-up, filled for the steady window."""
    known = [c for c in study.configurations if any(len(run.samples) > 1 for run in c.runs)]
    if not known:
        return None
    columns = min(3, len(known))
    rows = math.ceil(len(known) / columns)
    with _style():
        figure = Figure(figsize=(_WIDTH, 0.7 + 1.35 * rows))
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
        panels = [axes for row in grid for axes in row]
        for axes in panels[len(known) :]:
            axes.remove()
        for axes in panels[len(known) - columns : len(known)]:
            axes.tick_params(labelbottom=True)
        for axes, c in zip(panels, known, strict=False):
            for index, run in enumerate(c.runs):
                looks: dict[str, Any] = {
                    "color": _COLOURS[index % len(_COLOURS)],
                    "marker": _MARKERS[index % len(_MARKERS)],
                    "markersize": 4,
                }
                axes.plot([s.number for s in run.samples], [s.seconds for s in run.samples], color=looks["color"], linewidth=0.8)
                for measured in (False, True):
                    shown = [s for s in run.samples if s.measured is measured]
                    fill = "full" if measured else "none"
                    axes.plot([s.number for s in shown], [s.seconds for s in shown], **looks, fillstyle=fill, linestyle="none")
            axes.set_title(str(c.scale), fontsize=10, loc="left")
            axes.set_ylim(0, 1.1 * max(s.seconds for run in c.runs for s in run.samples))
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(3))
            axes.tick_params(labelsize=8)
        figure.supxlabel("iteration", fontsize=10)
        figure.supylabel("seconds", fontsize=10)
        mark: dict[str, Any] = {"color": INK, "marker": "o", "markersize": 4, "linestyle": "none"}
        legend = [Line2D([], [], **mark, fillstyle="none", label="warm-up"), Line2D([], [], **mark, label="steady window")]
        figure.legend(handles=legend, loc="outside upper right", ncols=2)
    return figure


def learning_curves(study: StudyReport) -> Figure | None:
    """Return the mean return over training time, a colour per configuration, with a marker where each run stays at the target."""
    to_return = study.to_return
    if not any(c.to_return.seconds > 0 for c in study.configurations):
        return None
    asked = study.recommendation
    first = [asked.choice, *(c for c in study.configurations if c.is_baseline), asked.runner_up, *study.configurations]
    most = [*dict.fromkeys(c.scale for c in first if c)][: len(_COLOURS)]
    shown = [c for c in study.configurations if c.scale in most]
    with _style():
        figure = Figure(figsize=(_WIDTH, 4.0))
        axes = figure.subplots()
        for c, colour, marker in zip(shown, _COLOURS, _MARKERS, strict=False):
            for index, run in enumerate(c.runs):
                curve = [each for each in run.samples if math.isfinite(each.episode_return)]
                at = reached(curve, to_return.target)
                axes.plot(
                    [each.elapsed for each in curve],
                    [each.episode_return for each in curve],
                    color=colour,
                    linewidth=1.0,
                    marker=marker,
                    markersize=7,
                    markevery=[curve.index(at)] if at else [],
                    label=str(c.scale) if index == 0 else None,
                )
        axes.axhline(to_return.target, color=INK, linestyle="--", linewidth=1, label=to_return.name)
        axes.set(xlabel="training time [s]", ylabel="mean return")
        figure.legend(loc="outside lower center", ncols=4)
    return figure


PICTURES: Final[tuple[Picture, ...]] = (
    Picture(
        "speedup",
        "Speedup over N",
        "Measured speedup and the ideal line, on logarithmic axes. Bars are 95 % intervals; curves show the scaling law with its "
        "95 % interval for a new measurement.",
        "there is no baseline to compare with",
        speedup_over_n,
    ),
    Picture(
        "efficiency",
        "Efficiency [%]",
        "Speedup / N × 100 by env runners and envs per runner; the recommended configuration is outlined.",
        "there is no baseline to compare with",
        efficiency_map,
    ),
    Picture(
        "loss",
        "Loss by cause",
        "Lost efficiency by cause, in percentage points. Negative shares scaled better than ideal, or the machine was less busy "
        "than during the baseline.",
        "no trial with a measured baseline recorded its phases",
        loss_by_cause,
    ),
    Picture(
        "iterations",
        "Time of each iteration",
        "Hollow markers are warm-up; filled ones are the steady window, from which all figures are computed. Each run has its own "
        "colour and marker.",
        "individual iterations were not recorded",
        iteration_times,
    ),
    Picture(
        "returns",
        "Return over training time",
        "One curve per run. Its marker is where the run stays at the target return, the dashed line. At most eight configurations.",
        "",
        learning_curves,
    ),
)
"""All figures, in page order."""
