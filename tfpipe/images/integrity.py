"""Check what Pillow does not: the structure of a JPEG or PNG file up to its end.

Pillow stops as soon as it has every pixel. TensorFlow reads to the end of the file and refuses an
image whose end is damaged, which would stop a training run.
"""

import re
import struct
import zlib
from collections.abc import Iterator

from tfpipe.core.errors import Rejected
from tfpipe.images.pixels import MAX_SCANS

# A marker, unlike a stuffed zero, a fill byte or a restart inside a scan.
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
_SOI, _EOI, _SOS, _APP1, _TEM = 0xD8, 0xD9, 0xDA, 0xE1, 0x01

_PNG_SIGNATURE_BYTES = 8
_BLOCK_BYTES = 2**20


def check_jpeg(data: bytes) -> bool:
    """Check that a JPEG file has an end, and not too many scans before it.

    Returns:
        Whether it has metadata (EXIF or XMP), which may hold an orientation.

    Raises:
        Rejected: there is no end, or more than `MAX_SCANS` scans.
    """
    scans = 0
    has_metadata = False
    position = 0
    while marker := _MARKER.search(data, position):
        position = marker.end()
        kind = marker[1][0]
        if kind == _EOI:
            return has_metadata
        has_metadata |= kind == _APP1
        if kind == _SOS:
            scans += 1
            if scans > MAX_SCANS:
                raise Rejected("too many scans", f"a JPEG with more than {MAX_SCANS}")
        if kind not in (_SOI, _TEM):  # these have no length
            position += int.from_bytes(data[position : position + 2], "big")
    raise Rejected("damaged", "the JPEG file has no end marker")


def check_png(data: bytes, raw_bytes: int) -> None:
    """Check the chunks of a PNG file and the end of its compressed pixels.

    Args:
        data: the file.
        raw_bytes: the unpacked size of the pixels; twice as much is allowed.

    Raises:
        Rejected: a checksum is wrong, or a part is missing.
    """
    pixels = zlib.decompressobj()
    unpacked = 0
    for kind, body in _png_chunks(data):
        if kind != b"IDAT":
            continue
        while body and not pixels.eof:
            unpacked += len(pixels.decompress(body, _BLOCK_BYTES))
            body = pixels.unconsumed_tail
            if unpacked > 2 * raw_bytes + _BLOCK_BYTES:
                raise Rejected("damaged", "the PNG file unpacks to more than its pixels")
    if not pixels.eof:
        raise Rejected("damaged", "the pixels of the PNG file have no end")


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the kind and body of each chunk; raise Rejected if one is damaged or missing."""
    position = _PNG_SIGNATURE_BYTES
    kind = b""
    while kind != b"IEND":
        head, body = data[position : position + 8], position + 8
        if len(head) < 8:
            raise Rejected("damaged", "the PNG file has no end chunk")
        length, kind = struct.unpack(">I4s", head)
        end = body + length
        checksum = data[end : end + 4]
        if checksum != zlib.crc32(data[position + 4 : end]).to_bytes(4, "big"):
            raise Rejected("damaged", f"the checksum of PNG chunk {kind!r} at {position} is wrong")
        yield kind, data[body:end]
        position = end + 4
