"""Tells whether a trial had its host to itself during an iteration.

Every process of a user that trains on a host, in whichever Ray cluster, opens the same lock file, and locks one byte of it while
it runs an iteration. It is alone if it could lock all the other bytes too. The operating system releases the lock of a process that
is killed. Each iteration also appends a byte to the file, whose size thus reveals iterations of other processes that have begun
since.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from rl_scaling_callback.core.formulas import NAN

_END_OF_LOCKS = 1 << 30


class Colocation:
    """One trial's view of the other trials on its host.

    Args:
        host: name of the host. It is part of the lock file's name, because hosts may share the folder for temporary files.

    Attributes:
        exclusive: 1.0 if no iteration of another trial overlapped with this trial's last one, else 0.0; NaN if unknown. A trial
            that waits, evaluates, or was stopped but still exists does no harm.

    Raises:
        OSError: the lock file can't be created.
    """

    def __init__(self, host: str) -> None:
        self._process = _process_on(host, os.getpid())
        self.exclusive = NAN

    @contextmanager
    def iteration(self) -> Iterator[None]:
        """Run an iteration of this trial inside the `with` block."""
        self._process.begin(self)
        try:
            yield
        finally:
            self._process.end(self)


class _Process:
    """This process on a host. Locks belong to processes, so all trials of one process share it."""

    def __init__(self, host: str, pid: int) -> None:
        directory = Path(tempfile.gettempdir()) / f"rl_scaling_callback-{os.getuid()}"
        directory.mkdir(mode=0o700, exist_ok=True)
        # Another user could have created this folder, or a link to one of this user's.
        found = directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise PermissionError(f"{directory} is not a folder owned by this user")
        path = directory / (re.sub(r"[^\w.-]", "_", host) + ".lock")
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._byte = 1 + pid % (_END_OF_LOCKS - 2)
        self._lock = threading.Lock()
        self._written = 0
        self._begun_before: dict[Colocation, int] = {}  # of the trials in an iteration: iterations that others had begun until then
        self._begun_when_alone = -1

    def begin(self, trial: Colocation) -> None:
        """Start an iteration of a trial of this process."""
        with self._lock:
            trial.exclusive = 1.0
            for other in self._begun_before:
                other.exclusive = trial.exclusive = 0.0
            first = not self._begun_before
            self._begun_before[trial] = -1
            try:
                if first:
                    fcntl.lockf(self._fd, fcntl.LOCK_EX, 1, self._byte)
                    self._written += os.write(self._fd, b".")
                self._begun_before[trial] = begun = self._begun_by_others()
                # A process that was alone still is if no iteration has begun since: no need to try the locks.
                if begun == self._begun_when_alone or self._is_alone():
                    self._begun_when_alone = begun
                else:
                    trial.exclusive = 0.0
            except OSError:  # such as no space left for the byte
                trial.exclusive = NAN

    def end(self, trial: Colocation) -> None:
        """End an iteration of a trial of this process."""
        with self._lock:
            begun = self._begun_before.pop(trial)
            try:
                if begun not in (-1, self._begun_by_others()):
                    trial.exclusive = 0.0
                if not self._begun_before:
                    fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, self._byte)
            except OSError:
                trial.exclusive = NAN

    def _begun_by_others(self) -> int:
        """Return how many iterations other processes have begun on this host."""
        return os.fstat(self._fd).st_size - self._written

    def _is_alone(self) -> bool:
        """Return whether all other bytes can be locked. Locks granted by this check are released at once."""
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, _END_OF_LOCKS, 0)
        except (BlockingIOError, PermissionError):
            return False
        fcntl.lockf(self._fd, fcntl.LOCK_UN, self._byte, 0)
        fcntl.lockf(self._fd, fcntl.LOCK_UN, _END_OF_LOCKS - self._byte - 1, self._byte + 1)
        return True


_process_on = cache(_Process)
