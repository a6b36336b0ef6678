"""What a record stores of an image: the file itself, a smaller image, or bare pixels."""

import dataclasses
import hashlib
import io
import re
from typing import NamedTuple

import numpy as np
import PIL.Image
import simplejpeg

from tfpipe.core.errors import UserError
from tfpipe.images import perceptual_hash, strict
from tfpipe.images import pixels as rules
from tfpipe.images.strict import DecodedImage

JPEG_QUALITY = 95  # a second JPEG coding is not visible

RAW = "raw"  # `StoredImage.format` of bare pixels

_JPEG = b"\xff\xd8"  # the first bytes of a JPEG file
_MAX_SIDE = 4096  # pixels
_FORM = re.compile(r"(?P<form>original|resized|raw)(:(?P<a>\d{1,5})(x(?P<b>\d{1,5}))?)?", re.ASCII)
_ALLOWED = (
    "give original, resized:320 (the shorter side), resized:299x299 (width and height) or raw:256"
)


class StoredImage(NamedTuple):
    """An image as a record stores it; TensorFlow decodes it to the right upright RGB pixels.

    Attributes:
        encoded: a JPEG or PNG file, or the bytes of uint8 [height, width, 3], RGB.
        format: "jpeg", "png" or "raw".
        height: in pixels.
        width: in pixels.
        converted: as in `strict.DecodedImage`.
    """

    encoded: bytes
    format: str
    height: int
    width: int
    converted: str

    @property
    def sha256(self) -> str:
        """The hex digest of `encoded`."""
        return hashlib.sha256(self.encoded).hexdigest()


@dataclasses.dataclass(frozen=True)
class Store:
    """How images are stored.

    Attributes:
        form: "original", "resized" or "raw".
        width: in pixels; 0 keeps the file's size, or its proportions if `height` is given.
        height: in pixels; of the shorter side if there is no `width`.
        quality: of every JPEG file that is written, 1 to 100.
        depth16: how 16-bit greys become 8-bit ones, one of `pixels.DEPTHS`.
    """

    form: str = "original"
    width: int = 0
    height: int = 0
    quality: int = JPEG_QUALITY
    depth16: str = rules.AUTO

    def decode(self, data: bytes) -> DecodedImage:
        """Decode an image file for `apply`; only as far as a thumbnail needs if files are stored.

        Raises:
            Rejected: the file cannot be used, see `strict.decode`.
        """
        min_side = 0 if self.height else perceptual_hash.SIDE
        return strict.decode(data, min_side=min_side, depth16=self.depth16)

    def convert(self, data: bytes) -> StoredImage:
        """Decode an image file completely and return what is stored of it.

        The same file and store give the same bytes.

        Raises:
            Rejected: the file cannot be used, see `strict.decode`.
        """
        return self.apply(self.decode(data), data)

    def apply(self, image: DecodedImage, data: bytes) -> StoredImage:
        """Return what is stored of an image that `decode` read from `data`.

        Its file is stored if TensorFlow reads it right and it has the right size already. An image
        is never enlarged to keep its proportions.
        """
        height, width = image.height, image.width
        size = new_width, new_height = self._size(width, height)
        if self.form == RAW:
            encoded, kind = _resize(image.pixels, size).tobytes(), RAW
        elif image.file and size == (width, height):
            encoded, kind = image.file, image.format
        elif image.format == "png" and self.form != "resized":
            encoded, kind = png(_resize(image.pixels, size)), "png"
        else:
            coarse = self.form == "resized" and _has_coarse_chroma(data)
            encoded, kind = self.jpeg(_resize(image.pixels, size), coarse_chroma=coarse), "jpeg"
        return StoredImage(encoded, kind, new_height, new_width, image.converted)

    def jpeg(self, pixels: np.ndarray, *, coarse_chroma: bool = False) -> bytes:
        """Return uint8 [H, W, 3] as a JPEG file, its chroma in full or in half the resolution."""
        subsampling = "420" if coarse_chroma else "444"
        return simplejpeg.encode_jpeg(
            np.ascontiguousarray(pixels), quality=self.quality, colorsubsampling=subsampling
        )

    def _size(self, width: int, height: int) -> tuple[int, int]:
        if not self.height:
            return width, height
        if self.width:
            return self.width, self.height
        scale = min(1.0, self.height / min(width, height))
        return max(1, round(width * scale)), max(1, round(height * scale))


ORIGINAL = Store()


def parse(text: str, quality: int = JPEG_QUALITY, depth16: str = rules.AUTO) -> Store:
    """Parse `store`: "original", "resized:320", "resized:299x299", "raw:256" or "raw:320x240".

    Raises:
        UserError: the text has another form, or a number is out of range.
    """
    match = _FORM.fullmatch(text)
    sized = match is not None and match["a"] is not None
    if match is None or sized == (match["form"] == "original"):
        raise UserError(f"`store={text}` is not a form of storage: {_ALLOWED}", status=2)
    if not 1 <= quality <= 100:
        raise UserError(f"`jpeg_quality={quality}` is not from 1 to 100", status=2)
    sides = [int(side) for side in (match["a"], match["b"]) if side]
    if not all(1 <= side <= _MAX_SIDE for side in sides):
        raise UserError(
            f"`store={text}`: give a size from 1 to {_MAX_SIDE} pixels; {_ALLOWED}", status=2
        )
    if not sides:
        return Store(quality=quality, depth16=depth16)
    square = match["form"] == RAW and len(sides) == 1
    width = sides[0] if len(sides) == 2 or square else 0
    return Store(match["form"], width, sides[-1], quality, depth16)


def png(pixels: np.ndarray) -> bytes:
    """Return uint8 [H, W, 3] as a PNG file."""
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _has_coarse_chroma(data: bytes) -> bool:
    """Return whether a file has its chroma in half the resolution, as most photographs do.

    Then a smaller copy has it too: it decodes a third faster.
    """
    if not data.startswith(_JPEG):
        return False
    try:
        return simplejpeg.decode_jpeg_header(data, strict=False)[2:] == ("YCbCr", "420")
    except ValueError:  # a rare kind of JPEG
        return False


def _resize(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize to (width, height), antialiased, as `preprocess` does in TensorFlow."""
    if size == (pixels.shape[1], pixels.shape[0]):
        return pixels
    image = PIL.Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize(size, PIL.Image.Resampling.BILINEAR))
