"""The figures of the page, drawn with Matplotlib. Legible in print and for colour-blind readers.

Colours are those of Okabe and Ito (2008), each combined with a marker or hatch.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import Any, Final, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FormatStrFormatter, NullLocator

from rl_scaling_callback.analysis.configurations import Configuration
from rl_scaling_callback.analysis.returns import reached
from rl_scaling_callback.core.attribution import CAUSES
from rl_scaling_callback.core.formulas import interval
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.text import counted
from rl_scaling_callback.report.study import StudyReport

INK: Final = "#1b1f24"
"""Colour of text, axes and outlines; the page replaces it with its text colour."""

_COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C", "#F0E442")
_MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "h")
_HATCHES: Final = ("", "///", "...", "\\\\\\", "xx", "---", "++", "o")
_OUTLINE: Final = "#1a1a1a"
_WIDTH: Final = 5.4

_STYLE: Final[Mapping[str, Any]] = {
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "grid.color", "text.color", "xtick.color", "ytick.color"), INK),
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "grid.alpha": 0.18,
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.7,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "svg.fonttype": "none",
}


class Picture(NamedTuple):
    """A figure of the page: its name, title, how to read it, and what draws it; None if there is nothing to draw."""

    name: str
    title: str
    caption: str
    draw: Callable[[StudyReport], Figure | None]

    def svg(self, study: StudyReport, prefix: str = "") -> str | None:
        """Return the figure as an SVG element, identical for the same study; None if there is nothing to draw.

        A prefix keeps its ids apart from those of other figures on the page.
        """
        style: dict[Any, Any] = {**_STYLE, "svg.hashsalt": self.name}
        with mpl.rc_context(style):
            figure = self.draw(study)
            if figure is None:
                return None
            written = io.StringIO()
            metadata: dict[str, Any] = {"Date": None, "Creator": None, "Title": self.title}
            figure.savefig(written, format="svg", metadata=metadata)
        svg = written.getvalue()
        return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}", svg[svg.index("<svg") :])


def speedup_over_n(study: StudyReport) -> Figure | None:
    """Return speedup over N on logarithmic axes: ideal line, measured points with their errors, the scaling law with its band.

    Configurations with as many envs per runner share a style, or those with as many env runners if that makes fewer styles.
    """
    known = [c for c in study.configurations if c.speedup > 0]
    if not known:
        return None
    top, unit = max(c.scale.parallelism for c in known), known[0].scale.parallelism / known[0].ideal
    figure = Figure(figsize=(_WIDTH, 4.6))
    axes = figure.subplots()
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    legend = axes.plot((unit, 2 * top), (1, 2 * top / unit), color=INK, linestyle="--", linewidth=1, label="ideal")
    runners, envs = ({counts[axis] for counts in map(_counts, known)} for axis in (0, 1))
    of_runners = len(runners) < len(envs)
    curves: list[Line2D] = []
    styles = zip(sorted(runners if of_runners else envs), cycle(_COLOURS), cycle(_MARKERS), strict=False)
    for shared, colour, marker in styles:
        members = [c for c in known if _counts(c)[0 if of_runners else 1] == shared]
        n, speedup = [c.scale.parallelism for c in members], [c.speedup for c in members]
        bars = [[abs(end - c.speedup) for c, end in zip(members, ends, strict=True)] for ends in _ends(members)]
        axes.errorbar(n, speedup, bars, ecolor=colour, fmt="none", capsize=4, zorder=3)
        label = counted(shared, "env runner") if of_runners else f"{counted(shared, 'env')} per runner"
        legend += axes.plot(n, speedup, color=colour, marker=marker, linestyle="none", zorder=3, label=label)
        # Whole numbers, about evenly spread on the logarithmic axis.
        steps = sorted({round((2 * top / shared) ** (i / 40)) for i in range(41)})
        if study.law is not None and len(steps) > 1:
            scales = [Scale(shared, step) if of_runners else Scale(step, shared) for step in steps]
            curves += _law(axes, [study.law.predict(scale) for scale in scales], colour)
    legend += curves[:1]
    choice = study.recommendation.choice
    if choice is not None and choice.speedup > 0:
        ring: dict[str, Any] = {"marker": "o", "markersize": 12, "fillstyle": "none", "linestyle": "none", "zorder": 4}
        legend += axes.plot(choice.scale.parallelism, choice.speedup, color=INK, label=f"recommended: {choice.scale}", **ring)
    # Show bars down to their lower end, unless that squeezes everything else.
    lowest = max(min(_ends(known)[0]), min(c.speedup for c in known) / 8)
    axes.set(xlabel="N = env runners × envs per runner", ylabel="speedup [×]")
    axes.set(xlim=(0.85 * unit, 2.15 * top), ylim=(min(0.85, 0.8 * lowest), 2.15 * top / unit))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FormatStrFormatter("%g"))
        axis.set_minor_locator(NullLocator())
    axes.legend(handles=legend, loc="upper left")
    return figure


def _counts(c: Configuration) -> tuple[int, int]:
    """Return its env runners, at least one, and envs per env runner."""
    return c.scale.samplers, c.scale.num_envs_per_env_runner


def _ends(found: Sequence[Configuration]) -> tuple[list[float], list[float]]:
    """Return the lower and the upper ends of the intervals of speedups."""
    lows, highs = zip(*(interval(each.speedup, each.speedup_error) for each in found), strict=True)
    return list(lows), list(highs)


def _law(axes: Axes, predictions: Sequence[Configuration], colour: str) -> list[Line2D]:
    n, speedup = [each.scale.parallelism for each in predictions], [each.speedup for each in predictions]
    axes.fill_between(n, *_ends(predictions), color=colour, alpha=0.13, linewidth=0)
    return axes.plot(n, speedup, color=colour, linewidth=1.2, label="scaling law with 95 % band")


def loss_by_cause(study: StudyReport) -> Figure | None:
    """Return the loss by cause as stacked bars, negative shares to the left, with a marker at the total."""
    known = [c for c in study.configurations if c.losses and not c.is_baseline]
    if not known:
        return None
    figure = Figure(figsize=(_WIDTH, 1.6 + 0.32 * len(known)))
    axes = figure.subplots()
    places = range(len(known))
    right, left = [0.0] * len(known), [0.0] * len(known)
    for cause, colour, hatch in zip(CAUSES, _COLOURS, _HATCHES, strict=True):
        shares = [c.losses.get(cause, 0.0) for c in known]
        if all(abs(share) < 0.05 for share in shares):
            continue
        starts = [right[i] if share >= 0 else left[i] for i, share in enumerate(shares)]
        looks: dict[str, Any] = {"color": colour, "hatch": hatch, "edgecolor": _OUTLINE, "linewidth": 0.5, "height": 0.68}
        axes.barh(places, shares, left=starts, label=cause.replace("_", " "), **looks)
        for i, share in enumerate(shares):
            (right if share >= 0 else left)[i] += share
    axes.plot([c.loss for c in known], places, color=INK, marker="D", markersize=5, linestyle="none", label="100 − efficiency")
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(places, [str(c.scale) for c in known])
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_ylim(len(known) - 0.5, -0.6)
    axes.set(xlabel="lost efficiency [% points]")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def learning_curves(study: StudyReport) -> Figure | None:
    """Return the mean return over training time, a colour per configuration, with a marker where each run stays at the target."""
    asked, to_return = study.recommendation, next((c.to_return for c in study.configurations if c.to_return.seconds > 0), None)
    if to_return is None:
        return None
    first = [asked.choice, *(c for c in study.configurations if c.is_baseline), *asked.peers, *study.configurations]
    scales = [*dict.fromkeys(c.scale for c in first if c)][: len(_COLOURS)]
    shown = [c for c in study.configurations if c.scale in scales]
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


PICTURES: Final = (
    Picture(
        "speedup",
        "Speedup over N",
        "Measured speedup and the ideal line, on logarithmic axes. Bars are 95 % intervals; curves show the scaling law with its "
        "95 % interval for a new measurement.",
        speedup_over_n,
    ),
    Picture(
        "loss",
        "Loss by cause",
        "Lost efficiency by cause, in percentage points. Negative shares scaled better than ideal, or the machine was less busy "
        "than during the baseline.",
        loss_by_cause,
    ),
    Picture(
        "returns",
        "Return over training time",
        "One curve per run. Its marker is where the run stays at the target return, the dashed line. At most eight configurations.",
        learning_curves,
    ),
)
"""All figures, in page order."""
