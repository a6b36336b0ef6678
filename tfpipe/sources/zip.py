"""Read the members of a zip archive."""

import functools
import stat
import struct
import zipfile
import zlib
from typing import NamedTuple

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
    read_bounded,
)
from tfpipe.sources.tar import Tar

_UTF8 = 0x800  # the flag that marks a name as UTF-8
_UNICODE_PATH = 0x7075  # the extra field in which Info-ZIP repeats a name as UTF-8


class _Names(NamedTuple):
    """The names of all entries, in their order, and the encoding of those that have no mark."""

    names: list[str]
    encoding: str


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
        info = self.entries.get(name)
        if info is None:  # a worker opened the archive again
            raise Rejected("unreadable", "the archive has changed")
        check_size(info.file_size)
        ratio = info.file_size / max(info.compress_size, 1)
        if info.file_size > RATIO_FREE_BYTES and ratio > MAX_RATIO:
            raise Rejected(
                "too large", f"unpacks to {ratio:.0f} times its size; {MAX_RATIO} at most"
            )
        try:
            with self.archive.open(info) as file:  # checks the CRC at its end
                return read_bounded(file) if size < 0 else file.read(size)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise Rejected("damaged member", str(error)) from None
        except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: encrypted after all
            raise Rejected("unreadable", str(error)) from None

    def prepare(self) -> None:  # noqa: D102
        _ = self.entries

    @property
    def _file(self) -> str:
        """The path or URL of the archive itself."""
        return self.path

    def warnings(self) -> list[str]:  # noqa: D102
        names, encoding = self._names
        lines = super().warnings()
        if encoding:
            shown = name_encoding.describe(names)
            lines.append(
                f"{self.path}: its names are read as {encoding}: {shown}; if that is wrong, give"
                " their encoding, as in --name_encoding=gbk (big5, shift_jis, cp866, latin-1, ...)"
            )
        return lines

    def release(self) -> None:  # noqa: D102
        for name in ("_listing", "entries", "_names"):
            self.__dict__.pop(name, None)
        archive = self.__dict__.pop("archive", None)  # about 600 bytes for each member
        if archive is not None:
            archive.close()

    @functools.cached_property
    def archive(self) -> zipfile.ZipFile:
        """The open archive; raises UserError if it is damaged."""
        try:
            return zipfile.ZipFile(storage.open_to_read(self._file))
        # A hostile central directory passes `is_zipfile` and raises any of these.
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise UserError(
                f"{self.path} is a damaged zip archive ({error}): copy it again"
            ) from None

    @functools.cached_property
    def _names(self) -> _Names:
        infos = self.archive.infolist()
        marked = [_marked_name(info) for info in infos]
        raw = [
            info.orig_filename.encode("cp437")
            for info, name in zip(infos, marked, strict=True)
            if name is None
        ]
        encoding = self.options.name_encoding or (
            "utf-8" if name_encoding.is_utf8(raw) else "cp437"
        )
        unmarked = iter(name_encoding.decode(raw, encoding, self.path))
        names = [next(unmarked) if name is None else name for name in marked]
        names = [name.split("\0")[0] for name in names]
        if not any("/" in name for name in names):  # as some programs of Windows write them
            names = [name.replace("\\", "/") for name in names]
        is_certain = encoding == "utf-8" or all(map(bytes.isascii, raw))
        return _Names(names, "" if is_certain else encoding)

    @functools.cached_property
    def entries(self) -> dict[str, zipfile.ZipInfo]:
        """The last entry of each name."""
        return dict(zip(self._names.names, self.archive.infolist(), strict=True))

    @functools.cached_property
    def _listing(self):
        members, skipped = {}, []
        entries = zip(self._names.names, self.archive.infolist(), strict=True)
        files = [(name, info) for name, info in entries if not name.endswith("/")]
        links = {name for name, info in files if _is_link(info)}
        for name, info in files:
            if member.is_ignored(name):
                continue
            refusal = member.refuse_name(name, links) or _refuse(name, info)
            if refusal:
                skipped.append((name, *refusal))
            elif name in members:
                skipped.append((name, *member.REPEATED))
            else:
                last = self.entries[name]
                members[name] = (last.file_size, last.CRC)
        return members, skipped


def _marked_name(info: zipfile.ZipInfo) -> str | None:
    """Return the name of an entry if it is marked as UTF-8, by a flag or an extra field."""
    if info.flag_bits & _UTF8:
        return info.orig_filename
    checksum = zlib.crc32(info.orig_filename.encode("cp437"))
    extra = info.extra
    while len(extra) >= 4:
        kind, size = struct.unpack("<HH", extra[:4])
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        # The checksum is that of the other name, which a program may have changed alone.
        if kind == _UNICODE_PATH and field[:5] == struct.pack("<BL", 1, checksum):
            return field[5:].decode(errors="surrogateescape")
    return None


def _refuse(name: str, info: zipfile.ZipInfo) -> tuple[str, str] | None:
    """Return why a member with a safe name is refused, as (reason, detail), or None."""
    if info.flag_bits & 0x1:
        return "encrypted", "unpack the archive with its password, and name the folder"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "unsupported", f"compression method {info.compress_type}; use store or deflate"
    return member.NESTED if member.is_archive(name) else None


def _is_link(info: zipfile.ZipInfo) -> bool:
    return stat.S_ISLNK(info.external_attr >> 16)
