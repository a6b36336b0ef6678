"""Decode an image file completely for a build, or say why it cannot be used.

TensorFlow ignores EXIF orientation, reads CMYK, 16-bit, palette and transparent images each in its
own way, and WebP, TIFF and AVIF not at all. So a file is plain, and stored as it is, only if
TensorFlow, libjpeg-turbo and Pillow agree about it. A build converts all others to upright 8-bit
RGB.
"""

import io
from typing import Any, NamedTuple

import numpy as np
import PIL.features
import PIL.Image
import simplejpeg

from tfpipe.core.errors import Rejected
from tfpipe.images import integrity
from tfpipe.images import pixels as rules
from tfpipe.images.pixels import MAX_PIXELS, TURNS

# A short list, because Pillow hands some formats to other programs (EPS to Ghostscript) and others
# to little-tested code.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")
if PIL.features.check("avif"):
    FORMATS += ("AVIF",)

# The reason for a file whose first bytes belong to no image format.
NOT_AN_IMAGE = "not an image"

# A grey file is stored as it is: TensorFlow repeats the channel.
GREY = "grey"

_ORIENTATION_TAG = 0x0112

_ROWS = 256  # blended with white at a time, so that 16-bit intermediates need little memory

# First bytes of formats that we read, for files whose header is damaged further on.
_MAGIC = {
    b"\xff\xd8": "JPEG",
    b"\x89PNG": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
}

# libjpeg-turbo's names of the colour spaces that TensorFlow decodes correctly.
_PLAIN_COLORS = ("YCbCr", "RGB", "Gray")

# libjpeg's messages about missing or wrong pixels; others are about kinds that it cannot decode.
_DAMAGE = ("Corrupt JPEG data", "Premature end", "Inconsistent progression")


class DecodedImage(NamedTuple):
    """The pixels of an image file.

    Attributes:
        pixels: uint8 [height, width, 3], upright RGB; perhaps of a smaller version.
        format: the format to store it in: "jpeg" for a JPEG file, else "png", which is lossless.
        converted: why the file cannot be stored as it is, or "". Its format if that is not JPEG or
            PNG, or "animated", "alpha", "16 bit", "palette", "bit depth", "cmyk", "rotated". "grey"
            is an exception: such a file is stored as it is.
        full_size: height and width of the file's image, if `pixels` are of a smaller version.
    """

    pixels: np.ndarray
    format: str
    converted: str
    full_size: tuple[int, int] | None = None

    @property
    def height(self) -> int:
        """The height of the file's image in pixels."""
        return (self.full_size or self.pixels.shape)[0]

    @property
    def width(self) -> int:
        """The width of the file's image in pixels."""
        return (self.full_size or self.pixels.shape)[1]

    @property
    def is_plain(self) -> bool:
        """Whether TensorFlow decodes the file to these pixels."""
        return self.converted in ("", GREY)


def decode(data: bytes, *, min_side: int = 0) -> DecodedImage:
    """Decode an image file of any of `FORMATS`, whatever its name says.

    Args:
        data: the file.
        min_side: pixels of the shorter side that suffice for a look at the image; 0 for its exact
            pixels. A JPEG may then give a smaller version. Its compressed data is still decoded
            completely, and the same damage is found: only the inverse transform, which cannot
            fail, is done at the smaller size.

    Raises:
        Rejected: the file is no image, damaged, truncated, of an unsupported kind, has more than
            `MAX_PIXELS` pixels, or needs more memory than there is.
    """
    try:
        image = _plain_jpeg(data, min_side) if data.startswith(b"\xff\xd8") else None
        return image or _any_kind(data)
    except PIL.Image.DecompressionBombError:
        raise Rejected("too many pixels", f"more than {MAX_PIXELS:,} by its header") from None
    except MemoryError:
        raise Rejected("too large", "not enough memory to decode it") from None


def _plain_jpeg(data: bytes, min_side: int) -> DecodedImage | None:
    """Decode a usual JPEG at the speed of libjpeg-turbo; return None for any other kind."""
    try:
        if integrity.check_jpeg(data) and _orientation(_open(data)) != 1:
            return None
    except PIL.UnidentifiedImageError:
        return None
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
        if colors not in _PLAIN_COLORS:
            return None
        _check_pixels(width, height)
        # Strict: libjpeg only warns about damage, which Pillow and TensorFlow show as grey or
        # shifted blocks.
        pixels = simplejpeg.decode_jpeg(data, "RGB", **_scaled(height, width, min_side))
    except ValueError as error:
        if "Insufficient memory" in str(error):
            raise MemoryError from None
        if str(error).startswith(_DAMAGE) and "ICC" not in str(error):
            raise Rejected("damaged", f"libjpeg: {error}") from None
        return None  # a rare kind that Pillow may know
    return DecodedImage(pixels, "jpeg", GREY if colors == "Gray" else "", (height, width))


