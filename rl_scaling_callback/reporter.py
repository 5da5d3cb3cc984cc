"""`ScalingReporter`: prints a table of configurations while Tune runs, and writes the report at the end."""

from __future__ import annotations

import importlib.util
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

try:
    from ray import tune
except ImportError as error:
    raise ImportError('ScalingReporter needs Ray Tune: pip install "ray[tune,rllib]>=2.45"') from error

from rl_scaling_callback.analysis.goals import Goal
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.experiments import ExperimentError, read_experiment
from rl_scaling_callback.report import PAGE
from rl_scaling_callback.storage import Location

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

    from rl_scaling_callback.report import Report

logger = logging.getLogger("rl_scaling_callback")

_READING_SHARE: Final = 0.02
"""Maximum share of the time to spend on reading results while Tune runs."""


class ScalingReporter(tune.Callback):
    """Prints a table of configurations while Tune runs, and writes the HTML page and the TensorBoard curve at the end.

    Add it to `tune.RunConfig(callbacks=[ScalingReporter()])`. Trials need not use `ScalingCallback`; if they do, the table also
    attributes the loss of efficiency to causes. Exceptions are logged and never interrupt Tune.

    Args:
        goal: `"save"`, `"balanced"`, `"fastest"` or a custom `Goal`.
        reference: scale of the baseline, such as `"1r1e"`.
        show: called with the report after a trial has completed and at the end. By default, prints the table after a trial and the
            full report at the end.

    Raises:
        ValueError: if an argument has a value that is not allowed.
        ImportError: if a package that the report needs is not installed.
    """

    def __init__(
        self,
        goal: str | Goal = "balanced",
        *,
        reference: str | Scale = "1r1e",
        show: Callable[[Report], None] | None = None,
    ) -> None:
        self._goal = goal if isinstance(goal, Goal) else Goal.of(goal)
        self._reference = reference if isinstance(reference, Scale) else Scale.parse(reference)
        self._show = show
        self._next_reading = -float("inf")
        # Fail now rather than after hours of training.
        missing = [name for name in ("jinja2", "matplotlib", "rich") if importlib.util.find_spec(name) is None]
        if missing:
            raise ImportError(f'ScalingReporter needs {", ".join(missing)}: pip install "rl-scaling-callback[report]"')

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Show the current table, unless reading the results would take more than 2 % of the run time."""
        started = time.monotonic()
        if started < self._next_reading:
            return
        try:
            # The local folder that Tune's loggers write to; Tune uploads it to the storage later.
            from rl_scaling_callback.report import print_so_far

            storage: Any = trial.storage
            (self._show or print_so_far)(self._report(storage.experiment_driver_staging_path))
        except Exception as error:
            _warn("the table can't be shown", error)
        ended = time.monotonic()
        self._next_reading = ended + (ended - started) / _READING_SHARE

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        """Show the report and write it to the experiment's folder."""
        if not trials:
            return
        try:
            from rl_scaling_callback.report import print_report

            storage: Any = trials[0].storage
            report = self._report(Location(storage.storage_filesystem, storage.experiment_fs_path, storage.experiment_fs_path))
            (self._show or print_report)(report)
            self._write(report, storage)
        except Exception as error:
            _warn("the report can't be written", error)

    def _report(self, source: Any) -> Report:
        from rl_scaling_callback.report import make_report

        return make_report(read_experiment(source, reference=self._reference), self._goal, self._reference)

    def _write(self, report: Report, storage: Any) -> None:
        from pyarrow import fs

        from rl_scaling_callback.report import write_curve, write_page

        with tempfile.TemporaryDirectory() as folder:
            write_page(report, Path(folder) / PAGE)
            for index, study in enumerate(report.studies, start=1):
                write_curve(study, Path(folder) / ("" if len(report.studies) == 1 else str(index)))
            fs.copy_files(
                folder,
                storage.experiment_fs_path,
                source_filesystem=fs.LocalFileSystem(),
                destination_filesystem=storage.storage_filesystem,
            )
        logger.info("ScalingReporter: wrote %s/%s", storage.experiment_fs_path, PAGE)


def _warn(what: str, error: Exception) -> None:
    # A traceback only for unexpected errors, which are bugs.
    logger.warning("ScalingReporter: %s: %s", what, error, exc_info=None if isinstance(error, ExperimentError) else error)
