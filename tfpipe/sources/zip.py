"""Members of a zip archive."""

import contextlib
import functools
import os
import stat
import struct
import zipfile
import zlib

from tfpipe.core.errors import UserError
from tfpipe.sources import member
from tfpipe.sources.source import (
    MAX_RATIO,
    RATIO_FREE_BYTES,
    Rejected,
    Source,
    check_size,
    read_bounded,
)
from tfpipe.sources.tar import Tar

# What precedes a member's contents: a header, whose last two fields say how long the name and the
# extra fields are that follow it (PKWARE's APPNOTE, 4.3.7). A time and an owner take 28 bytes.
_LOCAL_HEADER_BYTES = 30
_LOCAL_MAGIC = b"PK\3\4"
_EXTRA_BYTES = 64
_UTF8 = 0x800  # the flag of names that are not in code page 437


class Zip(Source):
    """Members of a zip archive, read in place."""

    kind = "a zip archive"

    @classmethod
    def fits(cls, path: str) -> bool:  # noqa: D102
        # `is_zipfile` looks at the end, where a tar archive may have a zip archive for a member.
        return os.path.isfile(path) and zipfile.is_zipfile(path) and not Tar.fits(path)

    def read(self, name: str) -> bytes:  # noqa: D102
        try:
            info = self._archive.getinfo(name)
        except KeyError:  # in a worker that opened the archive anew
            raise Rejected("unreadable", "the archive has changed") from None
        check_size(info.file_size)
        ratio = info.file_size / max(info.compress_size, 1)
        if info.file_size > RATIO_FREE_BYTES and ratio > MAX_RATIO:
            raise Rejected(
                "too large", f"unpacks to {ratio:.0f} times its size; {MAX_RATIO} at most"
            )
        if info.compress_type == zipfile.ZIP_STORED and (data := self._stored(info)) is not None:
            return data
        try:
            with self._archive.open(info) as file:  # checks the CRC at its end
                return read_bounded(file)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise Rejected("damaged member", str(error)) from None
        except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: encrypted after all
            raise Rejected("unreadable", str(error)) from None

    def _stored(self, info: zipfile.ZipInfo) -> bytes | None:
        """Reads a member that is not compressed, at a third of the time that zipfile takes.

        Returns:
            Its contents, or None if anything about it is unusual, of which zipfile knows more.
        """
        with contextlib.suppress(OSError, ValueError, AttributeError):  # not a file of the system
            name = info.orig_filename.encode("utf-8" if info.flag_bits & _UTF8 else "cp437")
            size = _LOCAL_HEADER_BYTES + len(name) + _EXTRA_BYTES + info.file_size
            data = os.pread(self._archive.fp.fileno(), size, info.header_offset)
            start = _LOCAL_HEADER_BYTES + len(name)
            lengths = struct.pack("<H", len(name))
            if data[:4] == _LOCAL_MAGIC and data[26:28] == lengths and data[30:start] == name:
                start += int.from_bytes(data[28:30], "little")
                body = data[start : start + info.file_size]
                if len(body) == info.file_size and zlib.crc32(body) == info.CRC:
                    return body
        return None

    def prepare(self) -> None:  # noqa: D102
        _ = self._archive

    def release(self) -> None:  # noqa: D102
        self.__dict__.pop("_listing", None)
        archive = self.__dict__.pop("_archive", None)  # some 600 bytes for each member
        if archive is not None:
            archive.close()

    @functools.cached_property
    def _archive(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        # A hostile central directory gets past `is_zipfile` and raises a variety of these.
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise UserError(
                f"{self.path} is a damaged zip archive ({error}): copy or download it again"
            ) from None

    @functools.cached_property
    def _listing(self):
        members, skipped = {}, []
        infos = [info for info in self._archive.infolist() if not info.is_dir()]
        links = {info.filename for info in infos if _is_link(info)}
        for info in infos:
            name = info.filename
            if member.is_ignored(name):
                continue
            refusal = member.refuse_name(name, links) or _refuse(info)
            if refusal:
                skipped.append((name, *refusal))
            elif name in members:
                skipped.append((name, *member.REPEATED))
            else:
                last = self._archive.getinfo(name)
                members[name] = (last.file_size, last.CRC)
        return members, skipped


def _refuse(info: zipfile.ZipInfo) -> tuple[str, str] | None:
    """Returns why a member of a safe name is not even tried, as (reason, detail), or None."""
    if info.flag_bits & 0x1:
        return "encrypted", "make the archive without a password"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "unsupported", f"compression method {info.compress_type}; use store or deflate"
    return member.NESTED if member.is_archive(info.filename) else None


def _is_link(info: zipfile.ZipInfo) -> bool:
    return stat.S_ISLNK(info.external_attr >> 16)
