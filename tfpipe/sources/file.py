"""Read one whole file, from a disk or a URL, and guard against links, pipes and huge files."""

import concurrent.futures
import os
import stat
from collections.abc import Sequence

from tfpipe.core import remote, storage
from tfpipe.core.errors import Rejected
from tfpipe.sources.source import read_bounded

# Parallel requests; each takes tens of milliseconds, mostly waiting.
_REQUESTS = 32


def read_file(path: str, *, follow: bool, size: int = -1) -> bytes:
    """Return the contents of a regular file of at most `MAX_BYTES`.

    Args:
        path: path or URL.
        follow: whether to follow a link.
        size: of the beginning that is read, in bytes; -1 for the whole file.

    Raises:
        Rejected: the file is too large, unreadable, not a regular file, or a link.
    """
    if remote.is_remote(path):
        try:
            with storage.open_to_read(path) as file:
                return read_bounded(file) if size < 0 else file.read(size)
        except OSError as error:
            raise Rejected("unreadable", error.strerror or str(error)) from None
    # The file may have become a pipe since it was listed; O_NONBLOCK does not wait for a writer.
    flags = os.O_RDONLY | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    try:
        with os.fdopen(os.open(path, flags), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise Rejected("special file", "not a regular file")
            return read_bounded(file) if size < 0 else file.read(size)
    except OSError as error:
        raise Rejected("unreadable", error.strerror or str(error)) from None


def is_file(path: str) -> bool:
    """Return whether a path or URL is a regular file."""
    try:
        storage.size(path)
    except OSError:
        return False
    return True


def is_folder(path: str) -> bool:
    """Return whether a path or URL is a folder."""
    if not remote.is_remote(path):
        return os.path.isdir(path)
    with remote.gfile(path) as files:
        return files.isdir(path)


def stamps(urls: Sequence[str]) -> list[tuple[int, int] | OSError]:
    """Return `storage.stamp` of each URL, or its error."""
    with concurrent.futures.ThreadPoolExecutor(_REQUESTS) as pool:
        return list(pool.map(_stamp_or_error, urls))


def _stamp_or_error(url: str) -> tuple[int, int] | OSError:
    try:
        return storage.stamp(url)
    except OSError as error:
        return error
