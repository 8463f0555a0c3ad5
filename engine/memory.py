"""How much memory is there for another model.

Reads what the kernel says of the machine and of the cgroup this process is in; knows no model.
"""

from __future__ import annotations

from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")
"""Where cgroup v2 is mounted. Under v1 there is no such file as ``memory.max``."""

MEMBERSHIP = Path("/proc/self/cgroup")


def available() -> int:
    """Bytes that can be taken without swapping: MemAvailable of proc_meminfo(5), or what the
    tightest limit of our cgroups leaves, if that is less.

    Both count the page cache as available, files that workers have mapped included.
    """
    machine: int = psutil.virtual_memory().available
    return min([machine, *_left_in_cgroups()])


def _left_in_cgroups() -> list[int]:
    """Bytes that each limited cgroup above us, and our own, has left (cgroups(7), v2)."""
    try:
        lines = MEMBERSHIP.read_text().splitlines()
    except OSError:
        return []
    own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), None)
    if own is None:
        return []
    group = CGROUPS / own
    # In a container the path may be one of the host's; its own group is the root of the mount.
    groups = [group, *group.parents] if group.is_dir() else [CGROUPS]
    return [left for g in groups if g.is_relative_to(CGROUPS) and (left := _left(g)) is not None]


def _left(group: Path) -> int | None:
    try:
        limit = (group / "memory.max").read_text().strip()
        if limit == "max":
            return None
        used = int((group / "memory.current").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None  # the root has none of these files; without a controller there is no limit
    # Pages of files are given back when memory is short.
    return int(limit) - used + int(stat["active_file"]) + int(stat["inactive_file"])
