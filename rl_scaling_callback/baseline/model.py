"""The baseline: the reference trial's measurement, its workload and provenance, and its JSON format."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from rl_scaling_callback.core import formulas
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import Steady
from rl_scaling_callback.core.workload import Workload

SCHEMA: Final = "rl_scaling_callback.baseline.model"
VERSION: Final = 3
LARGEST: Final = 1 << 20
"""Maximum size of a baseline file [bytes]."""


class BaselineFileError(Exception):
    """A baseline file is unusable; the message says why."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """The steady state of the reference trial.

    Attributes:
        sps: Σ env steps / Σ seconds over its steady window [steps/s].
        scale: the reference's scale.
        workload: the workload that was measured.
        owner: the trial that measured it, unique across experiments.
        error: half-width [%] of the 95 % interval of `sps`; NaN if unknown.
        iterations: number of iterations in the window.
        env_steps: Σ env steps in the window.
        seconds: Σ seconds in the window.
        converged: whether the window has the requested precision.
        provenance: host, CPU, cores, versions, time and trial, as strings.
        parts: Σ seconds of the window by phase and by env runner activity, and of disturbed iterations; empty if unknown.
        run: the run of an experiment that it belongs to; "" if none.
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
        """SPS per unit of the reference's parallelism [steps/s], the denominator of speedups.

        At 1r×1e it is the reference's SPS. A larger reference is taken to scale perfectly up to its own size, so its speedup
        is N and its efficiency 100 %. This is the usual convention for problems too large for one processor.
        """
        return self.sps / self.scale.parallelism

    @property
    def disturbed(self) -> float:
        """Share of the window's time in which other trials or programs disturbed the measurement, 0 to 1; 0 if unknown."""
        return self.steady.disturbed

    @property
    def published_at(self) -> float:
        """When it was published, by its host's clock, in seconds since the epoch; NaN if the file has no time."""
        try:
            return datetime.fromisoformat(self.provenance["time"]).timestamp()
        except (KeyError, ValueError, OverflowError):
            return formulas.NAN

    @property
    def steady(self) -> Steady:
        """The measured steady state."""
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
        """Return the content of a baseline file."""
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
        """Parse the content of a baseline file.

        Raises:
            BaselineFileError: it is too large or damaged, has another schema or version, or holds impossible values.
        """
        if len(text) > LARGEST:
            raise BaselineFileError(f"it has more than {LARGEST} bytes")
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BaselineFileError(f"it is not valid JSON ({type(error).__name__})") from None
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            raise BaselineFileError(f"its schema is not {SCHEMA}")
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
        raise ValueError(f"{value!r} is not a positive integer")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is neither true nor false")
    return value


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"{type(value).__name__} instead of an object")
    return value
