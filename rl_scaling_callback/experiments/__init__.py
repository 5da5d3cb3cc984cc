"""Reads experiments from Tune folders, a `ResultGrid` or CSV files.

>>> from rl_scaling_callback.experiments import read_experiment
>>> experiment = read_experiment("~/ray_results/my_experiment")  # doctest: +SKIP
"""

from __future__ import annotations

from rl_scaling_callback.experiments.source import read_experiment
from rl_scaling_callback.storage import ExperimentError

__all__ = ["ExperimentError", "read_experiment"]
