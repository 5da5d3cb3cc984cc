"""The baseline: the reference trial's measurement, its workload and provenance, and its JSON format."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Final

from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import Steady
from rl_scaling_callback.core.workload import Workload

SCHEMA: Final = "rl_scaling_callback.baseline.model"
VERSION: Final = 4
MAX_BYTES: Final = 1 << 20
"""Maximum size of a baseline file."""


class BaselineFileError(Exception):
    """A baseline file is unusable; the message says why."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """The steady state of the reference trial.

    Attributes:
        steady: what was measured, with its parts by phase and by env runner activity, and those of disturbed iterations.
        scale: the reference's scale.
        workload: the workload that was measured.
        owner: the trial that measured it, unique across experiments.
        provenance: host, CPU, cores, versions, time and trial, as strings.
        run: the run of an experiment that it belongs to; "" if none.
    """

    steady: Steady
    scale: Scale
    workload: Workload
    owner: str
    provenance: Mapping[str, str] = field(default_factory=dict)
    run: str = ""

    @property
    def unit_sps(self) -> float:
        """SPS per unit of the reference's parallelism [steps/s], the denominator of speedups.

        At 1r×1e it is the reference's SPS. A larger reference is taken to scale perfectly up to its own size, so its speedup
        is N and its efficiency 100 %. This is the usual convention for problems too large for one processor.
        """
        return self.steady.sps / self.scale.parallelism

    @property
    def published_at(self) -> float:
        """When it was published, by its host's clock, in seconds since the epoch; NaN if the file has no time."""
        try:
            return datetime.fromisoformat(self.provenance["time"]).timestamp()
        except (KeyError, ValueError, OverflowError):
            return NAN

    def to_json(self) -> str:
        """Return the content of a baseline file."""
        window = asdict(self.steady)
        window["error"] = window["error"] if math.isfinite(window["error"]) else None
        window["parts"] = {name: seconds for name, seconds in window["parts"].items() if math.isfinite(seconds)}
        document = {
            "schema": SCHEMA,
            "version": VERSION,
            "workload_id": self.workload.id,
            "workload": self.workload.facts,
            "reference": self.scale.slug,
            "steady": window,
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
        if len(text) > MAX_BYTES:
            raise BaselineFileError(f"it has more than {MAX_BYTES} bytes")
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BaselineFileError(f"it is not valid JSON ({type(error).__name__})") from None
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            raise BaselineFileError(f"its schema is not {SCHEMA}")
        if document.get("version") != VERSION:
            raise BaselineFileError(f"its version is {document.get('version')!r}; this release reads version {VERSION}")
        try:
            baseline = cls(
                steady=_steady(document["steady"]),
                scale=Scale.parse(document["reference"]),
                workload=Workload(dict(document["workload"])),
                owner=str(document["owner"]),
                provenance={str(name): str(value) for name, value in document["provenance"].items()},
                run=str(document["run"]),
            )
            workload_id = baseline.workload.id
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            raise BaselineFileError(f"a value is missing or of the wrong type ({error!r})") from None
        if document.get("workload_id") != workload_id:
            raise BaselineFileError("its workload does not match its workload_id")
        return baseline


def _steady(window: Mapping[str, Any]) -> Steady:
    return Steady(
        sps=_number(window["sps"]),
        error=NAN if window["error"] is None else _number(window["error"], least=0.0),
        iterations=int(_number(window["iterations"], least=1.0)),
        env_steps=_number(window["env_steps"]),
        seconds=_number(window["seconds"]),
        converged=bool(window["converged"]),
        settled=bool(window["settled"]),
        parts={str(name): _number(seconds, least=-math.inf) for name, seconds in window["parts"].items()},
    )


def _number(value: Any, least: float = sys.float_info.min) -> float:
    """Return a finite number; by default it must be above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < least:
        raise ValueError(f"{value!r} is not a finite number of at least {least:g}")
    return float(value)
