"""Read the members of a tar archive, compressed or not."""

import functools
import os
import pathlib
import tarfile
import threading
import weakref
from collections.abc import Iterator
from typing import BinaryIO

from tfpipe.core import remote, storage
from tfpipe.core.errors import Rejected, UserError
from tfpipe.sources import member, name_encoding, shards, sidecars
from tfpipe.sources.file import is_file
from tfpipe.sources.list_columns import FOUND, Columns
from tfpipe.sources.options import DEFAULTS, Options
from tfpipe.sources.source import Annotation, Source, check_size
from tfpipe.sources.unpack import compression_of, remove, unpack

# Limit for the headers of one member: a long name has 4 KB, extended attributes up to 64 KB. A
# hostile header declares any length, and tarfile would read it into memory.
_HEADER_BYTES = 256 * 2**10

_BLOCK_BYTES = 2**20
_TAR_BLOCK = 512


class Tar(Source):
    """Members of a tar archive, read in place at their offset; links and devices are skipped.

    A compressed archive is unpacked once to a temporary tar file in $TMPDIR of at most `MAX_RATIO`
    times its size. Pickled copies share that file. It is removed with the source that created it,
    or when the process ends; a killed process (SIGKILL, SIGTERM) leaves it behind.

    A tar archive has no checksums of its contents, so only the image decoder notices a changed
    byte.
    """

    kind = "a tar archive"

    def __init__(self, path: str, options: Options = DEFAULTS, unpacked: str = ""):
        super().__init__(path, options)
        self._unpacked, self._lock = unpacked, threading.Lock()

    def __reduce__(self):
        return type(self), (self.path, self.options, self._unpacked)

    @classmethod
    def fits(cls, path: str) -> bool:  # noqa: D102
        if not is_file(path):
            return False
        try:
            with storage.open_to_read(path) as file:
                head = file.read(_TAR_BLOCK)
        except OSError:
            return False
        return _begins_archive(head)

    def prepare(self) -> None:  # noqa: D102
        _ = self._listing

    def read(self, name: str) -> bytes:  # noqa: D102
        return self.head(name, -1)

    def head(self, name: str, size: int) -> bytes:  # noqa: D102
        if name not in self._listing[0]:  # a worker opened the archive again
            raise Rejected("unreadable", "the archive has changed")
        offset, length, _ = self._listing[0][name]
        check_size(length)
        size = length if size < 0 else min(size, length)
        try:
            if remote.is_remote(self.path):
                with self._lock:  # threads share the file's position
                    self._file.seek(offset)
                    data = self._file.read(size)
            else:
                data = os.pread(self._file.fileno(), size, offset)
        except OSError as error:
            raise Rejected("unreadable", error.strerror or str(error)) from None
        if len(data) < size:
            raise Rejected("damaged member", "the archive ends inside it")
        return data

    def names(self) -> list[str]:
        """Return the sorted names of the members, without files that only hold labels."""
        return [name for name in super().names() if name not in self._sidecars[1]]

    def annotations(self, columns: Columns = FOUND) -> dict[str, Annotation]:
        """Return the labels of a WebDataset shard, and the split that its name says."""
        split = shards.split_of(os.path.basename(self.path))
        return {name: Annotation(label, split=split) for name, label in self._sidecars[0].items()}

    @functools.cached_property
    def _sidecars(self) -> tuple[dict[str, str], set[str]]:
        return sidecars.read(self._listing[0], self.read)

    @functools.cached_property
    def _file(self) -> BinaryIO:
        """The open, uncompressed archive."""
        try:
            with storage.open_to_read(self.path) as file:
                compression = compression_of(file.read(_TAR_BLOCK))
            if compression and remote.is_remote(self.path):
                raise UserError(
                    f"{self.path} is a compressed tar archive, which cannot be read at a URL:"
                    " uncompress it there, or name a local copy"
                )
            if compression and not self._unpacked:
                self._unpacked = unpack(self.path, compression, "tar archive")
                weakref.finalize(self, remove, self._unpacked)
            file = storage.open_to_read(self._unpacked or self.path)
            if compression and not _is_tar(file.read(_TAR_BLOCK)):
                file.close()
                raise UserError(
                    f"{self.path} is compressed by {compression}, but what it holds is no tar"
                    " archive, or a damaged one: uncompress it yourself, and name the result"
                )
        except OSError as error:
            raise UserError(
                f"{error.filename or self.path}: {error.strerror}, while reading {self.path}:"
                " run the command again when nothing removes or locks it"
            ) from None
        weakref.finalize(self, file.close)
        return file

    @functools.cached_property
    def _listing(self):
        members, skipped, links = {}, [], set()
        try:
            modified = storage.stamp(self.path)[1]
            for raw, info in _infos(self._file):  # one at a time: each takes 700 bytes
                name = self._decode(raw, info)
                if info.isdir() or member.is_ignored(name):
                    continue
                if info.issym():
                    links.add(name)
                refusal = member.refuse_name(name, links) or _refuse(info)
                if refusal:
                    skipped.append((name, *refusal))
                    continue
                if name in members:
                    skipped.append((name, *member.REPEATED))
                members[name] = (info.offset_data, info.size, modified)
        # Hostile headers raise any of these.
        except (_Damaged, tarfile.TarError, ValueError, OSError, OverflowError) as error:
            raise _damaged(self.path, error) from None
        for name in list(members) if links else ():  # a link may come after what it refuses
            if refusal := member.refuse_name(name, links):
                skipped.append((name, *refusal))
                del members[name]
        return members, skipped

    def _decode(self, name: str, info: tarfile.TarInfo) -> str:
        """Return a name in the encoding that a person gives, unless it is surely UTF-8."""
        encoding = self.options.name_encoding
        if not encoding or (info.pax_headers and _is_text(name)):
            return name
        raw = name.encode("utf-8", "surrogateescape")
        return name_encoding.decode([raw], encoding, self.path)[0]


