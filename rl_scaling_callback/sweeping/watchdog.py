"""Ends a trial that hangs: Tune waits for results, and would wait for one forever."""

from __future__ import annotations

import logging
import os
import threading
from typing import Any

from ray.rllib.callbacks.callbacks import RLlibCallback

from rl_scaling_callback.core.checks import positive
from rl_scaling_callback.rllib import introspection

logger = logging.getLogger("rl_scaling_callback")


class Watchdog(RLlibCallback):
    """Ends the trial's process when an iteration, or starting up, takes too long. Tune then lists the trial as failed.

    Args:
        seconds: the longest that is waited for a result.

    Raises:
        ValueError: not above 0.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        positive("seconds", seconds)
        self._seconds = seconds
        self._timer: threading.Timer | None = None
        if not introspection.in_env_runner():
            self._start()

    def on_train_result(self, **kwargs: Any) -> None:
        """Wait anew. RLlib calls it at the end of each iteration."""
        self._start()

    def _start(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = threading.Timer(self._seconds, self._end)
        self._timer.daemon = True
        self._timer.start()

    def _end(self) -> None:
        logger.error("no result for %.0f s: the trial hangs and is ended", self._seconds)
        os._exit(1)
