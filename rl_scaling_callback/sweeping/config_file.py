"""Loads an `AlgorithmConfig` from a file, and writes a tuned one."""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from rl_scaling_callback.core.scale import Scale

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

_ALLOWED = "allowed is FILE.py:NAME, where NAME is an AlgorithmConfig or a function without arguments that returns one"


def load_config(source: str) -> AlgorithmConfig:
    """Return the config named by a string such as `my_config.py:config`.

    Modules in the file's folder can be imported, also by Ray's workers.

    Raises:
        ValueError: the file or name doesn't exist, or is not a config.
    """
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

    file, _, name = source.rpartition(":")
    if not file or not name:
        raise ValueError(f"config is {source!r}; {_ALLOWED}")
    if not Path(file).is_file():
        raise ValueError(f"config is {source!r}: there is no file {file}; {_ALLOWED}")
    folder = str(Path(file).resolve().parent)
    sys.path.insert(0, folder)
    # Ray's workers inherit the environment of the process that starts Ray.
    os.environ["PYTHONPATH"] = os.pathsep.join([folder, *filter(None, [os.environ.get("PYTHONPATH")])])
    found = vars(_imported(Path(file)))
    if name not in found:
        raise ValueError(f"config is {source!r}: {file} has no {name}; {_ALLOWED}")
    config = found[name]() if callable(found[name]) else found[name]
    if not isinstance(config, AlgorithmConfig):
        raise ValueError(f"config is {source!r}: {name} is {type(config).__name__}; {_ALLOWED}")
    return config


def _imported(file: Path) -> ModuleType:
    """Return a file as a module whose classes and functions Ray pickles by value.

    Workers may not be able to import them by name: they may have started earlier, or run on another machine.
    """
    from ray import cloudpickle

    name = file.stem if file.stem not in sys.modules else f"{file.stem}_of_sweep"
    spec = importlib.util.spec_from_file_location(name, file, loader=SourceFileLoader(name, str(file)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    # Before the module runs, because Ray pickles what it registers right away.
    cloudpickle.register_pickle_by_value(module)
    spec.loader.exec_module(module)
    return module


def write_config(path: Path, source: str, scale: Scale, reason: str, learner_threads: int | None = None) -> None:
    """Write a Python file whose `config` is the one named by `source`, at another scale, and with these threads unless None."""
    file, _, name = source.rpartition(":")
    place = f"{Path(file).resolve()}:{name}"
    imports, threads = "from rl_scaling_callback.sweeping.config_file import load_config\n", ""
    if learner_threads is not None:
        imports += "from rl_scaling_callback.sweeping.user_callbacks import with_learner_threads\n"
        threads = f"config = with_learner_threads(config, {learner_threads})\n"
    reason = " ".join(reason.split())
    text = f'"""Tuned by rl-scaling sweep."""\n\n{imports}\n# {reason}\nconfig = load_config({place!r})\n{scale.code}{threads}'
    path.write_text(text, encoding="utf-8")
