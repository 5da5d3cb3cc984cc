"""Measures throughput, speedup and parallel efficiency of RLlib training.

>>> from rl_scaling_callback import ScalingCallback
>>> config.callbacks(ScalingCallback)  # doctest: +SKIP

How an iteration becomes `result["scaling"]`, by `callback.ScalingCallback.on_train_result` and `live.monitor.TrialMonitor.measure`:

- `rllib.results` reads its env steps and duration,
- `live` adds its phases and the work of the env runners, as `rllib.clocks` time them, and the load of the machine,
- `baseline` provides a stored, given or probed baseline,
- `core.formulas` and `core.attribution` compute speedup, efficiency and losses, under the keys in `core.schema`.

How an experiment becomes a decision:

- `experiments` reads its runs from a Tune folder or CSV file, or `sweeping` measures them, until an `analysis.race` is over,
- `report.study` lets `analysis` turn them into configurations with intervals, a scaling law, a recommendation by
  `analysis.choice`, and a checklist,
- `report` puts these into words and figures.

How a trial tunes itself, by `live.tuner.Tuner.observe` after each iteration:

- `analysis.probe_rounds` and `analysis.race` propose a scale, from probes by `rllib.prober`, `rllib.rescale` applies it, and the
  tuner keeps it if it trains faster,
- `analysis.thread_choice` chooses the learner's threads, from iterations, and `rllib.threads` sets them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rl_scaling_callback.analysis.choice import Goal
    from rl_scaling_callback.analysis.runs import Experiment
    from rl_scaling_callback.callback import ScalingCallback
    from rl_scaling_callback.core.scale import Scale
    from rl_scaling_callback.core.steady import SteadyRule
    from rl_scaling_callback.experiments import ExperimentError, read_experiment
    from rl_scaling_callback.report import Report, make_report
    from rl_scaling_callback.reporter import ScalingReporter
    from rl_scaling_callback.sweeping.sweep import sweep

__version__ = "0.1.0"

__all__ = [
    "Experiment",
    "ExperimentError",
    "Goal",
    "Report",
    "Scale",
    "ScalingCallback",
    "ScalingReporter",
    "SteadyRule",
    "__version__",
    "make_report",
    "read_experiment",
    "sweep",
]

# Ray and Matplotlib take seconds to import, so exports are loaded on first use.
_HOME: Final = {
    "Experiment": "analysis.runs",
    "ExperimentError": "experiments",
    "Goal": "analysis.choice",
    "Report": "report",
    "Scale": "core.scale",
    "ScalingCallback": "callback",
    "ScalingReporter": "reporter",
    "SteadyRule": "core.steady",
    "make_report": "report",
    "read_experiment": "experiments",
    "sweep": "sweeping.sweep",
}


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
