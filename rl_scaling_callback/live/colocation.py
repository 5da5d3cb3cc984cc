"""Detects other trials on the same node, without accessing files or other processes in each iteration.

Trials in one process see each other's iterations. Across processes, every process that trains on a node keeps the same lock file
open and locks one byte of it; the operating system releases the lock even if the process is killed. A trial is alone if its process
can lock all other bytes. Each new process appends a byte to the file, so its size reveals processes that came and went between two
checks.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from rl_scaling_callback.core.formulas import NAN

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_END_OF_LOCKS = 1 << 30
_LOCK = threading.Lock()


class Colocation:
    """One trial's view of the other trials on its node.

    Args:
        node: name of the node; trials on the same host with the same name see each other.

    Raises:
        OSError: the lock file can't be created.
    """

    def __init__(self, node: str) -> None:
        self._presence: _Presence | None = None if fcntl is None else _Presence.join(node)
        self._crossed = False
        if self._presence is not None:
            self._arrivals = self._presence.arrivals()
            self._was_alone = self._presence.is_alone()

    def look(self) -> float:
        """Return 1.0 if no other trial ran on this node since the last call, else 0.0; NaN if unknown.

        Another process counts if it is present now, was present at the last call, or arrived in between. Another trial in this
        process counts only if its iterations overlapped with this trial's: trials that are stopped or train in turn do no harm.
        """
        if self._presence is None:
            return NAN
        arrivals = self._presence.arrivals()
        alone_since = self._was_alone and arrivals == self._arrivals
        # A trial that was alone still is if no process arrived since: no need to try the locks.
        alone = alone_since or self._presence.is_alone()
        exclusive = alone_since and not self._crossed
        self._crossed = False
        self._arrivals, self._was_alone = arrivals, alone
        return float(exclusive)

    @contextmanager
    def iteration(self) -> Iterator[None]:
        """Run an iteration of this trial inside the `with` block."""
        presence = self._presence
        if presence is None:
            yield
            return
        with _LOCK:
            for other in presence.iterating:
                other._crossed = self._crossed = True
            presence.iterating.add(self)
        try:
            yield
        finally:
            with _LOCK:
                presence.iterating.discard(self)

    def leave(self) -> None:
        """Become invisible to other trials; later calls of `look` return NaN."""
        if self._presence is not None:
            self._presence.leave()
            self._presence = None


class _Presence:
    """This process's lock on a node. Locks belong to processes, so all trials of one process share it."""

    _here: ClassVar[dict[str, _Presence]] = {}

    def __init__(self, node: str) -> None:
        directory = Path(tempfile.gettempdir()) / f"rl_scaling_callback-{os.getuid()}"
        directory.mkdir(mode=0o700, exist_ok=True)
        # Another user could have created this folder, or a link to one of this user's.
        found = directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise PermissionError(f"{directory} is not a folder owned by this user")
        path = directory / (re.sub(r"[^\w.-]", "_", node) + ".lock")
        self._node, self._members = node, 0
        self.iterating: set[Colocation] = set()
        self._byte = 1 + os.getpid() % (_END_OF_LOCKS - 2)
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX, 1, self._byte)
            os.write(self._fd, b".")
        except BaseException:
            os.close(self._fd)
            raise

    @classmethod
    def join(cls, node: str) -> _Presence:
        presence = cls._here.get(node) or cls._here.setdefault(node, cls(node))
        presence._members += 1
        return presence

    def leave(self) -> None:
        self._members -= 1
        if self._members == 0:
            del self._here[self._node]
            os.close(self._fd)  # releases the locks

    def arrivals(self) -> int:
        """Return how many processes have ever joined on this node."""
        return os.fstat(self._fd).st_size

    def is_alone(self) -> bool:
        """Return whether all other bytes can be locked. Locks granted by this check are released at once."""
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, _END_OF_LOCKS, 0)
        except OSError:
            return False
        fcntl.lockf(self._fd, fcntl.LOCK_UN, self._byte, 0)
        fcntl.lockf(self._fd, fcntl.LOCK_UN, _END_OF_LOCKS - self._byte - 1, self._byte + 1)
        return True
