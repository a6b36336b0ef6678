"""Members of a tar archive, compressed or not."""

import bz2
import contextlib
import functools
import gzip
import lzma
import os
import pathlib
import tarfile
import tempfile
import weakref
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from tfpipe.core.errors import Rejected, UserError
from tfpipe.sources import member
from tfpipe.sources.source import MAX_RATIO, RATIO_FREE_BYTES, Source, check_size

_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz"}

# What precedes one member's contents: a long name has 4 KB, extended attributes may have 64. A
# hostile header declares any length, and tarfile would read it into memory.
_HEADER_BYTES = 256 * 2**10

_XZ_MEMORY = 256 * 2**20  # `xz -9` needs 65 MB to unpack; a file may ask for gigabytes

_BLOCK_BYTES = 2**20
TAR_BLOCK = 512


class Tar(Source):
    """Members of a tar archive, read in place at their offset; links and devices are skipped.

    A compressed archive cannot be read at an offset. It is unpacked once, as one tar file and not
    member by member, to a temporary file ($TMPDIR), which costs the time to unpack it and the
    disk space of the whole, at most `MAX_RATIO` times its size; memory stays flat. Copies in other
    processes share that file. It is removed with the source that made it, at the latest when the
    process ends; a killed process (SIGKILL, SIGTERM) leaves it behind.

    A tar archive has no checksums of its contents: a changed byte is left to the image's decoder.
    """

    kind = "a tar archive"

    def __init__(self, path: str, unpacked: str = ""):
        super().__init__(path)
        self._unpacked = unpacked

    def __reduce__(self):
        return type(self), (self.path, self._unpacked)

    @classmethod
    def fits(cls, path: str) -> bool:  # noqa: D102
        if not os.path.isfile(path):
            return False
        try:
            with open(path, "rb") as file:
                head = file.read(TAR_BLOCK)
        except OSError:
            return False
        return begins_archive(head)

    def prepare(self) -> None:  # noqa: D102
        _ = self._listing

    def read(self, name: str) -> bytes:  # noqa: D102
        if name not in self._listing[0]:  # in a worker that opened the archive anew
            raise Rejected("unreadable", "the archive has changed")
        offset, size, _ = self._listing[0][name]
        check_size(size)
        try:
            data = self._read_at(offset, size)
        except OSError as error:
            raise Rejected("unreadable", error.strerror or str(error)) from None
        if len(data) < size:
            raise Rejected("damaged member", "the archive ends before it does")
        return data

    def _read_at(self, offset: int, size: int) -> bytes:
        return os.pread(self._file.fileno(), size, offset)

    def _modified(self) -> int:
        return os.stat(self.path).st_mtime_ns

    @functools.cached_property
    def _file(self) -> BinaryIO:
        """The archive, open, not compressed."""
        try:
            with open(self.path, "rb") as file:
                compression = compression_of(file.read(TAR_BLOCK))
            if compression and not self._unpacked:
                self._unpacked = _unpack(self.path, compression)
                weakref.finalize(self, _remove, self._unpacked)
            file = open(self._unpacked or self.path, "rb")  # noqa: SIM115 (closed below)
        except OSError as error:
            raise UserError(
                f"{error.filename or self.path}: {error.strerror}, when reading {self.path}:"
                " run the command again when nothing removes or locks it"
            ) from None
        weakref.finalize(self, file.close)
        return file

    @functools.cached_property
    def _listing(self):
        members, skipped = {}, []
        try:
            modified = self._modified()
            infos = list(_infos(self._file))
        # Hostile headers raise a variety of these.
        except (_Damaged, tarfile.TarError, ValueError, OSError, OverflowError) as error:
            raise _damaged(self.path, error) from None
        links = {name for name, info in infos if info.issym()}
        for name, info in infos:
            if info.isdir() or member.is_ignored(name):
                continue
            refusal = member.refuse_name(name, links) or _refuse(info)
            if refusal:
                skipped.append((name, *refusal))
                continue
            if name in members:
                skipped.append((name, *member.REPEATED))
            members[name] = (info.offset_data, info.size, modified)
        return members, skipped


class _Damaged(Exception):  # noqa: N818 (always turned into a UserError)
    pass


