"""Where files come from: a folder, archive, list or TFRecords, read member by member.

A source knows nothing of images. Its members are named by their path relative to the source's
root, with `/` between folders. What cannot or must not be read is not dropped silently: it is
listed in `skipped`, or `read` raises `Rejected`.

To add a kind of source, write a subclass of `Source` in a file of its own and enter it in `KINDS`,
or in `REMOTE_KINDS` if it lies at a URL.
"""

from tfpipe.core import remote, storage
from tfpipe.core.errors import UserError
from tfpipe.sources.folder import Folder
from tfpipe.sources.listing import Listing
from tfpipe.sources.member import ARCHIVE_SUFFIXES
from tfpipe.sources.source import MAX_BYTES, MAX_RATIO, RATIO_FREE_BYTES, Rejected, Source
from tfpipe.sources.tar import Tar
from tfpipe.sources.tfrecords import COPY, TFRecords
from tfpipe.sources.url import RemoteFolder, RemoteListing, RemoteTar, RemoteTFRecords, RemoteZip
from tfpipe.sources.zip import Zip

__all__ = [
    "ARCHIVE_SUFFIXES",
    "COPY",
    "KINDS",
    "MAX_BYTES",
    "MAX_RATIO",
    "RATIO_FREE_BYTES",
    "REMOTE_KINDS",
    "Folder",
    "Listing",
    "Rejected",
    "RemoteFolder",
    "RemoteListing",
    "RemoteTFRecords",
    "RemoteTar",
    "RemoteZip",
    "Source",
    "TFRecords",
    "Tar",
    "Zip",
    "open_source",
]

# In the order in which they are tried: a folder of TFRecords is a folder too.
KINDS: tuple[type[Source], ...] = (TFRecords, Folder, Zip, Tar, Listing)
REMOTE_KINDS: tuple[type[Source], ...] = (
    RemoteTFRecords,
    RemoteFolder,
    RemoteListing,
    RemoteZip,
    RemoteTar,
)


def open_source(path: str) -> Source:
    """Opens a folder, an archive, a list or TFRecords for reading.

    Args:
        path: of a file or folder, or a URL of one.

    Raises:
        UserError: `path` does not exist, is of no known kind, or holds no file that can be read.
    """
    if not remote.is_remote(path):
        return _open(path, KINDS)
    try:
        return _open(path, REMOTE_KINDS)
    except OSError as error:
        raise UserError(
            f"{path!r} cannot be read ({error.strerror}): name another, or a copy on this machine"
        ) from None


def _open(path: str, kinds: tuple[type[Source], ...]) -> Source:
    allowed = " or ".join(kind.kind for kind in kinds)
    if not storage.exists(path):
        raise UserError(
            f"{path!r} does not exist, or its folder may not be read: name {allowed} with images"
        )
    found = next((kind for kind in kinds if kind.fits(path)), None)
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
