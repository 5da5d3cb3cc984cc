"""The baseline files that a folder holds, and which of them are of a workload that a log tells of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rl_scaling_callback.analysis.runs import LeftOut
from rl_scaling_callback.baseline.model import Baseline, BaselineFileError
from rl_scaling_callback.storage import ExperimentError, Place


def read_baselines(folder: Place) -> tuple[list[Baseline], list[LeftOut]]:
    """Return the baselines in a folder, and the files that can't be used, with the reason; none where there is no such folder.

    Raises:
        OSError: the storage can't be reached.
    """
    baselines: list[Baseline] = []
    left_out: list[LeftOut] = []
    for name in folder.names()[1]:
        if not (name.startswith("baseline-") and name.endswith(".json")):
            continue
        try:
            baselines.append(Baseline.from_json(folder.below(name).read()))
        except (BaselineFileError, ExperimentError) as error:
            left_out.append(LeftOut(name, f"this baseline file can't be used: {error}"))
    return baselines, left_out


def matches(logged: Mapping[str, Any], exact: Mapping[str, Any]) -> bool:
    """Return whether facts read from a log can be those that a callback saw: what the log tells of them agrees.

    A log does not tell the algorithm, holds objects as texts, and code by name; a callback sees a hash of it beside the name.
    """
    if "algorithm" not in exact:  # the user's name for it is all that is known
        return False
    algorithm = logged.get("algorithm")
    told = logged.keys() & exact.keys() - {"algorithm"}
    return algorithm in (None, last_name(_name(exact["algorithm"]))) and all(_agree(logged[name], exact[name]) for name in told)


def _agree(logged: Any, exact: Any) -> bool:
    if isinstance(logged, dict) and isinstance(exact, dict):
        return logged.keys() == exact.keys() and all(_agree(value, exact[name]) for name, value in logged.items())
    if isinstance(logged, list) and isinstance(exact, list):
        return len(logged) == len(exact) and all(map(_agree, logged, exact))
    if isinstance(exact, str) and not isinstance(logged, str):
        return bool(_name(exact) != exact)  # the hash of an array, which a log has as numbers
    is_text_of_object = isinstance(logged, str) and (logged.startswith("<") or not isinstance(exact, str))
    return is_text_of_object or bool(logged in (exact, _name(exact)))


def _name(label: Any) -> Any:
    """Return the name in a label of code, without version and hash."""
    return label.partition(" ")[0] if isinstance(label, str) else label


def last_name(dotted: object) -> str:
    """Return a class's own name; a name without a module stays as it is."""
    return str(dotted).rpartition(".")[2]
