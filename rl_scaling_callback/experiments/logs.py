"""Reads the results of a trial one by one, from Tune's `result.json` or `progress.csv`."""

from __future__ import annotations

import ast
import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, BinaryIO, Final

import orjson

_MAX_LINE: Final = 32 << 20
"""Maximum length of a result [bytes], to bound memory. PPO's have about 17 kB."""

Results = Iterator[dict[str, Any] | None]
"""The results in a file, in order; None for each line that can't be read, except for an incomplete last one."""


def loads(text: bytes) -> Any:
    """Return what a line of JSON contains.

    Raises:
        ValueError: it isn't valid JSON, not even with NaN.
        RecursionError: it is nested too deeply.
    """
    with suppress(ValueError):
        return orjson.loads(text)
    # Tune writes NaN, which is not valid JSON. The json module accepts it, but is three times slower.
    with suppress(ValueError):
        return orjson.loads(text.replace(b'": NaN', b'": null'))
    return json.loads(text.decode("utf-8", "replace"))


def _read_lines(stream: BinaryIO) -> Results:
    is_whole = True
    while line := stream.readline(_MAX_LINE):
        is_rest, is_whole = not is_whole, line.endswith(b"\n")
        result = None
        if not is_rest and len(line) < _MAX_LINE:
            with suppress(ValueError, RecursionError):
                result = loads(line)
        if isinstance(result, dict):
            yield result
        elif is_whole and (is_rest or line.strip()):
            yield None


def _read_rows(stream: BinaryIO) -> Results:
    """Yield the results in a `progress.csv`, nested as in a `result.json`."""
    rows = csv.reader(io.TextIOWrapper(stream, "utf-8-sig", "replace", newline=""))
    header: list[str] = []
    is_broken = False
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error:
            row = []
        header = header or row
        if is_broken:
            yield None
        is_broken = len(row) != len(header)
        # Tune appends a second header when it restores some trials.
        if not is_broken and row != header:
            yield _nested(zip(header, row, strict=True))


READERS: Final[Mapping[str, Callable[[BinaryIO], Results]]] = {"result.json": _read_lines, "progress.csv": _read_rows}
"""What reads each of the files with a trial's results, best first."""


def _nested(cells: Iterator[tuple[str, str]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, text in cells:
        if text:
            *above, key = name.split("/")
            inner = result
            for each in above:
                deeper = inner.setdefault(each, {})
                inner = deeper if isinstance(deeper, dict) else {}
            inner[key] = _value(text)
    return result


def _value(text: str) -> Any:
    if text in ("True", "False"):
        return text == "True"
    for read in (int, float):
        with suppress(ValueError):
            return read(text)
    if text.startswith("{"):  # Ray 0.5 wrote whole dicts as Python literals.
        with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            return ast.literal_eval(text)
    return text


def flat(values: Mapping[str, Any], mark: str, above: str = "") -> dict[str, Any]:
    """Return values with those of inner mappings under both names, joined by `mark`."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, mark, f"{above}{name}{mark}") if isinstance(value, Mapping) else {f"{above}{name}": value}
    return found
