"""Tells whether another trial runs on the same node, without a file or remote access per iteration.

Trials of one process see each other's iterations. Across processes, every process that trains on a node keeps one lock file open
and holds a lock on a byte of its own; the operating system gives the lock back even when the process is killed. A trial is alone
when its process can lock all other bytes. Each process that arrives appends a byte to the file, so that its size shows neighbours
that came and went between two looks.
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
    """A trial among those of its node.

    Args:
        node: the node's name; trials that give the same one on the same host see each other.

    Raises:
        OSError: the lock file can't be made.
    """

    def __init__(self, node: str) -> None:
        self._presence: _Presence | None = None if fcntl is None else _Presence.join(node)
        self._crossed = False
        if self._presence is not None:
            self._arrivals = self._presence.arrivals()
            self._was_alone = self._presence.is_alone()

    def look(self) -> float:
        """Return 1.0 when no other trial ran on this node since the last look, else 0.0; NaN where it can't be told.

        A process that is there now, that was there at the last look, or that arrived in between counts. Another trial of this
        process counts when iterations of both overlapped: one that is stopped, or trains in turn with this one, takes nothing.
        """
        if self._presence is None:
            return NAN
        arrivals = self._presence.arrivals()
        alone_since = self._was_alone and arrivals == self._arrivals
        # Where a trial was alone and nobody has arrived, it still is: no call of the operating system is needed to know it.
        alone = alone_since or self._presence.is_alone()
        exclusive = alone_since and not self._crossed
        self._crossed = False
        self._arrivals, self._was_alone = arrivals, alone
        return float(exclusive)

    @contextmanager
    def iteration(self) -> Iterator[None]:
        """Run an iteration of this trial."""
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
        """Stop being seen by the others; further looks give NaN."""
        if self._presence is not None:
            self._presence.leave()
            self._presence = None


class _Presence:
    """This process among those of a node. Locks belong to processes, so the trials of one process share it."""

    _here: ClassVar[dict[str, _Presence]] = {}

    def __init__(self, node: str) -> None:
        directory = Path(tempfile.gettempdir()) / f"rl_scaling_callback-{os.getuid()}"
        directory.mkdir(mode=0o700, exist_ok=True)
        # Anybody can make a folder of this name, or a link to one of ours.
        found = directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise PermissionError(f"{directory} is not a folder of this user's own")
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
            os.close(self._fd)  # gives back the locks

    def arrivals(self) -> int:
        """Return how many processes have ever arrived on this node."""
        return os.fstat(self._fd).st_size

    def is_alone(self) -> bool:
        """Return whether all other bytes can be locked. A refused lock changes nothing; a granted one is given back at once."""
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, _END_OF_LOCKS, 0)
        except OSError:
            return False
        fcntl.lockf(self._fd, fcntl.LOCK_UN, self._byte, 0)
        fcntl.lockf(self._fd, fcntl.LOCK_UN, _END_OF_LOCKS - self._byte - 1, self._byte + 1)
        return True
