"""Finds whole records in a TFRecord file of which parts are damaged."""

from collections.abc import Iterator
from typing import BinaryIO

import google_crc32c
import numpy as np

from tfpipe.records import tfrecord

_BLOCK_BYTES = 2**18
# A CRC is affine: that of a length is the CRC of zeros, changed by each byte for itself.
_ZERO_CRC = google_crc32c.value(bytes(tfrecord.LENGTH_BYTES))
_CRC_CHANGES = np.array(
    [
        [
            google_crc32c.value((byte << 8 * i).to_bytes(tfrecord.LENGTH_BYTES, "little"))
            ^ _ZERO_CRC
            for byte in range(256)
        ]
        for i in range(tfrecord.LENGTH_BYTES)
    ],
    np.uint32,
)


def stretches(file: BinaryIO, end: int) -> Iterator[tuple[int, int, bytes | None]]:
    """Divides a file into frames and what is damaged between them.

    Args:
        file: open for reading, at any position; it may be moved between two stretches.
        end: the byte before which the last frame ends.

    Yields:
        (begin, end, record): a frame, or with None as its record a stretch that begins where a
        frame should and does not hold a whole one.
    """
    offset = 0
    while offset < end:
        try:
            record = tfrecord.read_at(file, offset)
            after = offset + len(record) + tfrecord.FRAME_BYTES
        except tfrecord.FrameError:
            record, after = None, _next_frame(file, offset + 1, end)
        yield offset, after, record
        offset = after


def _next_frame(file: BinaryIO, offset: int, end: int) -> int:
    """Returns the first byte from `offset` on at which a frame may start, or `end`.

    A frame starts where 8 bytes are a length that fits, and the 4 that follow are their CRC. By
    chance they are so at one of 2^32 bytes at most.
    """
    while end - offset >= tfrecord.FRAME_BYTES:
        file.seek(offset)
        data = np.frombuffer(file.read(min(_BLOCK_BYTES, end - offset)), np.uint8)
        count = len(data) - tfrecord.HEADER_BYTES + 1
        if count < 1:  # it has become shorter since
            break
        lengths = np.ndarray(count, "<u8", data, strides=(1,))
        starts = np.flatnonzero(lengths <= end)
        ends = offset + starts + lengths[starts].astype(np.int64) + tfrecord.FRAME_BYTES
        starts = starts[ends <= end]
        crc = np.full(len(starts), _ZERO_CRC, np.uint32)
        for i in range(tfrecord.LENGTH_BYTES):
            crc ^= _CRC_CHANGES[i][data[starts + i]]
        masked = (crc >> 15 | crc << 17) + np.uint32(tfrecord.MASK_DELTA)
        stored = np.ndarray(count, "<u4", data, offset=tfrecord.LENGTH_BYTES, strides=(1,))[starts]
        found = starts[masked == stored]
        if found.size:
            return offset + int(found[0])
        offset += count
    return end
