"""Reads the results of a trial, line by line, from the `result.json` that Tune writes.

RLlib repeats the trial's whole config in each line, and that is most of it. It is parsed once, and cut out of the lines in
which exactly the same text comes again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, Final

import orjson

_KEY: Final = b'"config": '
_HEAD: Final = 128
_LONGEST: Final = 32 << 20


def _loads(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except ValueError:
        # Python's own reader is several times slower and knows more: NaN, Infinity, numbers of any length.
        return json.loads(text.decode("utf-8", "replace"))


class ResultLines:
    """The results in a file, in order; `result["config"]` is the same object as long as its text stays the same.

    Attributes:
        damaged: lines that could not be read, or are longer than a result is; a half-written last one not counted.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._text = b""
        self._config: object = None
        self.damaged = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while line := self._stream.readline(_LONGEST):
            if len(line) == _LONGEST:
                self.damaged += self._ends(line)
                continue
            try:
                result = self._parse(line)
            except (ValueError, RecursionError):
                result = None
            if isinstance(result, dict):
                yield result
            elif line.strip():
                self.damaged += line.endswith(b"\n")

    def _ends(self, line: bytes) -> bool:
        """Return whether a line that is too long has an end, and skip to it."""
        while line and not line.endswith(b"\n"):
            line = self._stream.readline(_LONGEST)
        return bool(line)

    def _parse(self, line: bytes) -> Any:
        if self._text:
            start = line.find(self._text[:_HEAD])
            if start >= 0 and line.startswith(self._text, start):
                result = _loads(b"%s%s0%s" % (line[:start], _KEY, line[start + len(self._text) :]))
                # Elsewhere than at the top it would be another's config.
                if isinstance(result, dict) and result.get("config") == 0:
                    result["config"] = self._config
                    return result
        result = _loads(line)
        if isinstance(result, dict):
            self._learn(line, result.get("config"))
        return result

    def _learn(self, line: bytes, config: object) -> None:
        """Remember a config and its text, where it is found in the line."""
        self._text = b""
        if not isinstance(config, Mapping) or not config:
            return
        text = line.decode("utf-8", "replace")
        key, end = _KEY.decode(), 0
        while (start := text.find(key, end)) >= 0:
            found, end = json.JSONDecoder().raw_decode(text, start + len(key))
            if repr(found) == repr(config):  # equal, NaN included
                self._text, self._config = text[start:end].encode(), config
                return
