"""What else runs on a trial's machine: other trials, and other programs."""

from __future__ import annotations

import fcntl
import math
import os
import re
import stat
import tempfile
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from rl_scaling_callback.core.formulas import NAN, ratio


class Colocation:
    """Tells whether a trial had its host to itself during an iteration.

    All trials of a user on a host, in whichever Ray cluster, share a lock of one file while they run an iteration. A trial that
    could lock the file alone is the only one, as long as no other begins: each iteration appends a byte to the file. The operating
    system releases the lock of a process that is killed.

    Args:
        host: name of the host. It is part of the lock file's name, because hosts may share the folder for temporary files.

    Attributes:
        exclusive: 1.0 if no iteration of another trial overlapped with this trial's last one, else 0.0; NaN if unknown. A trial
            that waits, evaluates, or was stopped but still exists does no harm.

    Raises:
        OSError: the lock file can't be created.
    """

    def __init__(self, host: str) -> None:
        self.exclusive = NAN
        directory = Path(tempfile.gettempdir()) / f"rl_scaling_callback-{os.getuid()}"
        directory.mkdir(mode=0o700, exist_ok=True)
        # Another user could have created this folder, or a link to one of this user's.
        found = directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise PermissionError(f"{directory} is not a folder owned by this user")
        path = directory / (re.sub(r"[^\w.-]", "_", host) + ".lock")
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        weakref.finalize(self, os.close, self._fd)

    @contextmanager
    def iteration(self) -> Iterator[None]:
        """Run an iteration of this trial inside the `with` block."""
        self.exclusive, size = NAN, 0
        with suppress(OSError):  # such as no space left for the byte
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                is_alone = True
            except BlockingIOError:  # others have locked it
                fcntl.flock(self._fd, fcntl.LOCK_SH)
                is_alone = False
            try:
                os.write(self._fd, b".")
                size = os.lseek(self._fd, 0, os.SEEK_CUR)
            finally:
                fcntl.flock(self._fd, fcntl.LOCK_SH)
            self.exclusive = float(is_alone)
        try:
            yield
        finally:
            with suppress(OSError):
                if size and os.fstat(self._fd).st_size > size:
                    self.exclusive = 0.0
                fcntl.flock(self._fd, fcntl.LOCK_UN)  # closing is not enough: processes forked meanwhile share the lock


class Load:
    """Core usage of one machine during a trial, without reading any files.

    RLlib samples the machine's utilisation, and each process of a trial knows its own CPU time. The difference is used by others:
    other programs, env simulators in separate processes and, on a virtual machine, its host (steal time).

    Args:
        cores: logical cores of the machine; NaN if the trial's share can't be separated from that of others.
        num_env_runners: number of env runners in separate processes.
    """

    def __init__(self, cores: float, num_env_runners: int) -> None:
        self._cores, self._num_env_runners = cores, num_env_runners
        self._before = time.process_time(), time.monotonic()

    def read(self, utilisation: float, runners_cpu_s: Sequence[float]) -> tuple[float, float]:
        """Return the cores used by this trial, and those used by others, since the last call; NaN if unknown.

        Args:
            utilisation: mean utilisation of the machine's cores since then [%]. It is sampled, so the second value may be slightly
                negative.
            runners_cpu_s: CPU seconds of each env runner since then.
        """
        now = time.process_time(), time.monotonic()
        (own_cpu_s, elapsed), self._before = [later - before for before, later in zip(self._before, now, strict=True)], now
        if self._num_env_runners:
            # An env runner without a report may still have used CPU time.
            own_cpu_s += math.fsum(runners_cpu_s) if len(runners_cpu_s) == self._num_env_runners else NAN
        own = ratio(own_cpu_s, elapsed)
        all_used = self._cores * utilisation / 100 if 0 <= utilisation <= 100 else NAN
        return own, all_used - own
