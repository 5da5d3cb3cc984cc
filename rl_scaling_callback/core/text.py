"""Formats numbers, units, intervals and lists for readers, and warns them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Final

from rl_scaling_callback.core.formulas import interval

Warn = Callable[[str, str], None]
"""Takes a topic and a message; logs the first message of each topic."""

UNKNOWN: Final = "–"

_MAX_ERROR: Final = 100.0
"""Half-width of an interval [%] beyond which it is too wide to be useful."""


def rounded(value: float, decimals: int, unit: str = "", *, digits: int = 3) -> str:
    """Return a number with its unit as text; "–" if it is not finite.

    Args:
        value: the number.
        decimals: maximum number of decimals.
        unit: appended to the number.
        digits: maximum number of significant digits.
    """
    if not math.isfinite(value):
        return UNKNOWN
    value = float(f"{value:.{digits - 1}e}")
    if value:
        decimals = max(0, min(decimals, digits - 1 - math.floor(math.log10(abs(value)))))
    return f"{value:,.{decimals}f}{unit}"


def percent(error: float) -> str:
    """Return the half-width of an interval with two significant digits, `"± 3.4 %"`, or `"± > 100 %"`."""
    return "± > 100 %" if error > _MAX_ERROR else f"± {rounded(error, 1, digits=2)} %"


def with_interval(value: float, error: float, decimals: int, unit: str) -> str:
    """Return a figure with its interval: `"2.71× (2.60 to 2.82)"`.

    Args:
        value: the figure.
        error: half-width of its interval [%]; NaN if unknown.
        decimals: maximum number of decimals.
        unit: unit of the figure.
    """
    text = rounded(value, decimals, unit)
    if not error > 0:
        return text
    if error > _MAX_ERROR:
        return f"{text} {percent(error)}"
    low, high = interval(value, error)
    return f"{text} ({rounded(low, decimals)} to {rounded(high, decimals)})"


def listed(texts: Iterable[str], conjunction: str = "and") -> str:
    """Return texts joined for a sentence: `"a, b and c"`; "" for none."""
    *first, last = [*texts] or [""]
    return f"{', '.join(first)} {conjunction} {last}" if first else last


def joined(texts: Iterable[str]) -> str:
    """Return texts, each once, separated by semicolons; "" for none."""
    return "; ".join(dict.fromkeys(texts))


def printable(text: str) -> str:
    """Return the text with control characters and line breaks replaced by spaces."""
    return "".join(character if character.isprintable() else " " for character in text)


def counted(count: int, what: str) -> str:
    """Return a number of things: `"1 run"`, `"2 runs"`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def cpus(count: float) -> str:
    """Return a number of CPUs: `"1 CPU"`, `"1.5 CPUs"`."""
    return f"{count:g} {'CPU' if count == 1 else 'CPUs'}"
