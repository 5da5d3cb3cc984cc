"""The baseline: the reference trial's measurement, its workload and provenance, and its JSON format."""

from __future__ import annotations

import json
import math
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
    def trial(self) -> str:
        """The trial that measured it, for readers."""
        return self.provenance.get("trial", self.owner)

    @property
    def published_at(self) -> float:
        """When it was published, by its host's clock, in seconds since the epoch; NaN if the file has no time."""
        try:
            return datetime.fromisoformat(self.provenance["time"]).timestamp()
        except (KeyError, ValueError, OverflowError):
            return NAN

    def to_json(self) -> str:
        """Return the content of a baseline file."""
        steady = asdict(self.steady)
        steady["error"] = steady["error"] if math.isfinite(steady["error"]) else None
        steady["parts"] = {name: seconds for name, seconds in steady["parts"].items() if math.isfinite(seconds)}
        document = {
            "schema": SCHEMA,
            "version": VERSION,
            "workload_id": self.workload.id,
            "workload": self.workload.facts,
            "reference": self.scale.slug,
            "steady": steady,
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
            if document["workload_id"] != baseline.workload.id:
                raise ValueError("its workload does not match its workload_id")
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            raise BaselineFileError(f"a value is missing or wrong ({error!r})") from None
        return baseline


def _steady(window: Mapping[str, Any]) -> Steady:
    """Return the steady state in a file, after checking that its numbers are possible."""
    error, parts = window["error"], dict(window["parts"])
    positive = [window[name] for name in ("sps", "iterations", "env_steps", "seconds")]
    for number in (*positive, error or 0.0, *parts.values()):
        if isinstance(number, bool) or not math.isfinite(number):
            raise ValueError(f"{number!r} is not a finite number")
    if not min(positive) > 0 or (error or 0.0) < 0:
        raise ValueError("a number is out of range")
    return Steady(**{**window, "error": NAN if error is None else error, "parts": parts})