def _scaled(height: int, width: int, min_side: int) -> dict[str, Any]:
    """Return simplejpeg's arguments for the smallest version that suffices."""
    if not min_side:
        return {}
    factor = rules.jpeg_factor(min(height, width), min_side)
    size = {"min_height": -(-height // factor), "min_width": -(-width // factor)}
    return {"fastdct": True, "fastupsample": True, **size}


def _any_kind(data: bytes) -> DecodedImage:
    """Decode a file with Pillow; `_plain_jpeg` has checked the structure of a JPEG."""
    image = _load(data)
    converted = _why_convert(image, data)
    try:
        if converted in ("", GREY):
            pixels = np.asarray(image.convert("RGB"))
        else:
            pixels = _upright_rgb(image, data)
    except ValueError as error:  # a rare colour mode
        raise Rejected("unsupported", str(error)) from None
    return DecodedImage(pixels, "jpeg" if _format(image) == "jpeg" else "png", converted)


def _open(data: bytes) -> PIL.Image.Image:
    return PIL.Image.open(io.BytesIO(data), formats=FORMATS)


def _check_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise PIL.Image.DecompressionBombError


def _load(data: bytes) -> PIL.Image.Image:
    """Return an image whose pixels are loaded, or raise Rejected."""
    try:
        image = _open(data)
        _check_pixels(image.width, image.height)
        # Before anything else loads it: a second attempt after a failed one may succeed and give a
        # blank image.
        image.load()
        if _format(image) == "png":
            channels = 4 * max(1, _png_depth(data) // 8)
            integrity.check_png(data, image.height * (image.width * channels + 1))
    except (Rejected, MemoryError, PIL.Image.DecompressionBombError):
        raise
    except PIL.UnidentifiedImageError:
        raise _unidentified(data) from None
    except Exception as error:  # Pillow's decoders raise almost anything on damaged input
        raise Rejected("damaged", f"{type(error).__name__}: {error}") from None
    return image


def _unidentified(data: bytes) -> Rejected:
    if not data:
        return Rejected(NOT_AN_IMAGE, "the file is empty")
    kind = next((name for magic, name in _MAGIC.items() if data.startswith(magic)), None)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        kind = "WebP"
    if kind:
        return Rejected("damaged", f"begins like a {kind} file, but its header is unreadable")
    if data[4:8] in (b"ftyp", b"jP  "):
        return Rejected(
            "unsupported", "AVIF, HEIC and JPEG 2000 are not supported; convert it to JPEG"
        )
    return Rejected(NOT_AN_IMAGE, f"begins with {data[:8]!r}")


def _format(image: PIL.Image.Image) -> str:
    # Pillow calls a JPEG that holds further images MPO.
    return "jpeg" if image.format in ("JPEG", "MPO") else image.format.lower()


def _why_convert(image: PIL.Image.Image, data: bytes) -> str:
    """Return the first reason in the order of `DecodedImage.converted`, or ""."""
    kind = _format(image)
    if kind not in ("jpeg", "png"):
        return kind
    if kind == "png":
        if getattr(image, "is_animated", False):
            return "animated"
        if image.has_transparency_data:
            return "alpha"
        if image.mode == "P":
            return "palette"
        if _png_depth(data) != 8:
            return "16 bit" if _png_depth(data) == 16 else "bit depth"
    if image.mode not in ("RGB", "L"):
        return image.mode.lower()
    if _orientation(image) != 1:
        return "rotated"
    return GREY if image.mode == "L" else ""


def _upright_rgb(image: PIL.Image.Image, data: bytes) -> np.ndarray:
    """Return uint8 [H, W, 3], upright and on white."""
    orientation = _orientation(image)  # 1 for TIFF, which Pillow has turned
    if image.mode.startswith("I;16"):
        pixels = _eight_bit(image)
    elif image.mode in ("I", "F"):
        raise Rejected("unsupported", "32-bit and floating-point pixels have no fixed white")
    else:
        if image.format == "PNG" and "transparency" in image.info:
            _scale_transparency(image, _png_depth(data))
        transparent = image.has_transparency_data
        pixels = _on_white(image) if transparent else np.asarray(image.convert("RGB"))
    return rules.turn(pixels, orientation)


def _on_white(image: PIL.Image.Image) -> np.ndarray:
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, _ROWS):
        bottom = min(top + _ROWS, image.height)
        rgba = np.asarray(image.crop((0, top, image.width, bottom)).convert("RGBA"), np.uint16)
        pixels[top:bottom] = rules.on_white(rgba[..., :3], rgba[..., 3:])
    return pixels


def _eight_bit(image: PIL.Image.Image) -> np.ndarray:
    """Scale 16-bit grey to 8-bit RGB; Pillow's own conversion clips almost all of it to white."""
    values = np.asarray(image)
    grey = (values >> 8).astype(np.uint8)
    if "transparency" in image.info:
        grey[values == image.info["transparency"]] = 255
    return np.repeat(grey[..., np.newaxis], 3, axis=2)


def _scale_transparency(image: PIL.Image.Image, depth: int) -> None:
    """Bring a PNG's transparent colour to the 8-bit scale of its pixels; Pillow does not."""
    colour = image.info["transparency"]
    if depth == 16 and isinstance(colour, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in colour)
    elif depth in (2, 4) and isinstance(colour, int) and image.mode == "L":
        image.info["transparency"] = colour * 255 // (2**depth - 1)


def _png_depth(data: bytes) -> int:
    """Return the bits per channel of a PNG file, or 0 if its header is in the wrong place."""
    return data[24] if data[12:16] == b"IHDR" else 0


def _orientation(image: PIL.Image.Image) -> int:
    """Return the EXIF or XMP orientation, 1 (upright) if it is missing or damaged."""
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # damaged EXIF raises almost anything, and the pixels are good
        return 1
    return orientation if orientation in TURNS else 1
