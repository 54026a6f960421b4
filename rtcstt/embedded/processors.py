"""How many processors this process may use: of the machine's, those that its container leaves it."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUP = Path("/proc/self/cgroup")


_sharing = 1


def share(processes: int) -> None:
    """This process is one of so many that work on the same processors."""
    global _sharing
    _sharing = processes


def usable(groups: Path = CGROUPS, own: Path = OWN_GROUP) -> int:
    """By affinity (cpusets, taskset) and by quota (`docker run --cpus`, CPU limits of Kubernetes,
    `CPUQuota=` of systemd; control groups version 2), less what the processes get that it shares with. Part
    of a processor counts as one."""
    allowed: float = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if own.exists():
        allowed = min(allowed, _quota(groups, own))
    return math.ceil(allowed / _sharing)


def _quota(groups: Path, own: Path) -> float:
    """In processors: the least of the process's group and those above it; each has "MOST PERIOD" in us."""
    place = next((line[3:] for line in own.read_text().splitlines() if line.startswith("0::")), "/")
    group = groups / place.lstrip("/")
    quotas = [math.inf]
    for folder in (group, *group.parents):
        limit = folder / "cpu.max"
        if limit.is_file():
            most, period = limit.read_text().split()
            quotas.append(math.inf if most == "max" else int(most) / int(period))
    return min(quotas)
