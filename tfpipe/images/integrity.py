"""Check what Pillow does not: the structure of a JPEG or PNG file up to its end.

Pillow stops as soon as it has every pixel. TensorFlow reads to the end of the file and refuses an
image whose end is damaged, which would stop a training run.

Bytes that hold no pixels may be damaged. Then the file is mended: it loses those bytes and no
pixel.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from tfpipe.core.errors import Rejected
from tfpipe.images.pixels import MAX_SCANS

# A marker, unlike a stuffed zero, a fill byte or a restart inside a scan.
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_SOI, _EOI, SOS, _APP1, _TEM = 0xD8, 0xD9, 0xDA, 0xE1, 0x01
SEQUENTIAL = (0xC0, 0xC1)  # the kinds of frame whose scans are complete each by itself
END = b"\xff\xd9"

_PNG_SIGNATURE_BYTES = 8
_BLOCK_BYTES = 2**20

# Chunks that decide the pixels; all others may be lost, also the last.
_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT")
_WEBP_PIXELS = (b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF")
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"


class JpegStructure(NamedTuple):
    """What the markers of a JPEG file tell.

    Attributes:
        has_metadata: whether it has EXIF or XMP, which may hold an orientation.
        file: the file, without bytes that belong to no segment, and with an end marker; the very
            same object if nothing was to be mended.
    """

    has_metadata: bool
    file: bytes


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the marker, start and end of each segment up to the end marker.

    A scan ends with its compressed data.
    """
    position = 0
    while marker := _MARKER.search(data, position):
        position = marker.end()
        kind = data[position - 1]
        if kind not in (_SOI, _EOI, _TEM):  # these have no length
            position += int.from_bytes(data[position : position + 2], "big")
        if kind == SOS:
            following = _MARKER.search(data, position)
            position = following.start() if following else len(data)
        yield kind, marker.start(), position
        if kind == _EOI:
            return


def read_jpeg(data: bytes) -> JpegStructure:
    """Check that a JPEG file has an end, and not too many scans before it.

    Only the end marker of a sequential JPEG may be missing: a decoder cannot tell whether a
    progressive one lacks its last scans.

    Raises:
        Rejected: more than `MAX_SCANS` scans, or the file is cut.
    """
    scans = components = scanned = kind = end = 0
    has_metadata = has_gaps = False
    for kind, start, following in jpeg_segments(data):
        has_gaps |= start > end and bool(data[end:start].strip(b"\xff"))  # these may fill
        end = following
        has_metadata |= kind == _APP1
        if kind in SEQUENTIAL:
            components = int.from_bytes(data[start + 9 : start + 10], "big")
        elif kind == SOS:
            scans += 1
            scanned += int.from_bytes(data[start + 4 : start + 5], "big")
            if scans > MAX_SCANS:
                raise Rejected("too many scans", f"a JPEG with more than {MAX_SCANS}")
    if kind == _EOI and not has_gaps:
        return JpegStructure(has_metadata, data)
    if kind != _EOI and not 0 < components <= scanned:
        raise Rejected("damaged", "the JPEG file has no end marker")
    file = b"".join(data[start:end] for _, start, end in jpeg_segments(data))
    return JpegStructure(has_metadata, file if kind == _EOI else file + END)


def check_png(data: bytes, raw_bytes: int) -> bytes:
    """Check the chunks of a PNG file and the end of its compressed pixels.

    Args:
        data: the file.
        raw_bytes: the unpacked size of the pixels; twice as much is allowed.

    Returns:
        The file without damaged chunks that hold no pixels, and with an end; the very same object
        if nothing was to be mended.

    Raises:
        Rejected: a checksum is wrong, or a part is missing.
    """
    pixels = zlib.decompressobj()
    unpacked = 0
    chunks = list(_png_chunks(data))
    for each in chunks:
        if each.kind != b"IDAT":
            continue
        body = data[each.start + 8 : each.end - 4]
        while body and not pixels.eof:
            unpacked += len(pixels.decompress(body, _BLOCK_BYTES))
            body = pixels.unconsumed_tail
            if unpacked > 2 * raw_bytes + _BLOCK_BYTES:
                raise Rejected("damaged", "the PNG file unpacks to more than its pixels")
    if not pixels.eof:
        raise Rejected("damaged", "the pixels of the PNG file have no end")
    return _without_unsound(data, chunks)


def sound_png(data: bytes) -> bytes:
    """Return a PNG file without the chunks of wrong checksums, or raise as `check_png`."""
    return _without_unsound(data, list(_png_chunks(data)))


def bare_png(data: bytes) -> bytes:
    """Return a PNG file with only the chunks that decide its pixels, or raise as `check_png`."""
    return _joined(data, [each for each in _png_chunks(data) if each.kind in _PIXEL_CHUNKS])


def bare_webp(data: bytes) -> bytes:
    """Return a WebP file with only the chunks of its pixels that are whole (RFC 9649)."""
    kept = []
    position = 12
    while position + 8 <= len(data):
        kind, size = struct.unpack("<4sI", data[position : position + 8])
        chunk = data[position : position + 8 + size]
        if kind in _WEBP_PIXELS and len(chunk) == 8 + size:
            if kind == b"VP8X" and size:  # flags, of which only alpha and animation stay
                chunk = chunk[:8] + bytes([chunk[8] & 0x12]) + chunk[9:]
            kept.append(chunk + bytes(size % 2))
        position += 8 + size + size % 2
    body = b"WEBP" + b"".join(kept)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _without_unsound(data: bytes, chunks: list["_Chunk"]) -> bytes:
    sound = [each for each in chunks if each.is_sound]
    has_end = bool(chunks) and chunks[-1].kind == b"IEND"
    if has_end and len(sound) == len(chunks):
        return data
    return _joined(data, [each for each in sound if each.kind != b"IEND"])


def _joined(data: bytes, chunks: list["_Chunk"]) -> bytes:
    body = b"".join(data[each.start : each.end] for each in chunks)
    return data[:_PNG_SIGNATURE_BYTES] + body + _PNG_END


class _Chunk(NamedTuple):
    kind: bytes
    start: int
    end: int
    is_sound: bool  # whether its checksum is right


def _png_chunks(data: bytes) -> Iterator[_Chunk]:
    """Yield the chunks up to the end, or up to where a file is cut after its pixels.

    Raises:
        Rejected: a chunk of the pixels is cut or has a wrong checksum.
    """
    position = _PNG_SIGNATURE_BYTES
    kind = b""
    while kind != b"IEND" and position + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[position : position + 8])
        end = position + 8 + length + 4
        checksum = data[end - 4 : end]
        is_sound = checksum == zlib.crc32(data[position + 4 : end - 4]).to_bytes(4, "big")
        if not is_sound and (kind in _PIXEL_CHUNKS or not kind.isalpha()):
            raise Rejected("damaged", f"the checksum of PNG chunk {kind!r} at {position} is wrong")
        yield _Chunk(kind, position, end, is_sound)
        position = end
