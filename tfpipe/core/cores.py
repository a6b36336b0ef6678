"""How many CPU cores this process may use."""

import math
import os
import pathlib

from tfpipe.core import control_group


def cores(groups: pathlib.Path = control_group.ROOT) -> int:
    """Return the number of cores by the process's affinity and by its control groups' quotas.

    A quota of 2.5 cores counts as 3: with 2 threads, half a core would idle.

    Args:
        groups: where Linux shows the control groups, version 1 (cpu.cfs_quota_us) or 2 (cpu.max).
    """
    counts = [len(os.sched_getaffinity(0))]
    for folder in control_group.folders("cpu", groups):
        quota, _, period = control_group.text(folder, "cpu.max").partition(" ")
        quota = quota or control_group.text(folder, "cpu.cfs_quota_us")
        period = period or control_group.text(folder, "cpu.cfs_period_us")
        if quota not in ("", "max", "-1") and period:
            counts.append(math.ceil(int(quota) / int(period)))
    return max(1, min(counts))
