"""Looks into image files: which are whole, and what must be converted before TensorFlow sees them.

TensorFlow ignores EXIF orientation, reads CMYK, 16-bit, palette and transparent pictures each in
its own way, and WebP and TIFF not at all. So a file is stored as it is only if it is a plain JPEG
or PNG, about which TensorFlow and Pillow agree; any other is converted to upright 8-bit RGB.
"""

import dataclasses
import hashlib
import io

import numpy as np
import PIL.Image

from tfpipe.ingest import intact
from tfpipe.ingest.sources import Rejected

# Restricted, because Pillow hands some formats to programs (EPS to Ghostscript) and others to
# little-tested code, whatever the file is called.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")

# 256 MiB of RGB, where Pillow begins to warn. The header tells, so nothing is allocated before.
MAX_PIXELS = 89_478_485

# At this quality and without chroma subsampling a second JPEG coding is not visible.
JPEG_QUALITY = 95

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


@dataclasses.dataclass(frozen=True)
class Image:
    """An image file that TensorFlow decodes to the right upright RGB pixels.

    Attributes:
        encoded: a JPEG or PNG file.
        format: "jpeg" or "png".
        height: in pixels, upright.
        width: in pixels, upright.
        sha256: hex digest of `encoded`.
        converted: why the picture is not simply the file's, or "": the file's format if that is
            not JPEG or PNG, or "animated", "alpha", "16 bit", "palette", "bit depth", "cmyk",
            "rotated"; or "grey", where only the decoder adds channels and the file is unchanged.
    """

    encoded: bytes
    format: str
    height: int
    width: int
    sha256: str
    converted: str


def inspect(data: bytes) -> Image:
    """Decodes an image file completely, whatever its name says, and converts it if need be.

    The result depends on the bytes only, so that doing it again gives the same bytes.

    Raises:
        Rejected: it is no image, damaged, truncated, of an unsupported kind, or has more than
            `MAX_PIXELS` pixels.
    """
    picture = _decode(data)
    kind = _kind(picture)
    converted = _why_convert(picture, kind, data)
    if converted not in ("", GREY):
        try:
            picture = _upright_rgb(picture, data)
        except ValueError as error:  # a rare kind of colour
            raise Rejected("unsupported", str(error)) from None
        kind = "jpeg" if kind == "jpeg" else "png"
        data = _encode(picture, kind)
    return Image(
        encoded=data,
        format=kind,
        height=picture.height,
        width=picture.width,
        sha256=hashlib.sha256(data).hexdigest(),
        converted=converted,
    )


def repeat(data: bytes, known: Image) -> Image:
    """Does what `inspect` did to the same bytes, but decodes only what is converted.

    Args:
        data: the file.
        known: what `inspect` returned for it; its `encoded` is not used.

    Raises:
        Rejected: the file is another one now.
    """
    encoded = data if known.converted in ("", GREY) else inspect(data).encoded
    if hashlib.sha256(encoded).hexdigest() != known.sha256:
        raise Rejected("changed", "not the bytes that were inspected")
    return dataclasses.replace(known, encoded=encoded)


def _decode(data: bytes) -> PIL.Image.Image:
    """Returns a picture that is loaded, or raises Rejected."""
    try:
        picture = PIL.Image.open(io.BytesIO(data), formats=FORMATS)
        if picture.width * picture.height > MAX_PIXELS:
            raise PIL.Image.DecompressionBombError
        if _kind(picture) == "jpeg":
            intact.check_jpeg(data)
        # Once only, and before anything else that might load it: a second attempt after a failed
        # one may succeed and give a blank picture.
        picture.load()
        if _kind(picture) == "png":
            channels = 4 * max(1, _png_depth(data) // 8)
            intact.check_png(data, picture.height * (picture.width * channels + 1))
    except Rejected:
        raise
    except PIL.Image.DecompressionBombError:
        raise Rejected("too many pixels", f"more than {MAX_PIXELS:,} by its header") from None
    except PIL.UnidentifiedImageError:
        raise _unidentified(data) from None
    except MemoryError:
        raise Rejected("too large", "not enough memory to decode it") from None
    except Exception as error:  # Pillow's decoders raise almost anything on damaged input
        raise Rejected("damaged", f"{type(error).__name__}: {error}") from None
    return picture


def _unidentified(data: bytes) -> Rejected:
    if not data:
        return Rejected("not an image", "the file is empty")
    kind = next((name for magic, name in _MAGIC.items() if data.startswith(magic)), None)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        kind = "WebP"
    if kind:
        return Rejected("damaged", f"begins like a {kind} file, but its header is unreadable")
    if data[4:8] == b"ftyp" or data[4:8] == b"jP  ":
        return Rejected("unsupported", "AVIF, HEIC and JPEG 2000 are not read; convert it to JPEG")
    return Rejected("not an image", f"begins with {data[:8]!r}")


def _kind(picture: PIL.Image.Image) -> str:
    # Pillow calls a JPEG with further pictures behind the first MPO.
    return "jpeg" if picture.format in ("JPEG", "MPO") else picture.format.lower()


def _encode(picture: PIL.Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    if kind == "jpeg":
        picture.save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    else:
        picture.save(file, "PNG")
    return file.getvalue()


def _why_convert(picture: PIL.Image.Image, kind: str, data: bytes) -> str:
    """Returns the first reason in the order of `Image.converted`, or ""."""
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
