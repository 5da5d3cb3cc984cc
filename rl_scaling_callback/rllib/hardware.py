"""Describes a host: the CPU's name and the cores that a process can actually use."""

from __future__ import annotations

import math
import os
import platform
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath


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
    """Return the number of logical cores that this process may use: the affinity mask, capped by its CPU quota."""
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


def _cgroup_cpus(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float:
    """Return the smallest CPU quota of this process's control groups (v1 and v2) and their parents, infinite if there is none.

    Args:
        root: where the control groups are mounted.
        own: file that lists the control groups of this process.
    """
    groups = {"": "/", "cpu": "/"}  # by controller; "" for v2
    try:
        for line in own.read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            groups.update(dict.fromkeys(controllers.split(","), group))
    except (OSError, ValueError):
        pass
    # In a container the files may exist for the root only.
    quotas = [_quota_v2(root / each.lstrip("/")) for each in _with_parents(groups[""])]
    quotas += [_quota_v1(root / "cpu" / each.lstrip("/")) for each in _with_parents(groups["cpu"])]
    return min(quotas)


def _with_parents(group: str) -> list[str]:
    path = PurePosixPath(group)
    return [str(each) for each in (path, *path.parents)]


def _quota_v2(group: Path) -> float:
    try:
        quota, period = (group / "cpu.max").read_text().split()
        return math.inf if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf


def _quota_v1(group: Path) -> float:
    try:
        quota = int((group / "cpu.cfs_quota_us").read_text())
        return math.inf if quota <= 0 else quota / int((group / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf
