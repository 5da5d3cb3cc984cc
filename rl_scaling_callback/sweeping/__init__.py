"""Finds the best configuration before training: by probes inside one Algorithm, or by trials where probes can't be."""

from __future__ import annotations

from typing import Final, Literal, get_args

Engine = Literal["auto", "probes", "trials"]
ENGINES: Final[tuple[Engine, ...]] = get_args(Engine)
"""How configurations are measured."""
