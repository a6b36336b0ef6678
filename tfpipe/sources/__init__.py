"""Read files one by one from a folder, an archive, a list or TFRecords.

A source does not decode images. The name of a member is its path relative to the source's root,
with `/` between folders. Nothing is dropped silently: `skipped` lists what cannot or must not be
read, or `read` raises `Rejected`.

To add a kind of source, write a subclass of `Source` in its own file and add it to `KINDS`.
"""

import collections
import dataclasses
import os
from collections.abc import Sequence

from tfpipe.core import remote, storage, terminal
from tfpipe.core.errors import UserError
from tfpipe.sources import foreign, hub, member
from tfpipe.sources.file import is_folder
from tfpipe.sources.folder import Folder, RemoteFolder
from tfpipe.sources.inner_zip import InnerZip
from tfpipe.sources.joined import JoinedSource
from tfpipe.sources.list_columns import Columns
from tfpipe.sources.listing import Listing
from tfpipe.sources.member import ARCHIVE_SUFFIXES, COPY
from tfpipe.sources.options import DEFAULTS, Options
from tfpipe.sources.options import check as check_options
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
from tfpipe.sources.tfrecords import TFRecords
from tfpipe.sources.zip import Zip

__all__ = [
    "ARCHIVE_SUFFIXES",
    "COPY",
    "KINDS",
    "MAX_BYTES",
    "MAX_RATIO",
    "RATIO_FREE_BYTES",
    "Annotation",
    "Columns",
    "Folder",
    "InnerZip",
    "JoinedSource",
    "Listing",
    "Options",
    "Parquet",
    "Rejected",
    "RemoteFolder",
    "Source",
    "TFRecords",
    "Tar",
    "Zip",
    "join",
    "open_source",
    "open_sources",
]

# Tried in this order: a folder of TFRecords or Parquet files is a folder too.
KINDS: tuple[type[Source], ...] = (
    *(TFRecords, Parquet, Folder, RemoteFolder, Zip, InnerZip, Tar, Listing),
)


def open_sources(
    paths: Sequence[str] | str, options: Options = DEFAULTS, columns: Columns | None = None
) -> tuple[Source, ...]:
    """Open sources that add up, and say how each is understood.

    Args:
        paths: paths or URLs; or a single one.
        options: how to read them.
        columns: the columns of lists that a person names; None if labels are not needed.

    Raises:
        UserError: see `open_source`; or two paths lead to the same files.
    """
    check_options(options)
    paths = [paths] if isinstance(paths, str) else paths
    _check_distinct(paths)
    # The flags of a command are more than a source needs, and workers get a copy.
    own = Options(*(getattr(options, field.name) for field in dataclasses.fields(Options)))
    opened = tuple(open_source(path, own) for path in paths)
    _check_files(opened)
    for source in opened:
        for line in source.notes(columns):
            terminal.say(line)
        for line in source.warnings():
            terminal.warn(line)
    return opened


def join(opened: Sequence[Source]) -> Source:
    """Return one source with the files of all."""
    return opened[0] if len(opened) == 1 else JoinedSource(opened)


def open_source(path: str, options: Options = DEFAULTS) -> Source:
    """Open a folder, an archive, a list, TFRecords or Parquet files.

    Args:
        path: path or URL of a file or folder; or `tfds:NAME` or `hf:NAME`.
        options: how to read it.

    Raises:
        UserError: `path` does not exist, is of no known kind, or holds no file that can be read.
    """
    try:
        return _open(hub.fetch(path), options)
    except OSError as error:
        raise UserError(
            f"{path!r} cannot be read ({error.strerror}): name another source, or a local copy"
        ) from None


def _open(path: str, options: Options) -> Source:
    allowed = " or ".join(dict.fromkeys(kind.kind for kind in KINDS))
    if not (storage.exists(path) or InnerZip.fits(path)):
        raise UserError(
            f"{path!r} does not exist, or its folder is not readable: name {allowed} with images"
        )
    found = next((kind for kind in KINDS if kind.fits(path)), None)
    if found is None:
        if what := foreign.describe(path):
            raise UserError(f"{path!r} is {what}")
        raise UserError(
            f"{path!r} is not {allowed}, or it is damaged or unreadable: name {allowed} with images"
        )
    source = found(path, options)
    names, skipped = source.names(), source.skipped
    if "[Content_Types].xml" in names:
        raise UserError(f"{path!r} is an Office document: save the table as CSV in UTF-8")
    archives = [name for name, reason, _ in skipped if reason == member.NESTED[0]]
    if archives and all(map(member.is_document, names)):
        raise UserError(_only_archives(source, archives))
    if not names and not skipped:
        raise UserError(f"{path!r} holds no files that can be read: name {allowed} with images")
    if not names:
        counts = collections.Counter(reason for _, reason, _ in skipped)
        others = ", ".join(f"{count:,} {reason}" for reason, count in counts.items())
        raise UserError(
            f"{path!r} holds no files that can be read, only others ({others}), the first"
            f" {skipped[0][0]!r}: {skipped[0][2]}"
        )
    return source


def _only_archives(source: Source, archives: Sequence[str]) -> str:
    """Return the message for a source that holds archives in place of images."""
    first = next((name for name in archives if "train" in name.lower()), archives[0])
    some = ", ".join(map(repr, archives[:5])) + ", ..." * (len(archives) > 5)
    text = f"{source.path!r} holds no images, but archives: {some}"
    readable = isinstance(source, Folder | RemoteFolder) or (
        type(source) is Zip and first.lower().endswith(".zip")
    )
    if readable:
        return f"{text}: name one of them, as in `source={source.locate(first)}`"
    return f"{text}: unpack it, and name one of them, as in `source={os.path.basename(first)}`"


def _check_distinct(paths: Sequence[str]) -> None:
    """Raise UserError if a path, in any spelling, is given twice or lies in another folder."""
    places = [
        path.rstrip("/") if remote.is_remote(path) else os.path.realpath(path) for path in paths
    ]
    for number, place in enumerate(places):
        for other, other_place in enumerate(places[:number]):
            if place == other_place:
                raise UserError(
                    f"`source={paths[number]}` is the same as `source={paths[other]}`: name it once"
                )
        for other, other_place in enumerate(places):
            inside = place.startswith(f"{other_place}/")
            if inside and is_folder(paths[number]) and is_folder(paths[other]):
                raise UserError(
                    f"`source={paths[number]}` lies in `source={paths[other]}`, and would be read"
                    " twice: name one of them"
                )


def _check_files(opened: Sequence[Source]) -> None:
    """Raise UserError if a list names a file that another source holds."""
    if len(opened) < 2 or not any(isinstance(source, Listing) for source in opened):
        return
    found: dict[str, Source] = {}
    for source in opened:
        for name in source.names() if isinstance(source, Folder | Listing) else ():
            place = os.path.abspath(source.locate(name))
            other = found.setdefault(place, source)
            if other is not source:
                raise UserError(
                    f"{place} is in `source={other.path}` and in `source={source.path}`: name one"
                    " of them; a list that labels the files of other sources belongs in"
                    " `labels=csv:FILE`"
                )
