"""Looks into one image file: whether it is good, what is stored of it, and what it looks like."""

import dataclasses
import hashlib

import numpy as np

from tfpipe.core.errors import Rejected
from tfpipe.images import perceptual
from tfpipe.images.decode import decode
from tfpipe.images.found import Found, Item
from tfpipe.images.store import Store

ORIGINAL = Store()


@dataclasses.dataclass(frozen=True)
class Image:
    """An image file that TensorFlow decodes to the right upright RGB pixels.

    Attributes:
        encoded: a JPEG or PNG file.
        format: "jpeg" or "png".
        height: in pixels, upright.
        width: in pixels, upright.
        sha256: hex digest of `encoded`.
        converted: as in `decode.Picture`.
    """

    encoded: bytes
    format: str
    height: int
    width: int
    sha256: str
    converted: str


def inspect(data: bytes, store: Store = ORIGINAL) -> Image:
    """Decodes an image file completely and returns what is to be stored of it.

    The result depends on the arguments only, so that doing it again gives the same bytes.

    Raises:
        Rejected: as `decode.decode` says.
    """
    picture = decode(data, enough=store.enough)
    stored = store.apply(picture, data)
    return Image(*stored, hashlib.sha256(stored.encoded).hexdigest(), picture.converted)


def describe(item: Item, data: bytes, store: Store) -> tuple[Found, bytes, np.ndarray]:
    """Does the same and describes the image, but for its looks, which `perceptual` tells.

    Returns:
        The description, with a `color` and `hash` that mean nothing; what is stored, or b"" if
        that is the file itself; and the thumbnail to be looked at.

    Raises:
        Rejected: as `decode.decode` says.
    """
    picture = decode(data, enough=store.enough)
    stored = store.apply(picture, data)
    file_sha256 = sha256 = hashlib.sha256(data).hexdigest()
    if stored.encoded is not data:
        sha256 = hashlib.sha256(stored.encoded).hexdigest()
    found = Found(
        item=item,
        format=stored.format,
        height=stored.height,
        width=stored.width,
        bytes=len(stored.encoded),
        sha256=sha256,
        converted=picture.converted,
        file_sha256=file_sha256,
        file_bytes=len(data),
        file_height=picture.height,
        file_width=picture.width,
        color=(0.0, 0.0, 0.0),
        hash="",
    )
    thumbnail = perceptual.thumbnail(picture.pixels)
    return found, b"" if stored.encoded is data else stored.encoded, thumbnail


def repeat(data: bytes, known: Found, store: Store) -> bytes:
    """Returns what is stored of a file that was described before.

    Raises:
        Rejected: the file is another one now.
    """
    encoded = inspect(data, store).encoded if known.spool else data
    if hashlib.sha256(encoded).hexdigest() != known.sha256:
        raise Rejected("changed", "not the bytes that were inspected")
    return encoded
