"""Reads the results of a trial one by one, from Tune's `result.json` or `progress.csv`."""

from __future__ import annotations

import ast
import csv
import io
import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, BinaryIO, Final

import orjson

_LONGEST: Final = 32 << 20
"""Maximum length of a result [bytes], to bound memory. PPO's have about 17 kB."""


class ResultLines:
    """The results in a file, in order. Equal consecutive `result["config"]`, which RLlib repeats in each, share one object.

    Attributes:
        damaged: number of lines that are unreadable or too long, not counting an incomplete last line.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.damaged = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        config = None
        while line := self._stream.readline(_LONGEST):
            if len(line) == _LONGEST:
                self.damaged += self._ends(line)
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
            elif line.strip():
                self.damaged += line.endswith(b"\n")

    def _ends(self, line: bytes) -> bool:
        """Skip to the end of a line that is too long; return whether it is terminated."""
        while line and not line.endswith(b"\n"):
            line = self._stream.readline(_LONGEST)
        return bool(line)


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


class ResultRows:
    """The results in a `progress.csv`, in order, nested as in `result.json`.

    Attributes:
        damaged: number of rows that are unreadable, not counting an incomplete last row.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._rows = csv.reader(io.TextIOWrapper(stream, "utf-8-sig", "replace", newline=""))
        self.damaged = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        header = self._next() or []
        broken = False
        while (row := self._next()) is not None:
            self.damaged += broken
            # Tune appends a second header when it restores some trials.
            broken = len(row) != len(header)
            if not broken and row != header:
                yield _nested(zip(header, row, strict=True))

    def _next(self) -> list[str] | None:
        try:
            return next(self._rows, None)
        except csv.Error:
            return []


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
