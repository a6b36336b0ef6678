"""Decodes an image file completely, or says why it cannot be used.

TensorFlow ignores EXIF orientation, reads CMYK, 16-bit, palette and transparent pictures each in
its own way, and WebP, TIFF and AVIF not at all. So a file is plain, to be stored as it is, only if
TensorFlow, libjpeg-turbo and Pillow agree about it; any other is converted to upright 8-bit RGB.
"""

import io
from typing import Any, NamedTuple

import numpy as np
import PIL.features
import PIL.Image
import simplejpeg

from tfpipe.core.errors import Rejected
from tfpipe.images import intact

# Restricted, because Pillow hands some formats to programs (EPS to Ghostscript) and others to
# little-tested code, whatever the file is called.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")
if PIL.features.check("avif"):
    FORMATS += ("AVIF",)

# 256 MiB of RGB, where Pillow begins to warn. The header tells, so nothing is allocated before.
MAX_PIXELS = 89_478_485

# The reason for a file whose first bytes are no image's.
NOT_AN_IMAGE = "not an image"

# Stored as it is; TensorFlow repeats the one channel when asked for three.
GREY = "grey"

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}

# First bytes of files that are, or were, of a format we read; the rest of the header is damaged.
_MAGIC = {
    b"\xff\xd8": "JPEG",
    b"\x89PNG": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
}

# How libjpeg-turbo names the colours that TensorFlow decodes rightly.
_PLAIN_COLORS = ("YCbCr", "RGB", "Gray")


class Picture(NamedTuple):
    """The pixels of an image file.

    Attributes:
        pixels: uint8 [height, width, 3], upright RGB, or those of a smaller version.
        kind: how to store it: "jpeg" if the file is one, else "png", which loses nothing.
        converted: why the file itself will not do, or "": its format if that is not JPEG or PNG,
            or "animated", "alpha", "16 bit", "palette", "bit depth", "cmyk", "rotated"; or "grey",
            where only the decoder adds channels and the file will do.
        full_size: height and width, where `pixels` are of a smaller version.
    """

    pixels: np.ndarray
    kind: str
    converted: str
    full_size: tuple[int, int] | None = None

    @property
    def height(self) -> int:
        """Of the picture, in pixels."""
        return (self.full_size or self.pixels.shape)[0]

    @property
    def width(self) -> int:
        """Of the picture, in pixels."""
        return (self.full_size or self.pixels.shape)[1]

    @property
    def is_plain(self) -> bool:
        """Whether TensorFlow reads these pixels from the file as it is."""
        return self.converted in ("", GREY)


def decode(data: bytes, *, enough: int = 0) -> Picture:
    """Decodes an image file of any kind in `FORMATS`, whatever its name says.

    Args:
        data: the file.
        enough: the length of the shorter side, in pixels, that is enough where the picture is only
            to be looked at; 0 for all of it, exactly. A JPEG file may then give a smaller version.
            Its compressed data is decoded completely all the same, and the same damage is found:
            what is left out, the inverse transform to the full size, cannot fail.

    Raises:
        Rejected: it is no image, damaged, truncated, of an unsupported kind, has more than
            `MAX_PIXELS` pixels, or needs more memory than there is.
    """
    try:
        picture = _plain_jpeg(data, enough) if data.startswith(b"\xff\xd8") else None
        return picture or _any_kind(data)
    except PIL.Image.DecompressionBombError:
        raise Rejected("too many pixels", f"more than {MAX_PIXELS:,} by its header") from None
    except MemoryError:
        raise Rejected("too large", "not enough memory to decode it") from None


def _plain_jpeg(data: bytes, enough: int) -> Picture | None:
    """Decodes a JPEG of the usual kind at the speed of libjpeg-turbo; None for any other kind."""
    try:
        if intact.check_jpeg(data) and _orientation(_opened(data)) in _UPRIGHT:
            return None
    except PIL.UnidentifiedImageError:
        return None
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
        if colors not in _PLAIN_COLORS:
            return None
        _check_pixels(width, height)
        # Strict: what libjpeg only warns about is damage, which Pillow and TensorFlow show as
        # grey or shifted blocks.
        pixels = simplejpeg.decode_jpeg(data, "RGB", **_scaled(height, width, enough))
    except ValueError as error:
        if "Insufficient memory" in str(error):
            raise MemoryError from None
        if str(error).startswith(_DAMAGE) and "ICC" not in str(error):
            raise Rejected("damaged", f"libjpeg: {error}") from None
        return None  # a rare kind, about which Pillow knows more
    return Picture(pixels, "jpeg", GREY if colors == "Gray" else "", (height, width))


