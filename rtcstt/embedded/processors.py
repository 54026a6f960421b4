"""How many processors this process may use: of the machine's, those that its container leaves it."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUP = Path("/proc/self/cgroup")


def usable(groups: Path = CGROUPS, own: Path = OWN_GROUP) -> int:
    """By affinity (cpusets, taskset) and by quota (`docker run --cpus`, CPU limits of Kubernetes,
    `CPUQuota=` of systemd; control groups version 2). A quota of part of a processor counts as one."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return math.ceil(min(allowed, _quota(groups, own))) if own.exists() else allowed


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
