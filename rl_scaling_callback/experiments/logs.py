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


def read_lines(stream: BinaryIO) -> Results:
    """Yield the results in a `result.json`. Equal consecutive configs, which RLlib repeats in each, are one object."""
    config = None
    is_rest = False
    while line := stream.readline(_MAX_LINE):
        is_whole = line.endswith(b"\n")
        if is_rest or len(line) == _MAX_LINE:
            is_rest = not is_whole
            if is_whole:
                yield None
            continue
        try:
            result = loads(line)
            if isinstance(result, dict) and (found := result.get("config")) != config:
                repr(found)  # Raises RecursionError for configs nested too deeply for other code.
                config = found
        except (ValueError, RecursionError):
            result = None
        if isinstance(result, dict):
            if config is not None and "config" in result:
                result["config"] = config
            yield result
        elif is_whole and line.strip():
            yield None


def loads(text: bytes) -> Any:
    """Return what a line of JSON contains.

    Raises:
        ValueError: it isn't valid JSON, not even with NaN.
        RecursionError: it is nested too deeply.
    """
    try:
        return orjson.loads(text)
    except ValueError:
        pass
    try:
        # Tune writes NaN, which is not valid JSON. The json module accepts it, but is three times slower.
        return orjson.loads(text.replace(b'": NaN', b'": null'))
    except ValueError:
        return json.loads(text.decode("utf-8", "replace"))


def read_rows(stream: BinaryIO) -> Results:
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


READERS: Final[Mapping[str, Callable[[BinaryIO], Results]]] = {"result.json": read_lines, "progress.csv": read_rows}
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
