"""Loads an `AlgorithmConfig` from a file, and writes one that was tuned."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import TYPE_CHECKING

from rl_scaling_callback.core.scale import Scale

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

_ALLOWED = "allowed is FILE.py:NAME, where NAME is an AlgorithmConfig or a function without arguments that returns one"


def load_config(source: str) -> AlgorithmConfig:
    """Return the config that `my_config.py:config` names.

    Raises:
        ValueError: there is no such file or name, or it is no config.
    """
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

    file, _, name = source.rpartition(":")
    if not file or not name:
        raise ValueError(f"config is {source!r}; {_ALLOWED}")
    if not Path(file).is_file():
        raise ValueError(f"config is {source!r}: there is no file {file}; {_ALLOWED}")
    found = runpy.run_path(file)
    if name not in found:
        raise ValueError(f"config is {source!r}: {file} has no {name}; {_ALLOWED}")
    config = found[name]() if callable(found[name]) else found[name]
    if not isinstance(config, AlgorithmConfig):
        raise ValueError(f"config is {source!r}: {name} is {type(config).__name__}; {_ALLOWED}")
    return config


def write_config(path: Path, source: str, scale: Scale, reason: str) -> None:
    """Write a file whose `config` is that of `source` at another scale."""
    file, _, name = source.rpartition(":")
    call = f"_tuned = _found[{name!r}]\nconfig = _tuned() if callable(_tuned) else _tuned"
    path.write_text(
        f'"""Tuned by rl-scaling sweep."""\n\nimport runpy\n\n# {" ".join(reason.split())}\n'
        f"_found = runpy.run_path({str(Path(file).absolute())!r})\n{call}\n"
        f"{scale.code}",
        encoding="utf-8",
    )