def _scaled(height: int, width: int, enough: int) -> dict[str, Any]:
    """Returns the arguments for the smallest version that is `enough`."""
    if not enough:
        return {}
    # libjpeg-turbo has other factors too, but not as fast ones.
    factor = next((f for f in (8, 4, 2) if min(height, width) >= f * enough), 1)
    size = {"min_height": -(-height // factor), "min_width": -(-width // factor)}
    return {"fastdct": True, "fastupsample": True, **size}


# What libjpeg says of pixels that are missing or wrong, as against a kind it cannot decode.
_DAMAGE = ("Corrupt JPEG data", "Premature end", "Inconsistent progression")


def _any_kind(data: bytes) -> Picture:
    """Decodes a file as Pillow does; `_plain_jpeg` has checked the structure of a JPEG."""
    picture = _loaded(data)
    kind = _kind(picture)
    converted = _why_convert(picture, kind, data)
    try:
        if converted in ("", GREY):
            pixels = np.asarray(picture.convert("RGB"))
        else:
            pixels = np.asarray(_upright_rgb(picture, data))
    except ValueError as error:  # a rare kind of colour
        raise Rejected("unsupported", str(error)) from None
    return Picture(pixels, "jpeg" if kind == "jpeg" else "png", converted)


def _opened(data: bytes) -> PIL.Image.Image:
    return PIL.Image.open(io.BytesIO(data), formats=FORMATS)


def _check_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise PIL.Image.DecompressionBombError


def _loaded(data: bytes) -> PIL.Image.Image:
    """Returns a picture that is loaded, or raises Rejected."""
    try:
        picture = _opened(data)
        _check_pixels(picture.width, picture.height)
        # Once only, and before anything else that might load it: a second attempt after a failed
        # one may succeed and give a blank picture.
        picture.load()
        if _kind(picture) == "png":
            channels = 4 * max(1, _png_depth(data) // 8)
            intact.check_png(data, picture.height * (picture.width * channels + 1))
    except (Rejected, MemoryError, PIL.Image.DecompressionBombError):
        raise
    except PIL.UnidentifiedImageError:
        raise _unidentified(data) from None
    except Exception as error:  # Pillow's decoders raise almost anything on damaged input
        raise Rejected("damaged", f"{type(error).__name__}: {error}") from None
    return picture


def _unidentified(data: bytes) -> Rejected:
    if not data:
        return Rejected(NOT_AN_IMAGE, "the file is empty")
    kind = next((name for magic, name in _MAGIC.items() if data.startswith(magic)), None)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        kind = "WebP"
    if kind:
        return Rejected("damaged", f"begins like a {kind} file, but its header is unreadable")
    if data[4:8] == b"ftyp" or data[4:8] == b"jP  ":
        return Rejected("unsupported", "AVIF, HEIC and JPEG 2000 are not read; convert it to JPEG")
    return Rejected(NOT_AN_IMAGE, f"begins with {data[:8]!r}")


def _kind(picture: PIL.Image.Image) -> str:
    # Pillow calls a JPEG with further pictures behind the first MPO.
    return "jpeg" if picture.format in ("JPEG", "MPO") else picture.format.lower()


def _why_convert(picture: PIL.Image.Image, kind: str, data: bytes) -> str:
    """Returns the first reason in the order of `Picture.converted`, or ""."""
    if kind not in ("jpeg", "png"):
        return kind
    if kind == "png":
        if getattr(picture, "is_animated", False):
            return "animated"
        if picture.has_transparency_data:
            return "alpha"
        if picture.mode == "P":
            return "palette"
        if _png_depth(data) != 8:
            return "16 bit" if _png_depth(data) == 16 else "bit depth"
    if picture.mode not in ("RGB", "L"):
        return picture.mode.lower()
    if _orientation(picture) in _UPRIGHT:
        return "rotated"
    return GREY if picture.mode == "L" else ""


def _upright_rgb(picture: PIL.Image.Image, data: bytes) -> PIL.Image.Image:
    """Returns an RGB picture without metadata; transparent parts become white."""
    turn = _UPRIGHT.get(_orientation(picture))  # TIFF files Pillow has turned already
    if picture.mode.startswith("I;16"):
        picture = _eight_bit(picture)
    elif picture.mode in ("I", "F"):
        raise Rejected("unsupported", "32-bit and floating-point pixels have no fixed white")
    else:
        if picture.format == "PNG" and "transparency" in picture.info:
            _scale_transparency(picture, _png_depth(data))
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            white = PIL.Image.new("RGBA", picture.size, "white")
            picture = PIL.Image.alpha_composite(white, picture)
        picture = picture.convert("RGB")
    if turn is not None:
        picture = picture.transpose(turn)
    picture.info.clear()  # or saving would copy the comment and the old colour profile
    return picture


def _eight_bit(picture: PIL.Image.Image) -> PIL.Image.Image:
    """Scales 16-bit grey to 8-bit RGB; Pillow's own conversion clips almost all of it to white."""
    values = np.asarray(picture)
    grey = (values >> 8).astype(np.uint8)
    if "transparency" in picture.info:
        grey[values == picture.info["transparency"]] = 255
    return PIL.Image.fromarray(grey).convert("RGB")


def _scale_transparency(picture: PIL.Image.Image, depth: int) -> None:
    """Brings a PNG's transparent colour to the 8-bit scale of its pixels, as Pillow does not."""
    colour = picture.info["transparency"]
    if depth == 16 and isinstance(colour, tuple):
        picture.info["transparency"] = tuple(value >> 8 for value in colour)
    elif depth in (2, 4) and isinstance(colour, int) and picture.mode == "L":
        picture.info["transparency"] = colour * 255 // (2**depth - 1)


def _png_depth(data: bytes) -> int:
    """Returns the bits per channel of a PNG file, or 0 if its header is not where it belongs."""
    return data[24] if data[12:16] == b"IHDR" else 0


def _orientation(picture: PIL.Image.Image) -> int:
    """Returns the EXIF or XMP orientation; 1, upright, where the metadata is damaged."""
    try:
        return picture.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # damaged EXIF raises almost anything, and the pixels are good
        return 1
