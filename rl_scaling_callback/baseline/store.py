"""The baseline, and its storage as JSON files, one per workload, on any pyarrow filesystem: local disks, NFS, S3 or GCS.

Writes are atomic. An unreadable file is renamed and kept.
"""

from __future__ import annotations

import json
import math
import posixpath
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from heapq import nlargest
from pathlib import Path
from typing import Any, Final

from rl_scaling_callback.core.formulas import NAN
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.core.steady import Steady
from rl_scaling_callback.core.trial import Workload
from rl_scaling_callback.storage import ExperimentError, Location, shown

SCHEMA: Final = "rl_scaling_callback.baseline"
"""What marks a file as a baseline."""
VERSION: Final = 4
MAX_BYTES: Final = 1 << 20
"""Maximum size of a baseline file."""

EXPERIMENT_SUBDIRECTORY: Final = "scaling_baselines"
"""Subdirectory of a Tune experiment that holds its baselines."""

_MAX_OTHERS: Final = 8
"""Number of baselines of other workloads to read: an iteration waits for each."""

_ATOMIC_WRITES: Final = frozenset({"s3", "gcs", "abfs"})
"""Filesystems that make an object visible only when it is complete. Elsewhere only a rename is atomic."""


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


class BaselineStore:
    """A directory of baselines.

    Args:
        filesystem: a `pyarrow.fs.FileSystem`.
        directory: path of the directory on it; created when the first baseline is published.
        run: the run of an experiment to use baselines of; those of other runs are replaced. "" for all runs.
    """

    def __init__(self, filesystem: Any, directory: str, run: str = "") -> None:
        self._fs = filesystem
        self._run = run
        self.directory = directory.rstrip("/")

    @classmethod
    def at(cls, place: str | Path) -> BaselineStore:
        """Return the store in a local directory or at a URI (`s3://bucket/path`), after checking that it can be reached.

        Raises:
            ValueError: the filesystem is unknown, or the directory neither exists nor can be created.
        """
        try:
            found = Location.of(place)
            found.filesystem.create_dir(found.path, recursive=True)
            if not found.is_folder:
                raise NotADirectoryError("it is not a directory")
        except (OSError, ValueError, ExperimentError) as error:  # pyarrow's own errors are subclasses of the first two
            allowed = "allowed are existing or creatable directories and reachable URIs"
            raise ValueError(f"baseline_dir is {shown(place)!r}; {allowed} ({shown(str(error))})") from None
        return cls(found.filesystem, found.path)

    @classmethod
    def of_experiment(cls, storage: Any, run: str) -> BaselineStore:
        """Return the store in a Tune experiment, given a trial's `StorageContext`. Another run of it may use different code."""
        return cls(storage.storage_filesystem, posixpath.join(storage.experiment_fs_path, EXPERIMENT_SUBDIRECTORY), run)

    def path(self, workload: Workload, reference: Scale) -> str:
        """Return the path of a workload's baseline file."""
        # The version is part of the name: releases with different schemas can share a directory.
        return posixpath.join(self.directory, f"baseline-v{VERSION}-{workload.id}-{reference.slug}.json")

    def load(self, workload: Workload, reference: Scale) -> Baseline | None:
        """Return the baseline of a workload, or None if there is none yet.

        Raises:
            BaselineFileError: the file is damaged or foreign. It has been set aside; the message says where.
            OSError: the storage can't be reached, or such a file can't be set aside.
        """
        path = self.path(workload, reference)
        try:
            baseline = self._read(self._fs.get_file_info(path))
            if baseline is not None and (baseline.workload.id != workload.id or baseline.scale != reference):
                raise BaselineFileError("it is the baseline of another workload or reference")
        except BaselineFileError as error:
            raise BaselineFileError(f"{path}: {error}; {self._set_aside(path, error)}") from None
        return baseline

    def others(self, workload: Workload, reference: Scale) -> list[Baseline]:
        """Return the latest baselines of other workloads at the same reference scale, without unreadable files.

        Raises:
            OSError: the storage can't be reached.
        """
        from pyarrow import fs

        own = posixpath.basename(self.path(workload, reference))
        prefix, suffix = f"baseline-v{VERSION}-", f"-{reference.slug}.json"
        infos = self._fs.get_file_info(fs.FileSelector(self.directory, allow_not_found=True))
        named = [info for info in infos if info.base_name.startswith(prefix) and info.base_name.endswith(suffix)]
        others = [info for info in named if info.base_name != own]
        found = []
        for info in nlargest(_MAX_OTHERS, others, key=lambda info: info.mtime_ns or 0):  # recent runs are the likely comparison
            with suppress(BaselineFileError):
                found.append(self._read(info))
        return [baseline for baseline in found if baseline is not None]

    def publish(self, baseline: Baseline) -> None:
        """Write a baseline atomically: readers see either the old file or the new one.

        Raises:
            OSError: the storage can't be reached or written.
        """
        path = self.path(baseline.workload, baseline.scale)
        data = replace(baseline, run=self._run).to_json().encode()
        self._fs.create_dir(self.directory, recursive=True)
        partial = path if self._fs.type_name in _ATOMIC_WRITES else f"{path}.{uuid.uuid4().hex}.partial"
        try:
            with self._fs.open_output_stream(partial) as stream:
                stream.write(data)
            if partial != path:
                self._fs.move(partial, path)
        except BaseException:
            if partial != path:
                with suppress(OSError):
                    self._fs.delete_file(partial)
            raise

    def _read(self, file: Any) -> Baseline | None:
        """Return the baseline in a file, given its `FileInfo`; None if there is no file, or it is of another run."""
        from pyarrow import fs

        if file.type == fs.FileType.NotFound:
            return None
        if file.type != fs.FileType.File:
            raise BaselineFileError("it is not a file")
        try:
            with self._fs.open_input_stream(file.path) as stream:
                baseline = Baseline.from_json(stream.read(MAX_BYTES + 1))
        except FileNotFoundError:
            return None
        return baseline if self._run in ("", baseline.run) else None

    def _set_aside(self, path: str, reason: BaselineFileError) -> str:
        """Rename an unusable file and return what became of it."""
        aside = f"{path}.set-aside-{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}"
        try:
            self._fs.move(path, aside)
        except FileNotFoundError:
            return "another trial has set it aside"
        except OSError as error:
            raise OSError(f"{path}: {reason}; it could not be set aside and stays where it is ({error})") from error
        return f"set aside as {aside}"
