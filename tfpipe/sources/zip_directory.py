"""Read the directory at the end of a zip archive, and its members.

`zipfile` keeps 600 bytes for each member, here and in every worker; this keeps one row of an array.
The format: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, sections 4.3 and 4.5.3.
"""

import struct
import threading
import zipfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np

_END = struct.Struct("<4s4H2LH")  # the record at the end, before the comment of the archive
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = struct.Struct("<4sLQL")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")  # the header before the contents of a member

_MAX_COMMENT = 2**16
_MAX_VERSION = 63
_MAX_OFFSET = 2**63  # of a file
_WIDE = 0xFFFFFFFF  # in place of a number that has 64 bits in an extra field
_WIDE_FIELD = 1

# A stream of deflate may be longer than its contents: by 5 bytes for each 64 KB, and its tables.
_SLACK_BYTES = 2**13

# A local header with its name and extra fields is seldom longer, so one read gets the contents too.
_USUAL_HEADER_BYTES = 2**8


class ZipMember(NamedTuple):
    """Where the contents of a member are, and what they are; an element of a `ROW` array.

    Attributes:
        offset: of its header in the file.
        compressed: bytes in the archive.
        size: bytes of the contents.
        crc: CRC-32 of the contents.
        attributes: of the file, as the program's system has them.
        flags: of the format; 1 for encrypted, 0x800 if the name is UTF-8.
        method: of compression.
    """

    offset: int
    compressed: int
    size: int
    crc: int
    attributes: int
    flags: int
    method: int


ROW = np.dtype([*zip(ZipMember._fields, ("u8", "u8", "u8", "u4", "u4", "u2", "u2"), strict=True)])


class Entry(NamedTuple):
    """A member in the directory.

    Attributes:
        name: as it is written.
        extra: fields of other programs.
        member: the rest.
    """

    name: bytes
    extra: bytes
    member: ZipMember


class ZipDirectory:
    """The members of an archive, in the order of the directory; several threads may read."""

    def __init__(self, file: BinaryIO):
        """Find the directory of an archive that is open.

        Raises:
            zipfile.BadZipFile, ValueError, OSError: it is damaged.
        """
        self._file, self._lock = file, threading.Lock()
        file.seek(0, 2)
        end = file.tell()
        tail_start = max(0, end - _MAX_COMMENT - _END.size)
        tail = self._read(tail_start, end - tail_start)
        place = tail.rfind(b"PK\5\6", 0, len(tail) - _END.size + 4)
        if place < 0:
            raise zipfile.BadZipFile("it has no directory")
        *_, size, offset, _ = _END.unpack_from(tail, place)
        at = tail_start + place
        wide = at - _LOCATOR_64.size - _END_64.size
        if wide >= 0 and self._read(at - _LOCATOR_64.size, 4) == b"PK\6\7":
            record = self._read(wide, _END_64.size)
            if record[:4] == b"PK\6\6":
                *_, size, offset = _END_64.unpack(record)
                at = wide
        self._start = at - size - offset  # another file may lie before the archive
        if self._start < 0:
            raise zipfile.BadZipFile("its directory has a wrong size or place")
        self._data = self._read(at - size, size)

    def __iter__(self) -> Iterator[Entry]:
        """Yield all members.

        Raises:
            zipfile.BadZipFile, struct.error, NotImplementedError: the directory is damaged, or of
                a later version of the format.
        """
        at, data = 0, self._data
        while at < len(data):
            signature, _, version, flags, method, _, _, crc, compressed, size, *lengths = (
                _ENTRY.unpack_from(data, at)
            )
            name_size, extra_size, comment_size, _, _, attributes, offset = lengths
            if signature != b"PK\1\2":
                raise zipfile.BadZipFile(f"byte {at} of its directory is no entry")
            if version & 0xFF > _MAX_VERSION:
                raise NotImplementedError(f"version {(version & 0xFF) / 10} of the format")
            name_end = at + _ENTRY.size + name_size
            name, extra = data[at + _ENTRY.size : name_end], data[name_end : name_end + extra_size]
            at = name_end + extra_size + comment_size
            if at > len(data):
                raise zipfile.BadZipFile("its directory ends inside an entry")
            if _WIDE in (size, compressed, offset):
                size, compressed, offset = _widened(extra, size, compressed, offset)
            place = self._start + offset
            if place >= _MAX_OFFSET:
                raise zipfile.BadZipFile(f"a member begins at byte {place}")
            member = ZipMember(place, compressed, size, crc, attributes, flags, method)
            yield Entry(name, extra, member)

    def read(self, member: ZipMember, size: int) -> bytes:
        """Return the first bytes of a member's contents, or all.

        Args:
            member: the member.
            size: bytes to return, at most; -1 for all, whose checksum is compared.

        Raises:
            zipfile.BadZipFile, zlib.error, EOFError: the member is damaged.
            OSError: it cannot be read.
        """
        wanted = member.size if size < 0 else min(size, member.size)
        packed = min(member.compressed, wanted + wanted // 1000 + _SLACK_BYTES)
        data = self._read(member.offset, _USUAL_HEADER_BYTES + packed)
        if data[:4] != b"PK\3\4" or len(data) < _LOCAL.size:
            raise zipfile.BadZipFile("it does not begin with a header")
        start = _LOCAL.size + sum(_LOCAL.unpack_from(data)[-2:])
        if (missing := start + packed - len(data)) > 0:
            data += self._read(member.offset + len(data), missing)
        data = data[start : start + packed]
        if len(data) < packed:
            raise EOFError("the archive ends inside it")
        if member.method == zipfile.ZIP_DEFLATED:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, max(wanted, 1))
        data = data[:wanted]
        if wanted == member.size and zlib.crc32(data) != member.crc:
            raise zipfile.BadZipFile("bad CRC-32")
        return data

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read(self, offset: int, size: int) -> bytes:
        with self._lock:
            self._file.seek(offset)
            return self._file.read(size)


def _widened(extra: bytes, *numbers: int) -> list[int]:
    """Return numbers, those of 64 bits from their extra field."""
    found = list(numbers)
    wide = [i for i, number in enumerate(numbers) if number == _WIDE]
    for kind, field in fields(extra) if wide else ():
        if kind == _WIDE_FIELD:
            values = struct.unpack_from(f"<{len(wide)}Q", field)
            for i, value in zip(wide, values, strict=True):
                found[i] = value
    return found


def fields(extra: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the number and the contents of each extra field."""
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        yield kind, extra[4 : 4 + size]
        extra = extra[4 + size :]
