"""How much memory this process may use."""

import os
import pathlib
import re

from tfpipe.core import control_group

# Pages of files, which Linux drops when memory is needed. Version 1 counts those of inner groups in
# names with "total_".
_PAGE_CACHE = re.compile(r"^(total_)?(?:in)?active_file (\d+)$", re.MULTILINE)


def free_memory(
    groups: pathlib.Path = control_group.ROOT, meminfo: pathlib.Path = pathlib.Path("/proc/meminfo")
) -> int | None:
    """Return the bytes of memory that are free for this process; None if unknown.

    Page cache counts as free, on the machine as in its control groups.

    Args:
        groups: where Linux shows the control groups, version 1 or 2.
        meminfo: where it shows the memory of the machine.
    """
    limits = []
    if meminfo.is_file() and (match := re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text())):
        limits.append(int(match[1]) * 1024)
    for folder in control_group.folders("memory", groups):
        limit = _limit(folder)
        used = control_group.text(folder, "memory.current", "memory.usage_in_bytes")
        if limit is not None and used:
            limits.append(max(0, limit - max(0, int(used) - _page_cache(folder))))
    return min(limits, default=None)


def memory_limit(groups: pathlib.Path = control_group.ROOT) -> int:
    """Return the bytes of the machine's memory, or of the container's limit if that is less.

    Args:
        groups: where Linux shows the control groups, version 1 or 2.
    """
    limits = [_limit(folder) for folder in control_group.folders("memory", groups)]
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *(limit for limit in limits if limit is not None)])


def _limit(folder: pathlib.Path) -> int | None:
    limit = control_group.text(folder, "memory.max", "memory.limit_in_bytes")
    return int(limit) if limit not in ("", "max") else None


def _page_cache(folder: pathlib.Path) -> int:
    """Return the bytes of a control group's page cache, of inner groups too."""
    found = _PAGE_CACHE.findall(control_group.text(folder, "memory.stat"))
    with_inner = [int(number) for total, number in found if total]
    return sum(with_inner or (int(number) for _, number in found))
