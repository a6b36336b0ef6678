"""One file on disk, read whole and with care."""

import os
import stat

from tfpipe.ingest.sources.source import Rejected, read_bounded


def read_file(path: str, *, follow: bool) -> bytes:
    """Returns the contents of a regular file, at most `MAX_BYTES`.

    Args:
        path: where it is.
        follow: whether it may be a link.

    Raises:
        Rejected: it is too large, unreadable, no regular file, or a link that is not followed.
    """
    # The file may have changed since it was listed: opening a FIFO does not wait for a writer.
    flags = os.O_RDONLY | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    try:
        with os.fdopen(os.open(path, flags), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise Rejected("special file", "not a regular file")
            return read_bounded(file)
    except OSError as error:
        raise Rejected("unreadable", error.strerror or str(error)) from None
