"""What is known of one image file after it was decoded once."""

import hashlib
from typing import Any, NamedTuple

import numpy as np

from tfpipe.core.errors import Rejected
from tfpipe.images import perceptual_hash
from tfpipe.images.store import Store


class ImageRef(NamedTuple):
    """One file: the index of its source, and its name there."""

    source: int
    name: str


class ImageInfo(NamedTuple):
    """A good image, described without its pixels; `image_table.ImageTable` holds many.

    Attributes:
        ref: where its file is.
        format: of the stored image: "jpeg", "png" or "raw".
        height: of the stored image, in pixels.
        width: likewise.
        bytes: of the stored image.
        sha256: hex digest of the stored image.
        converted: why its pixels are not simply the file's, or ""; see `strict.DecodedImage`.
        file_sha256: hex digest of the file; equal for exact duplicates.
        file_bytes: of the file.
        file_height: height of the file's image, upright, in pixels.
        file_width: likewise.
        color: mean red, green and blue, 0 to 255.
        hash: perceptual hash, hexadecimal; see `perceptual_hash`.
        spool: name of the file in the work folder that has the stored image, or "" if that is the
            source file itself.
        offset: of the stored image in the spool, in bytes.
    """

    ref: ImageRef
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
    color: tuple[float, float, float] = (0.0, 0.0, 0.0)
    hash: str = ""
    spool: str = ""
    offset: int = 0

    def values(self) -> tuple:
        """Return the arguments of a new one after `ref`, ready for JSON."""
        return self[1:]

    def replace(self, **changes: Any) -> "ImageInfo":
        """Return a copy with other values."""
        return self._replace(**changes)


def describe(ref: ImageRef, data: bytes, store: Store) -> tuple[ImageInfo, bytes, np.ndarray]:
    """Decode an image file and describe it, without its mean colour and hash.

    Returns:
        The description; the stored image, or b"" if that is the file itself; and the thumbnail
        for `perceptual_hash`.

    Raises:
        Rejected: the file cannot be used, see `strict.decode`.
    """
    image = store.decode(data)
    stored = store.apply(image, data)
    is_file = stored.encoded is data
    sha256 = stored.sha256
    info = ImageInfo(
        ref=ref,
        format=stored.format,
        height=stored.height,
        width=stored.width,
        bytes=len(stored.encoded),
        sha256=sha256,
        converted=image.converted,
        file_sha256=sha256 if is_file else hashlib.sha256(data).hexdigest(),
        file_bytes=len(data),
        file_height=image.height,
        file_width=image.width,
    )
    return info, b"" if is_file else stored.encoded, perceptual_hash.thumbnail(image.pixels)


def store_again(data: bytes, info: ImageInfo, store: Store) -> bytes:
    """Return the stored image of a file that was described before.

    Raises:
        Rejected: the file has changed.
    """
    encoded = store.convert(data).encoded if info.spool else data
    if hashlib.sha256(encoded).hexdigest() != info.sha256:
        raise Rejected("changed", "its bytes differ from those that were checked")
    return encoded
