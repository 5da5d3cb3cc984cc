"""Describes a host: the CPU's name and the cores that a process can actually use."""

from __future__ import annotations

import math
import os
import platform
import re
import socket
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Machine:
    """A host as a process on it sees it."""

    name: str  # in the network
    cpu: str
    cores: int  # logical ones that the process may use


def this_machine() -> Machine:
    """Return the host of this process."""
    return Machine(socket.gethostname(), cpu_model(), usable_cores())


@cache
def cpu_model() -> str:
    """Return the CPU's name as reported by the operating system, or the architecture's name."""
    with suppress(OSError):
        if found := re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(errors="replace"), re.MULTILINE):
            return found[1].strip()
    return platform.processor() or platform.machine()


@cache
def usable_cores() -> int:
    """Return the number of logical cores that this process may use: the affinity mask, capped by a container's CPU quota."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        cores = os.cpu_count() or 1
    return max(1, math.ceil(min(cores, _quota())))


def whole_machine_cores() -> float:
    """Return the number of logical cores of this machine; NaN if this process may use only some of them."""
    cores = os.cpu_count()
    return float(cores) if cores == usable_cores() else math.nan


def _quota(file: Path = Path("/sys/fs/cgroup/cpu.max")) -> float:
    """Return the CPU quota of the container that this process runs in; infinite if it has none."""
    with suppress(OSError, ValueError, ZeroDivisionError):  # no such file, and "max" for no quota
        quota, period = map(int, file.read_text().split())
        return quota / period
    return math.inf
