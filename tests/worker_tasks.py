"""Tasks for `test_workers`, in a module that a worker imports fast."""

import ctypes
import os
import signal
import sys
import time

from pictures import png

from tfpipe.core.errors import UserError


def do(job, item, limit):
    """A task: what the first half of the item's name says."""
    what = item.split()[0]
    if what == "slow":  # as storage is, before anything is decoded
        time.sleep(1)
    with limit():
        act(what, item)


def act(what, item):
    if what == "exit":
        os._exit(3)
    elif what == "segfault":
        ctypes.string_at(1)
    elif what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "hang":
        ctypes.CDLL(None).sleep(60)
    elif what == "spin":
        while True:
            pass
    elif what == "memory":
        bytearray(2**31)
    elif what == "nap":
        time.sleep(0.1)
    elif what == "deaf":  # Python's own handlers never run inside C
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        ctypes.CDLL(None).sleep(60)
    elif what == "mistake":
        raise UserError(f"{item} is wrong: mend it", status=7)
    elif what == "threads":
        names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")
        assert [os.environ[name] for name in names] == ["1", "1"]
    elif what == "light":
        assert "tensorflow" not in sys.modules
    elif what == "limits":
        bytearray(400 * 2**20)
        try:
            bytearray(600 * 2**20)
        except MemoryError:
            return
        raise AssertionError("600 MiB fit")


class SlowStorage:
    """A source whose reads take longer than an image may."""

    path = "slow"

    def prepare(self):
        pass

    def locate(self, name):
        return f"slow/{name}"

    def read(self, name):
        time.sleep(1)
        return png(2, 1, 8, 2, [bytes(6)])


class Broken:
    """A source that cannot be listed any more."""

    def prepare(self):
        raise OSError("gone")
