"""Read the members of a zip archive."""

import functools
import stat
import zipfile
import zlib

from tfpipe.core import storage
from tfpipe.core.errors import UserError
from tfpipe.sources import member
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


class Zip(Source):
    """Members of a zip archive, read in place."""

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
        try:
            info = self._archive.getinfo(name)
        except KeyError:  # a worker opened the archive again
            raise Rejected("unreadable", "the archive has changed") from None
        check_size(info.file_size)
        ratio = info.file_size / max(info.compress_size, 1)
        if info.file_size > RATIO_FREE_BYTES and ratio > MAX_RATIO:
            raise Rejected(
                "too large", f"unpacks to {ratio:.0f} times its size; {MAX_RATIO} at most"
            )
        try:
            with self._archive.open(info) as file:  # checks the CRC at its end
                return read_bounded(file) if size < 0 else file.read(size)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise Rejected("damaged member", str(error)) from None
        except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: encrypted after all
            raise Rejected("unreadable", str(error)) from None

    def prepare(self) -> None:  # noqa: D102
        _ = self._archive

    def release(self) -> None:  # noqa: D102
        self.__dict__.pop("_listing", None)
        archive = self.__dict__.pop("_archive", None)  # about 600 bytes for each member
        if archive is not None:
            archive.close()

    @functools.cached_property
    def _archive(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(storage.open_to_read(self.path))
        # A hostile central directory passes `is_zipfile` and raises any of these.
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise UserError(
                f"{self.path} is a damaged zip archive ({error}): copy it again"
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
    """Return why a member with a safe name is refused, as (reason, detail), or None."""
    if info.flag_bits & 0x1:
        return "encrypted", "create the archive without a password"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "unsupported", f"compression method {info.compress_type}; use store or deflate"
    return member.NESTED if member.is_archive(info.filename) else None


def _is_link(info: zipfile.ZipInfo) -> bool:
    return stat.S_ISLNK(info.external_attr >> 16)
