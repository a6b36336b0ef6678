"""One file, on disk or at a URL, read whole and with care."""

import concurrent.futures
import os
import stat
from collections.abc import Sequence

from tfpipe.core import remote, storage
from tfpipe.core.errors import Rejected
from tfpipe.sources.source import read_bounded

# A request to a server takes tens of milliseconds, most of them waiting.
_REQUESTS = 32


def read_file(path: str, *, follow: bool) -> bytes:
    """Returns the contents of a regular file, at most `MAX_BYTES`.

    Args:
        path: where it is, on disk or at a URL.
        follow: whether it may be a link.

    Raises:
        Rejected: it is too large, unreadable, no regular file, or a link that is not followed.
    """
    if remote.is_remote(path):
        try:
            with storage.open_to_read(path) as file:
                return read_bounded(file)
        except OSError as error:
            raise Rejected("unreadable", error.strerror or str(error)) from None
    # The file may have changed since it was listed: opening a FIFO does not wait for a writer.
    flags = os.O_RDONLY | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    try:
        with os.fdopen(os.open(path, flags), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise Rejected("special file", "not a regular file")
            return read_bounded(file)
    except OSError as error:
        raise Rejected("unreadable", error.strerror or str(error)) from None


def stamp(url: str) -> tuple[int, int]:
    """Returns the size of a file and its time of change in nanoseconds; raises OSError."""
    with remote.gfile(url) as gfile:
        status = gfile.stat(url)
        return status.length, status.mtime_nsec


def stamps(urls: Sequence[str]) -> list[tuple[int, int] | OSError]:
    """Returns for each URL the size and the time of change, in nanoseconds, or what went wrong."""
    with concurrent.futures.ThreadPoolExecutor(_REQUESTS) as pool:
        return list(pool.map(_stamp_or_error, urls))


def _stamp_or_error(url: str) -> tuple[int, int] | OSError:
    try:
        return stamp(url)
    except OSError as error:
        return error