class _Headers:
    """A tar archive for tarfile to read headers from, at most `_HEADER_BYTES` until `renew`."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._left = _HEADER_BYTES
        self.seek, self.tell = file.seek, file.tell

    def renew(self) -> None:
        self._left = _HEADER_BYTES

    def read(self, size: int) -> bytes:
        self._left -= size
        if size < 0 or self._left < 0:
            raise _Damaged(f"a header of more than {_HEADER_BYTES} bytes")
        return self._file.read(size)


def _infos(file: BinaryIO) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """Yields every member's name, without "./", and description; contents are not read."""
    file.seek(0)
    headers = _Headers(file)
    with tarfile.open(fileobj=headers, mode="r:") as archive:
        end = -1
        while (info := archive.next()) is not None:
            if archive.offset <= end:  # a negative size would lead back, again and again
                raise _Damaged(f"the header before byte {end} has a wrong size")
            end = archive.offset
            archive.members.clear()  # or it keeps all of them, to no use
            info.pax_headers = {}
            headers.renew()
            yield str(pathlib.PurePosixPath(info.name)), info
        end = archive.offset
    # tarfile takes whatever is not a header for the end, which would lose all that follows.
    file.seek(end)
    tail = file.read(_BLOCK_BYTES)
    if len(tail) < TAR_BLOCK:
        raise _Damaged("it has no end mark, as if it had been cut")
    if any(tail):
        raise _Damaged(f"what follows byte {end} is neither a header nor the end")


def _refuse(info: tarfile.TarInfo) -> tuple[str, str] | None:
    """Returns why a member of a safe name is not even tried, as (reason, detail), or None."""
    if info.islnk():
        return "hard link", "links are not followed; make the archive with tar --hard-dereference"
    if info.isdev():
        return "special file", "not a regular file"
    if not info.isreg() or info.issparse():
        return "unsupported", f"a member of type {info.type!r}; make the archive without --sparse"
    return member.NESTED if member.is_archive(info.name) else None


def begins_archive(head: bytes) -> bool:
    """Returns whether a file is a tar archive, compressed or not, by its first block."""
    if compression_of(head):
        return True
    try:
        tarfile.TarInfo.frombuf(head, tarfile.ENCODING, "surrogateescape")
    except tarfile.HeaderError:
        return len(head) == TAR_BLOCK and not any(head)  # an archive without members
    return True


def compression_of(head: bytes) -> str:
    """Returns how a file is compressed, by its first bytes, or ""."""
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "")


def _unpack(path: str, compression: str) -> str:
    """Decompresses an archive to a temporary file and returns its path.

    Raises:
        UserError: the archive is damaged or a bomb, or there is no room.
    """
    most = max(RATIO_FREE_BYTES, MAX_RATIO * os.stat(path).st_size)
    with tempfile.NamedTemporaryFile(prefix="tfpipe-", suffix=".tar", delete=False) as target:
        try:
            with contextlib.closing(_decompressed(path, compression)) as blocks:
                left = most
                for block in blocks:
                    left -= len(block)
                    if left < 0:
                        raise UserError(
                            f"{path} unpacks to more than {MAX_RATIO} times its size, which no"
                            " images do: unpack it yourself if you trust it, and name the folder"
                        )
                    _write(target, block, path)
        except BaseException as error:
            _remove(target.name)
            if isinstance(error, (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError)):
                raise _damaged(path, error) from None
            raise
    return target.name


def _write(target, block: bytes, path: str) -> None:
    try:
        target.write(block)
        target.flush()  # so that a full disk is noticed here
    except OSError as error:
        raise UserError(
            f"cannot unpack {path} to {target.name} ({error.strerror}): make room there, or set"
            " TMPDIR to a folder with more"
        ) from None


def _decompressed(path: str, compression: str) -> Iterator[bytes]:
    """Yields the contents of a compressed file in blocks of at most `_BLOCK_BYTES`."""
    if compression == "gzip":
        with gzip.open(path) as file:
            while block := file.read(_BLOCK_BYTES):
                yield block
        return
    # Not lzma.open, which would allow a file all the memory it asks for.
    start = {
        "bzip2": bz2.BZ2Decompressor,
        "xz": functools.partial(lzma.LZMADecompressor, memlimit=_XZ_MEMORY),
    }[compression]
    with open(path, "rb") as file:
        data = file.read(_BLOCK_BYTES)
        while data:  # parallel compressors write several streams, one after the other
            decoder = start()
            while not decoder.eof:
                if decoder.needs_input and not data:
                    data = file.read(_BLOCK_BYTES)
                    if not data:
                        raise EOFError("it ends before its compressed contents do")
                yield decoder.decompress(data, _BLOCK_BYTES)
                data = b""
            data = decoder.unused_data.lstrip(b"\0") or file.read(_BLOCK_BYTES)


def _damaged(path: str, error: Exception) -> UserError:
    return UserError(f"{path} is a damaged tar archive ({error}): copy or download it again")


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)
