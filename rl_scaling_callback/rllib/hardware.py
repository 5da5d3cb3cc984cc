"""Describes a host: the CPU's name and the cores that a process can actually use."""

from __future__ import annotations

import math
import os
import platform
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Host:
    """A host as a process on it sees it.

    Attributes:
        name: its network name.
        cpu: name of its CPU.
        cores: logical cores that the process may use.
    """

    name: str
    cpu: str
    cores: int


def this_host() -> Host:
    """Return the host of this process."""
    return Host(socket.gethostname(), cpu_model(), usable_cores())


@cache
def cpu_model() -> str:
    """Return the CPU's name as reported by the operating system, or the architecture's name."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@cache
def usable_cores() -> int:
    """Return the number of logical cores that this process may use: the affinity mask, capped by the container's CPU quota."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        cores = os.cpu_count() or 1
    quota = _cgroup_cpus()
    return cores if quota == math.inf else max(1, min(cores, math.ceil(quota)))


def whole_machine_cores() -> float:
    """Return the number of logical cores of this machine; NaN if this process may use only some of them."""
    cores = os.cpu_count()
    return float(cores) if cores == usable_cores() else math.nan


def _cgroup_cpus() -> float:
    """Return the CPU quota of this container (cgroup v2, then v1), infinite if there is none."""
    root = Path("/sys/fs/cgroup")
    try:
        quota, period = (root / "cpu.max").read_text().split()
        return math.inf if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        quota_us = int((root / "cpu/cpu.cfs_quota_us").read_text())
        return math.inf if quota_us <= 0 else quota_us / int((root / "cpu/cpu.cfs_period_us").read_text())
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf
