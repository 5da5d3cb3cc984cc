"""Callbacks that cause faults in a trial: killed processes, lost storage."""

import os
import signal
from pathlib import Path

from ray.rllib.callbacks.callbacks import RLlibCallback


def kill_once(flag):
    """Kill this process unless the file `flag` exists; its replacement finds the file and survives."""
    if not Path(flag).exists():
        Path(flag).touch()
        os.kill(os.getpid(), signal.SIGKILL)


class KillTrial(RLlibCallback):
    """Kills the process of a trial with `runners` env runners after iteration number `iteration`."""

    def __init__(self, flag, runners, iteration):
        super().__init__()
        self._flag, self._runners, self._iteration = flag, runners, iteration

    def on_train_result(self, *, algorithm, result, **kwargs):
        if algorithm.config.num_env_runners == self._runners and result["training_iteration"] == self._iteration:
            kill_once(self._flag)


class KillEnvRunner(RLlibCallback):
    """Calls `meanwhile()` and kills the first env runner, at the end of its sample number `sample`."""

    def __init__(self, flag, sample=3, meanwhile=lambda: None):
        super().__init__()
        self._flag, self._left, self._meanwhile = flag, sample, meanwhile

    def on_sample_end(self, *, env_runner, **kwargs):
        self._left -= env_runner.worker_index == 1
        if self._left == 0 and not Path(self._flag).exists():
            self._meanwhile()
            kill_once(self._flag)


class AtIteration(RLlibCallback):
    """Calls `do()` in the middle of iteration `iteration` of a trial that samples in the Algorithm's process."""

    def __init__(self, iteration, do):
        super().__init__()
        self._samples, self._iteration, self._do = 0, iteration, do

    def on_sample_end(self, **kwargs):
        self._samples += 1
        if self._samples == self._iteration:
            self._do()
