"""Tell a JPEG whose pixels are all there from one that lost some, and mend the former.

libjpeg reports only its first warning, so a harmless one may hide a loss. What it complains about
is cut away, and the rest is decoded again. "N extraneous bytes before marker" is such a warning:
all pixels are decoded, and more bytes follow.
"""

import bisect
import re

import simplejpeg

from tfpipe.core.errors import Rejected
from tfpipe.images import integrity

# Each cut costs some 20 looks at the compressed data.
_MAX_CUTS = 4

# libjpeg's messages (jerror.h) about pixels that are lost.
_LOST = (
    *("premature end of data", "Premature end of JPEG", "bad Huffman code", "bad arithmetic code"),
    *("found marker", "Inconsistent progression", "too many scanlines"),
)
_EXTRANEOUS = "extraneous bytes before marker"
_ICC, _JFIF_VERSION = "bad ICC marker", "unknown JFIF revision"

_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_JFIF = re.compile(rb"\xff\xe0..JFIF\0.", re.DOTALL)

# Markers of the segments that a decoder needs; the others hold metadata.
_APP2 = 0xE2  # the color profile
_NEEDED = {*range(0xC0, 0xD0), *range(0xD8, 0xDE)} - {0xC8}


def jpeg(data: bytes, space: str, complaint: str) -> bytes | None:
    """Return a JPEG file without what libjpeg complains about.

    Args:
        data: the file, from `integrity.read_jpeg`.
        space: "RGB" or "CMYK", a color space that simplejpeg can decode it to.
        complaint: of libjpeg about the file.

    Returns:
        The mended file; the same object if libjpeg only complains about metadata; None if it does
        not read this kind of JPEG, or cannot read it without a warning.

    Raises:
        Rejected: pixels are lost.
    """
    for _ in range(_MAX_CUTS):
        if any(words in complaint for words in _LOST):
            raise Rejected("damaged", f"libjpeg: {complaint}")
        if _ICC in complaint:  # TurboJPEG decodes neither of these two kinds
            data = _without_profile(data)
        elif _JFIF_VERSION in complaint:
            data = _as_jfif_1(data)
        elif _EXTRANEOUS in complaint:
            data = _cut(data, space)
        else:
            break
        complaint = _complaint(data, space)
    if not complaint:
        return data
    bare = _bare(data)
    if bare == data:
        return None
    complaint = _complaint(bare, space)
    return data if not complaint or jpeg(bare, space, complaint) == bare else None


def _complaint(data: bytes, space: str) -> str:
    """Return libjpeg's first warning or error about a file, or ""."""
    try:
        simplejpeg.decode_jpeg(data, space, fastdct=True, min_height=1, min_width=1)
    except ValueError as error:
        if "Insufficient memory" in str(error):
            raise MemoryError from None
        return str(error)
    return ""


def _cut(data: bytes, space: str) -> bytes:
    """Remove the first extraneous bytes of a scan: up to its next restart, or its end."""
    segments = integrity.jpeg_segments(data)
    scans = ((start, end) for kind, start, end in segments if kind == integrity.SOS)
    start, end = next((each for each in scans if _has_extraneous(data[: each[1]], space)), (0, 0))
    if not end:
        return data
    start += 2 + int.from_bytes(data[start + 2 : start + 4], "big")
    # The shortest beginning that has such bytes ends with the first of them. Within a scan all
    # longer ones have them too.
    lengths = range(start, end)
    found = bisect.bisect_left(lengths, True, key=lambda n: _has_extraneous(data[:n], space))
    first = start + found - 1
    following = _RESTART.search(data, first, end)
    return data[:first] + data[following.start() if following else end :]


def _has_extraneous(data: bytes, space: str) -> bool:
    return _EXTRANEOUS in _complaint(data + integrity.END, space)


def _as_jfif_1(data: bytes) -> bytes:
    """Return a JPEG file whose JFIF segment claims a version that libjpeg knows."""
    return _JFIF.sub(lambda match: match[0][:-1] + b"\x01", data, count=1)


def _without_profile(data: bytes) -> bytes:
    segments = integrity.jpeg_segments(data)
    return b"".join(data[start:end] for kind, start, end in segments if kind != _APP2)


def _bare(data: bytes) -> bytes:
    """Return a JPEG file without metadata, and with the right parameters of a sequential scan."""
    pieces = []
    is_sequential = False
    for kind, start, end in integrity.jpeg_segments(data):
        if kind not in _NEEDED:
            continue
        piece = data[start:end]
        is_sequential |= kind in integrity.SEQUENTIAL
        if kind == integrity.SOS and is_sequential:
            at = int.from_bytes(piece[2:4], "big") - 1  # Ss, Se, and Ah with Al
            piece = piece[:at] + b"\x00\x3f\x00" + piece[at + 3 :]
        pieces.append(piece)
    return b"".join(pieces)
