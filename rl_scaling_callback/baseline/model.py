"""The baseline: what the reference trial measured, for which workload, with provenance; and its JSON form."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from rl_scaling_callback.core import formulas
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import Steady

SCHEMA: Final = "rl_scaling_callback.baseline.model"
VERSION: Final = 2
LARGEST: Final = 1 << 20
"""Bytes that the text of a baseline file has at most."""


class BaselineFileError(Exception):
    """A baseline file that can't be used; the text says why."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What must be equal for a fair comparison.

    Attributes:
        facts: names and values in plain JSON types.
        vouched: True when the user named the workload: then the comparison is on the user's word.
    """

    facts: Mapping[str, Any]
    vouched: bool = False

    @property
    def id(self) -> str:
        """16 hexadecimal digits that are the same for equal facts, in every process and on every node."""
        return hashlib.sha256(_canonical(self.facts).encode()).hexdigest()[:16]

    def differences(self, other: Workload) -> list[str]:
        """Return a line for each fact that differs: `train_batch_size: 4096 here, 2048 there`."""
        return [f"{name}: {_short(here)} here, {_short(there)} there" for name, here, there in _apart("", self.facts, other.facts)]


@dataclass(frozen=True, slots=True)
class Baseline:
    """The steady state of the reference trial.

    Attributes:
        sps: Σ env steps / Σ seconds over its steady window [steps/s].
        scale: the reference's scale.
        workload: what it is a baseline for.
        owner: the trial that measured it, unique among experiments.
        error: half-width [%] of the 95 % interval of `sps`; NaN when not known.
        iterations: iterations in the window.
        env_steps: Σ env steps in the window.
        seconds: Σ seconds in the window.
        converged: whether the window is as precise as was asked for.
        provenance: host, CPU, cores, versions, time and trial, as texts.
        parts: Σ seconds of the window by phase, and by what the env runners did; empty where not known.
        run: the run of an experiment that it belongs to; "" where it belongs to none.
    """

    sps: float
    scale: Scale
    workload: Workload
    owner: str
    error: float
    iterations: int
    env_steps: float
    seconds: float
    converged: bool
    provenance: Mapping[str, str] = field(default_factory=dict)
    parts: Mapping[str, float] = field(default_factory=dict)
    run: str = ""

    @property
    def unit_sps(self) -> float:
        """SPS per unit of the reference's parallelism [steps/s]: what speedups are counted against.

        At 1r×1e it is the reference's SPS. A larger reference counts as scaling perfectly up to itself, so its own
        speedup is its N and its efficiency 100 %, as is usual where one processor can't hold the problem.
        """
        return self.sps / self.scale.parallelism

    @property
    def age(self) -> float:
        """Seconds since it was published, by the clocks of both hosts; NaN where the file does not say."""
        try:
            return max(0.0, time.time() - datetime.fromisoformat(self.provenance["time"]).timestamp())
        except (KeyError, ValueError, OverflowError):
            return formulas.NAN

    @property
    def steady(self) -> Steady:
        """The steady state that was measured."""
        return Steady(
            sps=self.sps,
            error=self.error,
            iterations=self.iterations,
            env_steps=self.env_steps,
            seconds=self.seconds,
            converged=self.converged,
            settled=True,
            parts=self.parts,
        )

    def to_json(self) -> str:
        """Return the text of a baseline file."""
        document = {
            "schema": SCHEMA,
            "version": VERSION,
            "workload_id": self.workload.id,
            "workload": self.workload.facts,
            "reference": self.scale.slug,
            "sps": self.sps,
            "window": {
                "error_percent": self.error if math.isfinite(self.error) else None,
                "iterations": self.iterations,
                "env_steps": self.env_steps,
                "seconds": self.seconds,
                "converged": self.converged,
                "parts": {name: seconds for name, seconds in self.parts.items() if math.isfinite(seconds)},
            },
            "owner": self.owner,
            "run": self.run,
            "provenance": self.provenance,
        }
        return json.dumps(document, indent=1, sort_keys=True, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Baseline:
        """Return the baseline that a file's text describes.

        Raises:
            BaselineFileError: too large, damaged, of another schema or version, or with values that no measurement gives.
        """
        if len(text) > LARGEST:
            raise BaselineFileError(f"it has more than {LARGEST} bytes")
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BaselineFileError(f"it is not valid JSON ({type(error).__name__})") from None
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            raise BaselineFileError(f"it is not of the schema {SCHEMA}")
        if document.get("version") != VERSION:
            raise BaselineFileError(f"its version is {document.get('version')!r}; this release reads version {VERSION}")
        try:
            baseline = cls._from_document(document)
            workload_id = baseline.workload.id
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            raise BaselineFileError(f"a value is missing or of the wrong type ({error!r})") from None
        if document.get("workload_id") != workload_id:
            raise BaselineFileError("its workload does not match its workload_id")
        return baseline

    @classmethod
    def _from_document(cls, document: Mapping[str, Any]) -> Baseline:
        window = document["window"]
        error = window["error_percent"]
        return cls(
            sps=_positive(document["sps"]),
            scale=Scale.parse(document["reference"]),
            workload=Workload(_mapping(document["workload"])),
            owner=str(document["owner"]),
            run=str(document["run"]),
            error=formulas.NAN if error is None else _not_negative(error),
            iterations=_count(window["iterations"]),
            env_steps=_positive(window["env_steps"]),
            seconds=_positive(window["seconds"]),
            converged=_flag(window["converged"]),
            parts={str(name): _finite(seconds) for name, seconds in _mapping(window["parts"]).items()},
            provenance={str(name): str(value) for name, value in _mapping(document["provenance"]).items()},
        )


def _finite(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a finite number")
    return float(value)


def _not_negative(value: Any) -> float:
    if _finite(value) < 0:
        raise ValueError(f"{value!r} is below 0")
    return float(value)


def _positive(value: Any) -> float:
    if _finite(value) <= 0:
        raise ValueError(f"{value!r} is not a number above 0")
    return float(value)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{value!r} is not a count from 1 up")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is neither true nor false")
    return value


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{type(value).__name__} instead of an object")
    return value


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=repr)


def _apart(prefix: str, here: Any, there: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield what differs, with its name; what is in mappings on both sides one by one."""
    if isinstance(here, Mapping) and isinstance(there, Mapping):
        for name in sorted(here.keys() | there.keys()):
            yield from _apart(f"{prefix}.{name}".lstrip("."), here.get(name), there.get(name))
    elif _canonical(here) != _canonical(there):
        yield prefix, here, there


def _short(value: Any, longest: int = 60) -> str:
    text = _canonical(value)
    return text if len(text) <= longest else text[: longest - 1] + "…"
