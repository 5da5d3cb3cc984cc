"""Reads baseline files and matches them with logged workloads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rl_scaling_callback.analysis.runs import LeftOut
from rl_scaling_callback.baseline.model import Baseline, BaselineFileError
from rl_scaling_callback.storage import ExperimentError, Location


def read_baselines(folder: Location) -> tuple[list[Baseline], list[LeftOut]]:
    """Return the baselines in a folder, and the unusable files with the reasons; both are empty if the folder doesn't exist.

    Raises:
        OSError: if the storage can't be reached.
    """
    baselines: list[Baseline] = []
    left_out: list[LeftOut] = []
    for name in folder.names()[1]:
        if not (name.startswith("baseline-") and name.endswith(".json")):
            continue
        try:
            baselines.append(Baseline.from_json(folder.below(name).read()))
        except (BaselineFileError, ExperimentError) as error:
            left_out.append(LeftOut(name, f"this baseline file is unusable: {error}"))
    return baselines, left_out


def matches(logged: Mapping[str, Any], exact: Mapping[str, Any]) -> bool:
    """Return whether facts read from a log are compatible with those recorded by a callback.

    A log lacks the algorithm and contains objects as text and code by name; a callback records the name and a hash of the code.
    """
    if "algorithm" not in exact:  # only a user-defined name is known
        return False
    algorithm = logged.get("algorithm")
    common = logged.keys() & exact.keys() - {"algorithm"}
    return algorithm in (None, last_name(_name(exact["algorithm"]))) and all(_agree(logged[name], exact[name]) for name in common)


def _agree(logged: Any, exact: Any) -> bool:
    if isinstance(logged, dict) and isinstance(exact, dict):
        return logged.keys() == exact.keys() and all(_agree(value, exact[name]) for name, value in logged.items())
    if isinstance(logged, list) and isinstance(exact, list):
        return len(logged) == len(exact) and all(map(_agree, logged, exact))
    if isinstance(exact, str) and not isinstance(logged, str):
        return bool(_name(exact) != exact)  # the hash of an array, which is logged as numbers
    # A log contains objects and code as text, of which only a fingerprint is known.
    is_text_of_object = isinstance(logged, str) and not (isinstance(exact, str) and exact.startswith("#"))
    return (is_text_of_object and logged.startswith("#")) or bool(logged in (exact, _name(exact)))


def _name(label: Any) -> Any:
    """Return the name in a code label, without version and hash."""
    return label.partition(" ")[0] if isinstance(label, str) else label


def last_name(dotted: object) -> str:
    """Return the class name without its module."""
    return str(dotted).rpartition(".")[2]
