"""What of a picture is stored in a record: the file itself, a smaller picture, or bare pixels."""

import dataclasses
import io
import re
from typing import NamedTuple

import numpy as np
import PIL.Image
import simplejpeg

from tfpipe.core.errors import UserError
from tfpipe.images import perceptual
from tfpipe.images.decode import Picture

# At this quality a second JPEG coding is not visible.
JPEG_QUALITY = 95

_JPEG = b"\xff\xd8"  # that such a file begins with

RAW = "raw"  # `Stored.format` of bare pixels

_MAX_SIDE = 4096  # pixels that may be asked for
_FORM = re.compile(r"(?P<form>original|resized|raw)(:(?P<a>\d{1,5})(x(?P<b>\d{1,5}))?)?", re.ASCII)
_ALLOWED = (
    "give original, resized:320 (the shorter side), resized:299x299 (width and height) or raw:256"
)


class Stored(NamedTuple):
    """What a record holds of an image.

    Attributes:
        encoded: a JPEG or PNG file, or the bytes of uint8 [height, width, 3], RGB.
        format: "jpeg", "png" or "raw".
        height: in pixels.
        width: in pixels.
    """

    encoded: bytes
    format: str
    height: int
    width: int


@dataclasses.dataclass(frozen=True)
class Store:
    """How images are stored.

    Attributes:
        form: "original", "resized" or "raw".
        width: in pixels; 0 keeps the file's size, or its proportions if `height` is given.
        height: in pixels; of the shorter side if there is no `width`.
        quality: of every JPEG file that is written, 1 to 100.
    """

    form: str = "original"
    width: int = 0
    height: int = 0
    quality: int = JPEG_QUALITY

    @property
    def enough(self) -> int:
        """What `decode.decode` is to be asked for; a file that is stored is only looked at."""
        return 0 if self.height else perceptual.SIDE

    def apply(self, picture: Picture, data: bytes) -> Stored:
        """Returns what is stored of a picture that was decoded, as `enough` asks, from `data`.

        The file itself is kept wherever it will do: it is plain, and not to be resized or has the
        size already. A picture is never enlarged to keep its proportions.
        """
        height, width = picture.height, picture.width
        size = self._size(width, height)
        if self.form == RAW:
            return Stored(_resized(picture.pixels, size).tobytes(), RAW, size[1], size[0])
        if picture.is_plain and size == (width, height):
            return Stored(data, picture.kind, height, width)
        kind = "jpeg" if self.form == "resized" else picture.kind
        pixels = _resized(picture.pixels, size)
        if kind == "png":
            return Stored(png(pixels), kind, size[1], size[0])
        coarse = self.form == "resized" and _has_coarse_chroma(data)
        return Stored(self.jpeg(pixels, coarse_chroma=coarse), kind, size[1], size[0])

    def jpeg(self, pixels: np.ndarray, *, coarse_chroma: bool = False) -> bytes:
        """Returns uint8 [H, W, 3] as a JPEG file, its chroma in full or in half the resolution."""
        subsampling = "420" if coarse_chroma else "444"
        return simplejpeg.encode_jpeg(
            np.ascontiguousarray(pixels), quality=self.quality, colorsubsampling=subsampling
        )

    def _size(self, width: int, height: int) -> tuple[int, int]:
        if not self.height:
            return width, height
        if self.width:
            return self.width, self.height
        scale = self.height / min(width, height)
        if scale >= 1:
            return width, height
        return max(1, round(width * scale)), max(1, round(height * scale))


def parse(text: str, quality: int = JPEG_QUALITY) -> Store:
    """Parses --store: "original", "resized:320", "resized:299x299", "raw:256" or "raw:320x240".

    Raises:
        UserError: the text has another form, or a number is out of range.
    """
    match = _FORM.fullmatch(text)
    sized = match is not None and match["a"] is not None
    if match is None or sized == (match["form"] == "original"):
        raise UserError(f"--store={text}: {_ALLOWED}", status=2)
    if not 1 <= quality <= 100:
        raise UserError(f"--jpeg_quality={quality} is not from 1 to 100", status=2)
    sides = [int(side) for side in (match["a"], match["b"]) if side]
    if not all(1 <= side <= _MAX_SIDE for side in sides):
        raise UserError(
            f"--store={text}: give a size from 1 to {_MAX_SIDE} pixels; {_ALLOWED}", status=2
        )
    if not sides:
        return Store(quality=quality)
    square = match["form"] == RAW and len(sides) == 1
    width = sides[0] if len(sides) == 2 or square else 0
    return Store(match["form"], width, sides[-1], quality)


def _has_coarse_chroma(data: bytes) -> bool:
    """Tells whether a file has its chroma in half the resolution, as most photographs have.

    A smaller copy then may have so too: it is a third faster to decode.
    """
    if not data.startswith(_JPEG):
        return False
    return simplejpeg.decode_jpeg_header(data)[2:] == ("YCbCr", "420")


def _resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if size == (pixels.shape[1], pixels.shape[0]):
        return pixels
    # With antialiasing and the triangle kernel, as `input.preprocess` resizes in TensorFlow.
    return np.asarray(PIL.Image.fromarray(pixels).resize(size, PIL.Image.Resampling.BILINEAR))


def png(pixels: np.ndarray) -> bytes:
    """Returns uint8 [H, W, 3] as a PNG file."""
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
