"""Ends trials that hang, since Tune waits for results indefinitely."""

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
    """Ends the trial's process if start-up or an iteration takes too long. Tune then lists the trial as failed.

    There is one timer per process: RLlib creates the callback for the Algorithm and again for its local env runner, and only the
    former receives results.

    Args:
        seconds: maximum time to wait for a result.

    Raises:
        ValueError: `seconds` is not above 0.
    """

    _timer: ClassVar[threading.Timer | None] = None

    def __init__(self, seconds: float) -> None:
        super().__init__()
        positive("seconds", seconds)
        self._seconds = seconds
        if not introspection.in_env_runner():
            self._start()

    def on_environment_created(self, *, env_runner: Any, **kwargs: Any) -> None:
        """Stop the timer in the process of a remote env runner, which receives no results."""
        if getattr(env_runner, "worker_index", 0) > 0:
            self._stop()

    def on_train_result(self, **kwargs: Any) -> None:
        """Restart the timer. RLlib calls this at the end of each iteration."""
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
        logger.error("no result for %.0f s: the trial hangs and will be terminated", self._seconds)
        os._exit(1)
