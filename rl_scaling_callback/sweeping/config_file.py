"""Loads an `AlgorithmConfig` from a file, and writes one that was tuned."""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rl_scaling_callback.core.scale import Scale

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

_ALLOWED = "allowed is FILE.py:NAME, where NAME is an AlgorithmConfig or a function without arguments that returns one"


def load_config(source: str) -> AlgorithmConfig:
    """Return the config that `my_config.py:config` names. Modules beside the file can be imported, here and by Ray's workers.

    Raises:
        ValueError: there is no such file or name, or it is no config.
    """
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

    file, _, name = source.rpartition(":")
    if not file or not name:
        raise ValueError(f"config is {source!r}; {_ALLOWED}")
    if not Path(file).is_file():
        raise ValueError(f"config is {source!r}: there is no file {file}; {_ALLOWED}")
    folder = str(Path(file).resolve().parent)
    sys.path.insert(0, folder)
    # Ray's workers get the environment of the process that starts it.
    os.environ["PYTHONPATH"] = os.pathsep.join([folder, *filter(None, [os.environ.get("PYTHONPATH")])])
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
        f'"""Tuned by rl-scaling sweep."""\n\nimport runpy\nimport sys\n\n# {" ".join(reason.split())}\n'
        f"sys.path.insert(0, {str(Path(file).resolve().parent)!r})\n"
        f"_found = runpy.run_path({str(Path(file).absolute())!r})\n{call}\n"
        f"{scale.code}",
        encoding="utf-8",
    )
