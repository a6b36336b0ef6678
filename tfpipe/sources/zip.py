"""Read the members of a zip archive."""

import functools
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator

import numpy as np

from tfpipe.core import storage
from tfpipe.core.errors import UserError
from tfpipe.sources import member, name_encoding
from tfpipe.sources.file import is_file
from tfpipe.sources.members import Members
from tfpipe.sources.source import (
    MAX_RATIO,
    RATIO_FREE_BYTES,
    Rejected,
    Source,
    check_size,
)
from tfpipe.sources.tar import Tar
from tfpipe.sources.zip_directory import ROW, Entry, ZipDirectory, ZipMember, fields

_UTF8 = 0x800  # the flag that marks a name as UTF-8
_UNICODE_PATH = 0x7075  # the extra field in which Info-ZIP repeats a name as UTF-8


class Zip(Source):
    """Members of a zip archive, read in place.

    A name without a mark is UTF-8 if all such names of the archive are, else in the encoding that a
    person gives, else in cp437, as the format says.
    """

    kind = "a zip archive"
    _guessed = ""  # the encoding of names that do not say theirs, if it matters

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
        place = self._listing[0].places.get(name)
        if place is None:  # a worker opened the archive again
            raise Rejected("unreadable", "the archive has changed")
        found = ZipMember(*self._rows.item(place))
        check_size(found.size)
        ratio = found.size / max(found.compressed, 1)
        if found.size > RATIO_FREE_BYTES and ratio > MAX_RATIO:
            raise Rejected(
                "too large", f"unpacks to {ratio:.0f} times its size; {MAX_RATIO} at most"
            )
        try:
            return self._directory.read(found, size)
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
        if self._guessed:
            shown = name_encoding.describe(self.entry_names())
            lines.append(
                f"{self.path}: its names are read as {self._guessed}: {shown}; if that is wrong,"
                " give their encoding, as in --name_encoding=gbk (big5, shift_jis, cp866, latin-1,"
                " ...)"
            )
        return lines

    def release(self) -> None:  # noqa: D102
        for name in ("_listing", "_rows"):
            self.__dict__.pop(name, None)
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

    def _entries(self) -> Iterator[tuple[Entry, str | None]]:
        """Yield all entries, and their names if marked; raise UserError if they are damaged."""
        try:
            for entry in self._directory:
                yield entry, _marked_name(entry)
        # A hostile directory passes `is_zipfile` and raises any of these.
        except (zipfile.BadZipFile, struct.error, ValueError, NotImplementedError) as error:
            raise self._damaged(error) from None

    def _damaged(self, error: Exception) -> UserError:
        return UserError(f"{self.path} is a damaged zip archive ({error}): copy it again")

    def _read_entries(self) -> tuple[list[str], np.ndarray]:
        """Return the name and the row of each entry."""
        marked: list[str | None] = []
        raw: list[bytes] = []

        def members() -> Iterator[ZipMember]:
            for entry, name in self._entries():
                marked.append(name)
                if name is None:
                    raw.append(entry.name)
                yield entry.member

        rows = np.fromiter(members(), ROW)
        encoding = self.options.name_encoding or (
            "utf-8" if name_encoding.is_utf8(raw) else "cp437"
        )
        is_sure = encoding == "utf-8" or all(map(bytes.isascii, raw))
        self._guessed = "" if is_sure else encoding
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
        self._rows = rows
        numbers = (memoryview(np.ascontiguousarray(rows[name])) for name in ("size", "crc"))
        return Members(places, *numbers), skipped


def _marked_name(entry: Entry) -> str | None:
    """Return the name of an entry if it is marked as UTF-8, by a flag or an extra field."""
    if entry.member.flags & _UTF8:
        return entry.name.decode()
    for kind, field in fields(entry.extra):
        # The checksum is that of the other name, which a program may have changed alone.
        mark = struct.pack("<BL", 1, zlib.crc32(entry.name))
        if kind == _UNICODE_PATH and field[:5] == mark:
            return field[5:].decode(errors="surrogateescape")
    return None


def _refuse(name: str, flags: int, method: int) -> tuple[str, str] | None:
    """Return why a member with a safe name is refused, as (reason, detail), or None."""
    if flags & 0x1:
        return "encrypted", "unpack the archive with its password, and name the folder"
    if method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "unsupported", f"compression method {method}; use store or deflate"
    return member.NESTED if member.is_archive(name) else None
