"""Ends a trial that hangs: Tune waits for results, and would wait for one forever."""

from __future__ import annotations

import logging
import os
import threading
from typing import Any, ClassVar

from ray.rllib.callbacks.callbacks import RLlibCallback

from rl_scaling_callback.core.checks import positive
from rl_scaling_callback.rllib import introspection

logger = logging.getLogger("rl_scaling_callback")


class Watchdog(RLlibCallback):
    """Ends the trial's process when an iteration, or starting up, takes too long. Tune then lists the trial as failed.

    There is one timer in a process: RLlib makes the callback for the Algorithm and once more for its local env runner, of which
    only the former is told of results.

    Args:
        seconds: the longest that is waited for a result.

    Raises:
        ValueError: not above 0.
    """

    _timer: ClassVar[threading.Timer | None] = None

    def __init__(self, seconds: float) -> None:
        super().__init__()
        positive("seconds", seconds)
        self._seconds = seconds
        if not introspection.in_env_runner():
            self._start()

    def on_environment_created(self, *, env_runner: Any, **kwargs: Any) -> None:
        """Wait no longer in the process of a remote env runner, which is told of no results either."""
        if getattr(env_runner, "worker_index", 0) > 0:
            self._stop()

    def on_train_result(self, **kwargs: Any) -> None:
        """Wait anew. RLlib calls it at the end of each iteration."""
        self._start()

    def _start(self) -> None:
        self._stop()
        Watchdog._timer = threading.Timer(self._seconds, self._end)
        Watchdog._timer.daemon = True
        Watchdog._timer.start()

    def _stop(self) -> None:
        if Watchdog._timer is not None:
            Watchdog._timer.cancel()

    def _end(self) -> None:
        logger.error("no result for %.0f s: the trial hangs and is ended", self._seconds)
        os._exit(1)