class _Damaged(Exception):  # noqa: N818 (always turned into a UserError)
    pass


class _Headers:
    """A file for tarfile that allows reading `_HEADER_BYTES` until the next `renew`."""

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
    """Yield the name of each member, without "./", and its header; contents are not read."""
    file.seek(0)
    headers = _Headers(file)
    with tarfile.open(
        fileobj=headers, mode="r:", encoding="utf-8", errors="surrogateescape"
    ) as archive:
        end = -1
        while (info := archive.next()) is not None:
            if archive.offset <= end:  # a negative size would loop for ever
                raise _Damaged(f"the header before byte {end} has a wrong size")
            end = archive.offset
            archive.members.clear()  # tarfile would keep all of them in memory
            # A header of this kind says that the name is UTF-8; others are large.
            info.pax_headers = {"path": ""} if "path" in info.pax_headers else {}
            headers.renew()
            yield str(pathlib.PurePosixPath(info.name)), info
        end = archive.offset
    # tarfile takes a damaged header for the end, which would lose all later members.
    file.seek(end)
    tail = file.read(_BLOCK_BYTES)
    if len(tail) < _TAR_BLOCK:
        raise _Damaged("it has no end mark, as if it was cut")
    if any(tail):
        raise _Damaged(f"byte {end} is neither a header nor the end")


def _refuse(info: tarfile.TarInfo) -> tuple[str, str] | None:
    """Return why a member with a safe name is refused, as (reason, detail), or None."""
    if info.islnk():
        return "hard link", "links are not followed; create the archive with tar --hard-dereference"
    if info.isdev():
        return "special file", "not a regular file"
    if not info.isreg() or info.issparse():
        return "unsupported", f"a member of type {info.type!r}; create the archive without --sparse"
    return member.NESTED if member.is_archive(info.name) else None


def _begins_archive(head: bytes) -> bool:
    """Return whether a file is a tar archive, compressed or not, by its first block."""
    return bool(compression_of(head)) or _is_tar(head)


def _is_tar(head: bytes) -> bool:
    """Return whether the first block of a file is that of a tar archive."""
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return len(head) == _TAR_BLOCK and not any(head)  # an archive without members
    return True


def _damaged(path: str, error: Exception) -> UserError:
    return UserError(f"{path} is a damaged tar archive ({error}): copy it again")


def _is_text(name: str) -> bool:
    """Return whether a name is UTF-8; `tarfile` keeps other bytes as surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
