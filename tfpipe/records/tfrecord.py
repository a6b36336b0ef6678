"""Read and write TFRecord files without TensorFlow, whose import takes seconds.

A file is a sequence of frames; numbers are little-endian:

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
_HEADER_BYTES = _LENGTH.size + _CRC.size

# What a frame adds to its record.
FRAME_BYTES = _HEADER_BYTES + _CRC.size


class FrameError(Exception):
    """A damaged frame.

    Attributes:
        offset: byte where the frame starts.
        cut: True if the file ends inside the frame; False if a checksum is wrong.
    """

    def __init__(self, offset: int, *, cut: bool):
        what = "is cut" if cut else "fails its checksum"
        super().__init__(f"the record that starts at byte {offset} {what}")
        self.offset = offset
        self.cut = cut


def frame(record: bytes) -> bytes:
    """Return a record in its frame, as a file holds it."""
    length = _LENGTH.pack(len(record))
    return b"".join((length, _masked_crc(length), record, _masked_crc(record)))


def frames(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Yield the offset of each frame and the length of its record, without reading the record.

    Args:
        file: open for reading. The caller may seek in it between two frames.

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
    """Yield the offset of each frame and its record.

    A damaged length cannot make it allocate more than the size of the file.

    Args:
        file: open for reading. The caller may seek in it between two records.

    Raises:
        FrameError: a frame is cut or fails a checksum.
    """
    for offset, length in frames(file):
        yield offset, _record(file, offset, length)


def read_at(file: BinaryIO, offset: int) -> bytes:
    """Return the record of the frame that starts at byte `offset`; raises FrameError."""
    return _record(file, offset, _length(file, offset, file.seek(0, os.SEEK_END)))


def _length(file: BinaryIO, offset: int, end: int) -> int:
    file.seek(offset)
    header = file.read(_HEADER_BYTES)
    if len(header) < _HEADER_BYTES:
        raise FrameError(offset, cut=True)
    packed = header[: _LENGTH.size]
    if _masked_crc(packed) != header[_LENGTH.size :]:
        raise FrameError(offset, cut=False)
    (length,) = _LENGTH.unpack(packed)
    if length > end - offset - FRAME_BYTES:
        raise FrameError(offset, cut=True)
    return length


def _record(file: BinaryIO, offset: int, length: int) -> bytes:
    file.seek(offset + _HEADER_BYTES)
    record = file.read(length)
    crc = file.read(_CRC.size)
    if len(crc) < _CRC.size:  # the file was cut after its size was read
        raise FrameError(offset, cut=True)
    if _masked_crc(record) != crc:
        raise FrameError(offset, cut=False)
    return record


def _masked_crc(data: bytes) -> bytes:
    """Return the CRC-32C of `data`, masked (tensorflow/tsl/lib/hash/crc32c.h) and packed."""
    crc = google_crc32c.value(data)
    rotated = crc >> 15 | crc << 17
    return _CRC.pack(rotated + 0xA282EAD8 & 0xFFFFFFFF)
