"""What is known of one image file once it has been decoded."""

from typing import NamedTuple


class Item(NamedTuple):
    """One file to look into: the index of its source, and its name there."""

    source: int
    name: str


class Found(NamedTuple):
    """A good image, described without its pixels.

    Attributes:
        item: where it is.
        format: of what is stored: "jpeg", "png" or "raw".
        height: of what is stored, in pixels.
        width: likewise.
        bytes: of what is stored.
        sha256: hex digest of what is stored.
        converted: why its pixels are not simply the file's, or ""; see `decode.Picture`.
        file_sha256: hex digest of the file; equal for exact duplicates.
        file_bytes: of the file.
        file_height: of the picture in the file, upright, in pixels.
        file_width: likewise.
        color: mean red, green and blue, 0 to 255.
        hash: perceptual hash, hexadecimal; see `perceptual`.
        spool: name of the file in the work folder that has what is stored, or "" where that is the
            source file itself.
        offset: of what is stored, in the spool.
    """

    item: Item
    format: str
    height: int
    width: int
    bytes: int
    sha256: str
    converted: str
    file_sha256: str
    file_bytes: int
    file_height: int
    file_width: int
    color: tuple[float, float, float]
    hash: str
    spool: str = ""
    offset: int = 0
