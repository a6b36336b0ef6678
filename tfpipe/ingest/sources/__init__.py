"""Where files come from: a folder, archive, list or TFRecords, read member by member.

A source knows nothing of images. Its members are named by their path relative to the source's
root, with `/` between folders. What cannot or must not be read is not dropped silently: it is
listed in `skipped`, or `read` raises `Rejected`.

To add a kind of source, write a subclass of `Source` in a file of its own and enter it in `KINDS`.
"""

import os

from tfpipe.errors import UserError
from tfpipe.ingest.sources.folder import Folder
from tfpipe.ingest.sources.listing import Listing
from tfpipe.ingest.sources.member import ARCHIVE_SUFFIXES
from tfpipe.ingest.sources.records import COPY, Records
from tfpipe.ingest.sources.source import (
    MAX_BYTES,
    MAX_RATIO,
    RATIO_FREE_BYTES,
    Rejected,
    Source,
)
from tfpipe.ingest.sources.tar import Tar
from tfpipe.ingest.sources.zip import Zip

__all__ = [
    "ARCHIVE_SUFFIXES",
    "COPY",
    "KINDS",
    "MAX_BYTES",
    "MAX_RATIO",
    "RATIO_FREE_BYTES",
    "Folder",
    "Listing",
    "Records",
    "Rejected",
    "Source",
    "Tar",
    "Zip",
    "open_source",
]

# In the order in which they are tried: a folder of TFRecords is a folder too.
KINDS: tuple[type[Source], ...] = (Records, Folder, Zip, Tar, Listing)


def open_source(path: str) -> Source:
    """Opens a folder, an archive, a list or TFRecords for reading.

    Raises:
        UserError: `path` does not exist, is of no known kind, or holds no file that can be read.
    """
    allowed = " or ".join(kind.kind for kind in KINDS)
    if not os.path.exists(path):
        raise UserError(
            f"{path!r} does not exist, or its folder may not be read: name {allowed} with images"
        )
    found = next((kind for kind in KINDS if kind.fits(path)), None)
    if found is None:
        raise UserError(
            f"{path!r} is not {allowed}, or it is damaged or unreadable: name {allowed} with images"
        )
    source = found(path)
    if not source.names():
        skipped = source.skipped
        first = f", only {skipped[0][0]!r} ({skipped[0][1]})" if skipped else ""
        raise UserError(
            f"{path!r} holds no files that can be read{first}: name {allowed} with images"
        )
    return source
