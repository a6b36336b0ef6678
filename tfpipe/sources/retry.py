"""Read a file again if a disk or network fails for a moment."""

import time
from collections.abc import Iterator

from tfpipe.core.errors import Rejected
from tfpipe.records.rejects import UNREADABLE
from tfpipe.sources.source import Source

# Seconds before each further try.
WAITS = (0.1, 0.2, 0.4, 0.8)


def read(source: Source, name: str, waits: Iterator[float] | None = None) -> bytes:
    """Return the contents of a member.

    Args:
        source: of the member.
        name: of the member.
        waits: seconds before each further try; None for `WAITS`.

    Raises:
        Rejected: the member cannot be read, or not be used.
    """
    waits = iter(WAITS) if waits is None else waits
    while True:
        try:
            return source.read(name)
        except Rejected as rejected:
            seconds = next(waits, None) if rejected.reason == UNREADABLE else None
            if seconds is None:
                raise
        time.sleep(seconds)
