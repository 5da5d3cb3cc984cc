"""Finds the best configuration before training: by probes inside one Algorithm or, if that is not possible, by trials."""

from __future__ import annotations

from typing import Final, Literal, get_args

Engine = Literal["auto", "probes", "trials"]
ENGINES: Final[tuple[Engine, ...]] = get_args(Engine)
"""Ways to measure configurations."""
