"""What is known of one image file after it was decoded once."""

import hashlib
import inspect
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from tfpipe.core.errors import Rejected
from tfpipe.images import perceptual_hash
from tfpipe.images.store import Store


class ImageRef(NamedTuple):
    """One file: the index of its source, and its name there."""

    source: int
    name: str


T = TypeVar("T")
U = TypeVar("U")

# Six sizes, an offset, three means, and whether there is a digest of the file.
_NUMBERS = struct.Struct("<6IQ3d?")
_DIGEST_BYTES = 32


class ImageInfo:
    """A good image, described without its pixels.

    A build keeps one for each of its images, so it is packed: 235 bytes, where a tuple takes 690.

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

    __slots__ = ("_packed", "converted", "format", "ref", "spool")

    def __init__(
        self,
        ref: ImageRef,
        format: str,
        height: int,
        width: int,
        bytes: int,
        sha256: str,
        converted: str,
        file_sha256: str,
        file_bytes: int,
        file_height: int,
        file_width: int,
        color: tuple[float, float, float] = (0.0, 0.0, 0.0),
        hash: str = "",
        spool: str = "",
        offset: int = 0,
    ):
        self.ref = ref
        self.format, self.converted, self.spool = map(sys.intern, (format, converted, spool))
        differs = file_sha256 != sha256
        sizes = height, width, bytes, file_bytes, file_height, file_width
        digests = sha256, file_sha256 if differs else "", hash
        self._packed = _NUMBERS.pack(*sizes, offset, *color, differs) + bytearray.fromhex(
            "".join(digests)
        )

    def values(self) -> tuple:
        """Return the arguments of a new one after `ref`, ready for JSON."""
        height, width, size, *file_sizes, offset, red, green, blue, differs = _NUMBERS.unpack_from(
            self._packed
        )
        digests = self._packed[_NUMBERS.size :]
        count = 2 if differs else 1
        sha256 = digests[:_DIGEST_BYTES].hex()
        file_sha256 = digests[_DIGEST_BYTES : 2 * _DIGEST_BYTES].hex() if differs else sha256
        return (
            *(self.format, height, width, size, sha256, self.converted, file_sha256, *file_sizes),
            *((red, green, blue), digests[count * _DIGEST_BYTES :].hex(), self.spool, offset),
        )

    def replace(self, **changes: Any) -> "ImageInfo":
        """Return a copy with other values."""
        values = dict(zip(_FIELDS, self.values(), strict=True))
        return ImageInfo(**{"ref": self.ref, **values, **changes})

    @property
    def sha256(self) -> str:
        """The hex digest of the stored image."""
        return self._packed[_NUMBERS.size : _NUMBERS.size + _DIGEST_BYTES].hex()

    def __getattr__(self, name: str) -> Any:
        if name not in _FIELDS:
            raise AttributeError(f"an ImageInfo has no {name!r}")
        return self.values()[_FIELDS.index(name)]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ImageInfo):
            return NotImplemented
        return (self.ref, self.values()) == (other.ref, other.values())

    def __hash__(self) -> int:
        return hash((self.ref, self._packed))

    def __reduce__(self) -> tuple:
        return _restore, (*self.ref, self.format, self.converted, self.spool, self._packed)


def _restore(
    source: int, name: str, format: str, converted: str, spool: str, packed: bytes
) -> ImageInfo:
    """Return the original of a pickled copy, which is as small."""
    info = ImageInfo.__new__(ImageInfo)
    info.ref, info._packed = ImageRef(source, name), packed
    info.format, info.converted, info.spool = map(sys.intern, (format, converted, spool))
    return info


_FIELDS = tuple(inspect.signature(ImageInfo).parameters)[1:]


class InfoColumn(Sequence[T]):
    """A value of each item, made when it is asked for: a million of them take no memory."""

    def __init__(self, items: Sequence[U], value: Callable[[U], T]):
        self._items, self._value = items, value

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> T:
        return self._value(self._items[index])

    def __iter__(self) -> Iterator[T]:
        return map(self._value, self._items)


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
