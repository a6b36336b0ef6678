"""That freed memory is kept, seen by the page faults of a process of its own."""

import subprocess
import sys

import pytest

CODE = """
import resource
import numpy as np
from tfpipe import allocator
assert allocator.keep_small_blocks(16 * 2**20)
def faults(megabytes):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        np.ones(megabytes * 2**20, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(33)
print(faults(2), faults(33))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_small_blocks_are_kept_and_large_ones_given_back():
    command = [sys.executable, "-c", CODE]
    small, large = map(int, subprocess.check_output(command, text=True).split())
    pages = 2 * 2**20 // 4096
    assert small < 2 * pages, "faulted in once, not twenty times"
    assert large > 4 * pages, "twenty times, if in huge pages"
