"""Reads the results of a trial, line by line, from the `result.json` that Tune writes.

RLlib repeats the trial's whole config in each line, and that is most of it. It is parsed once, and cut out of the lines in
which exactly the same text comes again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, Final

_KEY: Final = '"config": '
_HEAD: Final = 128
_decode = json.JSONDecoder().raw_decode


class ResultLines:
    """The results in a file, in order; `result["config"]` is the same object as long as its text stays the same.

    Attributes:
        damaged: lines that could not be read, a half-written last one not counted.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._text = ""
        self._config: object = None
        self.damaged = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for line in self._stream:
            try:
                result = self._parse(line.decode("utf-8", "replace"))
            except (ValueError, RecursionError):
                result = None
            if isinstance(result, dict):
                yield result
            elif line.strip():
                self.damaged += line.endswith(b"\n")

    def _parse(self, line: str) -> Any:
        if self._text:
            start = line.find(self._text[:_HEAD])
            if start >= 0 and line.startswith(self._text, start):
                result = json.loads(f"{line[:start]}{_KEY}0{line[start + len(self._text) :]}")
                # Elsewhere than at the top it would be another's config.
                if isinstance(result, dict) and result.get("config") == 0:
                    result["config"] = self._config
                    return result
        result = json.loads(line)
        if isinstance(result, dict):
            self._learn(line, result.get("config"))
        return result

    def _learn(self, line: str, config: object) -> None:
        """Remember a config and its text, where it is found in the line."""
        self._text = ""
        if not isinstance(config, Mapping) or not config:
            return
        start = line.find(_KEY)
        while start >= 0:
            found, end = _decode(line, start + len(_KEY))
            if repr(found) == repr(config):  # equal, NaN included
                self._text, self._config = line[start:end], config
                return
            start = line.find(_KEY, end)
