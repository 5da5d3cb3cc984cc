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
    """Return whether facts read from a log can be those that a callback saw; objects are only texts in a log."""
    return (
        exact.keys() >= logged.keys()
        and all(
            value == exact[name] or (isinstance(value, str) and (value.startswith("<") or not isinstance(exact[name], str)))
            for name, value in logged.items()
            if name != "algorithm"
        )
        and logged["algorithm"] in (None, last_name(exact["algorithm"]))
    )


def last_name(dotted: object) -> str:
    """Return a class's own name; a name without a module stays as it is."""
    return str(dotted).rpartition(".")[2]
