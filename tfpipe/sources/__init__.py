"""Read files one by one from a folder, an archive, a list or TFRecords.

A source does not decode images. The name of a member is its path relative to the source's root,
with `/` between folders. Nothing is dropped silently: `skipped` lists what cannot or must not be
read, or `read` raises `Rejected`.

To add a kind of source, write a subclass of `Source` in its own file and add it to `KINDS`.
"""

from tfpipe.core import storage
from tfpipe.core.errors import UserError
from tfpipe.sources import hub, record_keys
from tfpipe.sources.folder import Folder, RemoteFolder
from tfpipe.sources.listing import Listing
from tfpipe.sources.member import ARCHIVE_SUFFIXES
from tfpipe.sources.parquet import Parquet
from tfpipe.sources.source import (
    MAX_BYTES,
    MAX_RATIO,
    RATIO_FREE_BYTES,
    Annotation,
    Rejected,
    Source,
)
from tfpipe.sources.tar import Tar
from tfpipe.sources.tfrecords import COPY, TFRecords
from tfpipe.sources.zip import Zip

__all__ = [
    "ARCHIVE_SUFFIXES",
    "COPY",
    "KINDS",
    "MAX_BYTES",
    "MAX_RATIO",
    "RATIO_FREE_BYTES",
    "Annotation",
    "Folder",
    "Listing",
    "Parquet",
    "Rejected",
    "RemoteFolder",
    "Source",
    "TFRecords",
    "Tar",
    "Zip",
    "open_source",
]

# Tried in this order: a folder of TFRecords or Parquet files is a folder too.
KINDS: tuple[type[Source], ...] = (
    TFRecords,
    Parquet,
    Folder,
    RemoteFolder,
    Zip,
    Tar,
    Listing,
)


def open_source(path: str, keys: record_keys.Keys = record_keys.ANY) -> Source:
    """Open a folder, an archive, a list, TFRecords or Parquet files.

    Args:
        path: path or URL of a file or folder; or `tfds:NAME` or `hf:NAME`.
        keys: of records that other programs wrote.

    Raises:
        UserError: `path` does not exist, is of no known kind, or holds no file that can be read.
    """
    try:
        return _open(hub.fetch(path), keys)
    except OSError as error:
        raise UserError(
            f"{path!r} cannot be read ({error.strerror}): name another source, or a local copy"
        ) from None


def _open(path: str, keys: record_keys.Keys) -> Source:
    allowed = " or ".join(dict.fromkeys(kind.kind for kind in KINDS))
    if not storage.exists(path):
        raise UserError(
            f"{path!r} does not exist, or its folder is not readable: name {allowed} with images"
        )
    found = next((kind for kind in KINDS if kind.fits(path)), None)
    if found is None:
        raise UserError(
            f"{path!r} is not {allowed}, or it is damaged or unreadable: name {allowed} with images"
        )
    source = found(path)
    source.keys = keys
    if not source.names():
        skipped = source.skipped
        first = f", only {skipped[0][0]!r} ({skipped[0][1]}: {skipped[0][2]})" if skipped else ""
        raise UserError(
            f"{path!r} holds no files that can be read{first}: name {allowed} with images"
        )
    return source
