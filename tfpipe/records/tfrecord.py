"""TFRecord files without TensorFlow, which takes seconds to import.

A file is frames, one after the other, and nothing else; numbers are little-endian:

    | length: 8 bytes | CRC of the length: 4 | record: `length` bytes | CRC of the record: 4 | ...

https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
"""

import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

import google_crc32c

_LENGTH = struct.Struct("<Q")
_CRC = struct.Struct("<I")
LENGTH_BYTES, CRC_BYTES = _LENGTH.size, _CRC.size
HEADER_BYTES = LENGTH_BYTES + CRC_BYTES

# What a frame adds to its record.
FRAME_BYTES = HEADER_BYTES + CRC_BYTES

# A CRC of data that holds CRCs is weak, so it is stored rotated and with this added.
MASK_DELTA = 0xA282EAD8


class FrameError(Exception):
    """A frame that is not whole; what follows it cannot be trusted.

    Attributes:
        offset: the byte at which it starts.
        cut: whether the file ends inside it; otherwise a checksum is wrong.
    """

    def __init__(self, offset: int, *, cut: bool):
        what = "is cut" if cut else "fails its checksum"
        super().__init__(f"the record that starts at byte {offset} {what}")
        self.offset = offset
        self.cut = cut


def frame(record: bytes) -> bytes:
    """Returns a record in its frame, as it is in a file."""
    length = _LENGTH.pack(len(record))
    return b"".join((length, _masked_crc(length), record, _masked_crc(record)))


def frames(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Yields each frame's offset and the length of its record, without reading the record.

    Args:
        file: open for reading, at any position; it may be moved between two frames.

    Raises:
        FrameError: a frame is cut, or its length fails its checksum.
    """
    end = file.seek(0, os.SEEK_END)
    offset = 0
    while offset < end:
        length = _length(file, offset, end)
        yield offset, length
        offset += length + FRAME_BYTES


def read(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yields each frame's offset and its record.

    A record is never longer than the file, whatever its frame says.

    Args:
        file: open for reading, at any position; it may be moved between two records.

    Raises:
        FrameError: a frame is cut or fails a checksum.
    """
    for offset, length in frames(file):
        yield offset, _record(file, offset, length)


def read_at(file: BinaryIO, offset: int) -> bytes:
    """Returns the record of the frame that starts at a byte.

    Raises:
        FrameError: there is no whole frame.
    """
    return _record(file, offset, _length(file, offset, file.seek(0, os.SEEK_END)))


def _length(file: BinaryIO, offset: int, end: int) -> int:
    file.seek(offset)
    header = file.read(HEADER_BYTES)
    if len(header) < HEADER_BYTES:
        raise FrameError(offset, cut=True)
    packed = header[: _LENGTH.size]
    if _masked_crc(packed) != header[_LENGTH.size :]:
        raise FrameError(offset, cut=False)
    (length,) = _LENGTH.unpack(packed)
    if length > end - offset - FRAME_BYTES:
        raise FrameError(offset, cut=True)
    return length


def _record(file: BinaryIO, offset: int, length: int) -> bytes:
    file.seek(offset + HEADER_BYTES)
    record = file.read(length)
    crc = file.read(_CRC.size)
    if len(crc) < _CRC.size:  # it has become shorter since
        raise FrameError(offset, cut=True)
    if _masked_crc(record) != crc:
        raise FrameError(offset, cut=False)
    return record


def _masked_crc(data: bytes) -> bytes:
    """Returns the CRC-32C of `data`, masked (tensorflow/tsl/lib/hash/crc32c.h) and packed."""
    crc = google_crc32c.value(data)
    rotated = crc >> 15 | crc << 17
    return _CRC.pack(rotated + MASK_DELTA & 0xFFFFFFFF)
