"""How much memory this process may use."""

import os
import pathlib
import re

_GROUPS = pathlib.Path("/sys/fs/cgroup")


def free_memory() -> int | None:
    """Return the bytes of memory that are free for this process; None if unknown."""
    limits = []
    meminfo = pathlib.Path("/proc/meminfo")
    if meminfo.is_file() and (match := re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text())):
        limits.append(int(match[1]) * 1024)
    used = _GROUPS / "memory.current"
    if used.is_file() and (limit := _container_limit(_GROUPS)) is not None:
        limits.append(max(0, limit - int(used.read_text())))
    return min(limits, default=None)


def memory_limit(groups: pathlib.Path = _GROUPS) -> int:
    """Return the bytes of the machine's memory, or of the container's limit if that is less.

    Args:
        groups: where Linux shows the control group of the process, version 1 or 2.
    """
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _container_limit(groups)
    return machine if limit is None else min(machine, limit)


def _container_limit(groups: pathlib.Path) -> int | None:
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        file = groups / name
        if file.is_file() and (text := file.read_text().strip()) != "max":
            return int(text)
    return None
