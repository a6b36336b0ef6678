"""Finds the processes of a command under test, also those that outlived their parent."""

import os
import pathlib
import time
import uuid


class Family:
    """All processes that were started with one environment, whoever is their parent by now."""

    def __init__(self):
        self._mark = f"TEST_FAMILY={uuid.uuid4()}"
        self.environment = {**os.environ, **dict([self._mark.split("=")])}

    def alive(self):
        """Returns the folders in /proc of those that run."""
        found = []
        for folder in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                if self._mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(folder)
            except OSError:  # it is somebody else's, or ended
                continue
        return found

    def workers(self):
        """Returns the process ids of those that decode images: children of the fork server."""
        servers = {int(f.name): _parent(f) for f in self.alive() if b"forkserver" in _command(f)}
        return [pid for pid, parent in servers.items() if parent in servers]

    def wait_for_end(self, seconds=30):
        """Returns whether all end within some seconds."""
        deadline = time.monotonic() + seconds
        while self.alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def peak_megabytes(self):
        """Returns the most memory, in 10^6 bytes, that any worker alive has held at a time."""
        peaks = [0]
        for pid in self.workers():
            try:
                status = pathlib.Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue
            peaks += [int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line]
        return max(peaks) * 1024 / 10**6


def children(pid):
    """Returns the process ids of a process's children."""
    return [int(f.name) for f in pathlib.Path("/proc").glob("[0-9]*") if _parent(f) == pid]


def _parent(folder):
    try:
        return int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return -1


def _command(folder):
    try:
        return (folder / "cmdline").read_bytes()
    except OSError:
        return b""
