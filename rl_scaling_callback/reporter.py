"""`ScalingReporter`: prints the report while Tune runs, and writes the page at the end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from ray import tune

from rl_scaling_callback.analysis.choice import Goal
from rl_scaling_callback.core.scale import Scale
from rl_scaling_callback.experiments import ExperimentError, read_experiment
from rl_scaling_callback.report import PAGE, Report, check_installed, make_report, print_report, render_page
from rl_scaling_callback.storage import Location

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

logger = logging.getLogger("rl_scaling_callback")

_READING_SHARE: Final = 0.02
"""Maximum share of the time to spend on reading results while Tune runs."""


class ScalingReporter(tune.Callback):
    """Prints a report while Tune runs, and writes the HTML page at the end.

    Add it to `tune.RunConfig(callbacks=[ScalingReporter()])`. Trials need not use `ScalingCallback`; if they do, the table also
    attributes the loss of efficiency to causes. Exceptions are logged and never interrupt Tune.

    Args:
        goal: `"save"`, `"balanced"`, `"fastest"` or a custom `Goal`.
        reference: scale of the baseline, such as `"1r1e"`.
        show: called with the report after a trial has completed and at the end; by default, prints it.

    Raises:
        ValueError: if an argument has a value that is not allowed.
        ImportError: if a package that the report needs is not installed.
    """

    def __init__(
        self,
        goal: str | Goal = "balanced",
        *,
        reference: str | Scale = "1r1e",
        show: Callable[[Report], object] = print_report,
    ) -> None:
        self._goal, self._reference, self._show = Goal.of(goal), Scale.parse(reference), show
        self._next_reading = -float("inf")
        check_installed()  # now rather than after hours of training

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Show the current table, unless reading the results would take more than 2 % of the run time."""
        started = time.monotonic()
        if started < self._next_reading:
            return
        with _warned("the table can't be shown"):
            # The local folder that Tune's loggers write to; Tune uploads it to the storage later.
            storage: Any = trial.storage
            self._show(self._report(storage.experiment_driver_staging_path))
        ended = time.monotonic()
        self._next_reading = ended + (ended - started) / _READING_SHARE

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        """Show the report and write it to the experiment's folder."""
        if not trials:
            return
        with _warned("the report can't be written"):
            storage: Any = trials[0].storage
            folder = Location(storage.storage_filesystem, storage.experiment_fs_path, storage.experiment_fs_path)
            report = self._report(folder)
            with _warned("the table can't be shown"):
                self._show(report)
            folder.below(PAGE).write(render_page(report))

    def _report(self, source: Any) -> Report:
        return make_report(read_experiment(source, reference=self._reference), self._goal, self._reference)


@contextmanager
def _warned(what: str) -> Iterator[None]:
    """Log an exception of the block instead of raising it; with a traceback if it is unexpected, and so a bug."""
    try:
        yield
    except Exception as error:
        logger.warning("ScalingReporter: %s: %s", what, error, exc_info=None if isinstance(error, ExperimentError) else error)
