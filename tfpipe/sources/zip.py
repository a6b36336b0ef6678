"""Read the members of a zip archive."""

import functools
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping

import numpy as np

from tfpipe.core import storage
from tfpipe.core.errors import UserError
from tfpipe.sources import member, name_encoding
from tfpipe.sources.file import is_file
from tfpipe.sources.source import (
    MAX_RATIO,
    RATIO_FREE_BYTES,
    Rejected,
    Source,
    check_size,
)
from tfpipe.sources.tar import Tar
from tfpipe.sources.zip_directory import ROW, Entry, ZipDirectory, fields

_UTF8 = 0x800  # the flag that marks a name as UTF-8
_UNICODE_PATH = 0x7075  # the extra field in which Info-ZIP repeats a name as UTF-8


class _Members(Mapping[str, tuple[int, int]]):
    """The size and checksum of each member by its name.

    Attributes:
        rows: a `zip_directory.ROW` array.
    """

    def __init__(self, places: dict[str, int], rows: np.ndarray):
        self._places, self.rows = places, rows

    def row(self, name: str) -> np.void | None:
        """Return the row of a member; None if it is not there."""
        place = self._places.get(name)
        return None if place is None else self.rows[place]

    def __getitem__(self, name: str) -> tuple[int, int]:
        row = self.rows[self._places[name]]
        return int(row["size"]), int(row["crc"])

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class Zip(Source):
    """Members of a zip archive, read in place.

    A name without a mark is UTF-8 if all such names of the archive are, else in the encoding that a
    person gives, else in cp437, as the format says.
    """

    kind = "a zip archive"

    @classmethod
    def fits(cls, path: str) -> bool:  # noqa: D102
        # `is_zipfile` reads the end of the file, where a tar archive may hold a zip archive.
        if not is_file(path) or Tar.fits(path):
            return False
        with storage.open_to_read(path) as file:
            return zipfile.is_zipfile(file)

    def read(self, name: str) -> bytes:  # noqa: D102
        return self.head(name, -1)

    def head(self, name: str, size: int) -> bytes:  # noqa: D102
        row = self._listing[0].row(name)
        if row is None:  # a worker opened the archive again
            raise Rejected("unreadable", "the archive has changed")
        length = int(row["size"])
        check_size(length)
        ratio = length / max(int(row["compressed"]), 1)
        if length > RATIO_FREE_BYTES and ratio > MAX_RATIO:
            raise Rejected(
                "too large", f"unpacks to {ratio:.0f} times its size; {MAX_RATIO} at most"
            )
        try:
            return self._directory.read(row, size)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise Rejected("damaged member", str(error)) from None
        except (OSError, ValueError) as error:
            raise Rejected("unreadable", str(error)) from None

    def prepare(self) -> None:  # noqa: D102
        _ = self._listing

    @property
    def _file(self) -> str:
        """The path or URL of the archive itself."""
        return self.path

    def warnings(self) -> list[str]:  # noqa: D102
        lines = super().warnings()
        if self._encoding != "utf-8" and any(not _is_certain(each) for each in self._entries()):
            shown = name_encoding.describe(self.entry_names())
            lines.append(
                f"{self.path}: its names are read as {self._encoding}: {shown}; if that is wrong,"
                " give their encoding, as in --name_encoding=gbk (big5, shift_jis, cp866, latin-1,"
                " ...)"
            )
        return lines

    def release(self) -> None:  # noqa: D102
        self.__dict__.pop("_listing", None)
        directory = self.__dict__.pop("_directory", None)
        if directory is not None:
            directory.close()

    def entry_names(self) -> list[str]:
        """Return the names of all entries, also of folders, in the archive's order."""
        return self._read_entries()[0]

    @functools.cached_property
    def _directory(self) -> ZipDirectory:
        """The directory of the open archive."""
        try:
            return ZipDirectory(storage.open_to_read(self._file))
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise self._damaged(error) from None

    def _entries(self) -> Iterator[Entry]:
        """Yield all entries; raise UserError if the archive is damaged."""
        try:
            for entry in self._directory:
                _marked_name(entry)
                yield entry
        # A hostile directory passes `is_zipfile` and raises any of these.
        except (zipfile.BadZipFile, struct.error, ValueError, NotImplementedError) as error:
            raise self._damaged(error) from None

    def _damaged(self, error: Exception) -> UserError:
        return UserError(f"{self.path} is a damaged zip archive ({error}): copy it again")

    @functools.cached_property
    def _encoding(self) -> str:
        """The encoding of the names that have no mark."""
        raw = (entry.name for entry in self._entries() if _marked_name(entry) is None)
        return self.options.name_encoding or ("utf-8" if name_encoding.is_utf8(raw) else "cp437")

    def _read_entries(self) -> tuple[list[str], np.ndarray]:
        """Return the name and the row of each entry."""
        encoding, rows = self._encoding, np.zeros(len(self._directory), ROW)
        marked, raw = [], []
        for place, entry in enumerate(self._entries()):
            marked.append(_marked_name(entry))
            if marked[-1] is None:
                raw.append(entry.name)
            rows[place] = entry[2:]
        unmarked = iter(name_encoding.decode(raw, encoding, self.path))
        names = [next(unmarked) if name is None else name for name in marked]
        names = [name.split("\0")[0] for name in names]
        if not any("/" in name for name in names):  # as some programs of Windows write them
            names = [name.replace("\\", "/") for name in names]
        return names, rows

    @functools.cached_property
    def _listing(self):
        names, rows = self._read_entries()
        places, skipped = {}, []
        is_link = (rows["attributes"] >> 16 & 0o170000) == stat.S_IFLNK
        links = {names[i] for i in np.flatnonzero(is_link).tolist() if not names[i].endswith("/")}
        columns = zip(names, rows["flags"].tolist(), rows["method"].tolist(), strict=True)
        for place, (name, flags, method) in enumerate(columns):
            if name.endswith("/") or member.is_ignored(name):
                continue
            refusal = member.refuse_name(name, links) or _refuse(name, flags, method)
            if refusal:
                skipped.append((name, *refusal))
                continue
            if name in places:
                skipped.append((name, *member.REPEATED))
            places[name] = place
        return _Members(places, rows), skipped


def _marked_name(entry: Entry) -> str | None:
    """Return the name of an entry if it is marked as UTF-8, by a flag or an extra field."""
    if entry.flags & _UTF8:
        return entry.name.decode()
    for kind, field in fields(entry.extra):
        # The checksum is that of the other name, which a program may have changed alone.
        mark = struct.pack("<BL", 1, zlib.crc32(entry.name))
        if kind == _UNICODE_PATH and field[:5] == mark:
            return field[5:].decode(errors="surrogateescape")
    return None


def _is_certain(entry: Entry) -> bool:
    """Return whether a name is the same in every encoding, or says its own."""
    return entry.name.isascii() or _marked_name(entry) is not None


def _refuse(name: str, flags: int, method: int) -> tuple[str, str] | None:
    """Return why a member with a safe name is refused, as (reason, detail), or None."""
    if flags & 0x1:
        return "encrypted", "unpack the archive with its password, and name the folder"
    if method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "unsupported", f"compression method {method}; use store or deflate"
    return member.NESTED if member.is_archive(name) else None
