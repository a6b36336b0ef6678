"""How a process keeps the memory that it frees, for its next step or its next image."""

import ctypes
import os
import sys

# Parameters of mallopt, from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8

_NVIDIA_DRIVER = "/proc/driver/nvidia/version"


def keep_freed_memory() -> bool:
    """Make glibc keep freed blocks instead of returning them to the system; return whether it does.

    On a CPU every step of a model allocates and frees tensors of megabytes. By default each of them
    is mapped and unmapped anew, and touching its fresh pages takes a third of the time (MobileNet
    at 224, two cores: inference 1.7 x and training 1.4 x as fast with this, at the same peak
    memory; docs/benchmarks.md). One arena, because blocks this large fit in no other.

    Call it before TensorFlow is imported. It does nothing without glibc, and with an NVIDIA driver:
    then the CPU decodes images on many threads, which one arena might slow down.
    """
    if os.path.exists(_NVIDIA_DRIVER) or not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library, as musl
        return False
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: 2**31 - 1, _M_ARENA_MAX: 1}
    return all(mallopt(name, value) for name, value in settings.items())
