"""Decode an image file completely for a build, or say why it cannot be used.

TensorFlow ignores EXIF orientation, reads CMYK, 16-bit, palette and transparent images each in its
own way, and WebP, TIFF and AVIF not at all. So a file is plain, and stored as it is, only if
TensorFlow, libjpeg-turbo and Pillow agree about it. A build converts all others to upright 8-bit
RGB.

A file is damaged if pixels are lost. Damaged metadata beside whole pixels are not: such a file is
mended.
"""

import functools
import io
from typing import Any, NamedTuple

import numpy as np
import PIL.features
import PIL.Image
import simplejpeg

from tfpipe.core.errors import Rejected
from tfpipe.images import file_kind, integrity, mend
from tfpipe.images import pixels as rules
from tfpipe.images.file_kind import FileKind
from tfpipe.images.pixels import MAX_PIXELS, TURNS

# The reason for a file whose contents are no image.
NOT_AN_IMAGE = "not an image"
UNSUPPORTED = "unsupported"

# A grey file is stored as it is: TensorFlow repeats the channel.
GREY = "grey"
MENDED = "mended"
SCALED = "16 bit scaled"

_ORIENTATION_TAG = 0x0112

_ROWS = 256  # blended with white at a time, so that 16-bit intermediates need little memory

# libjpeg-turbo's names of the colour spaces that TensorFlow decodes correctly.
_PLAIN_COLORS = ("YCbCr", "RGB", "Gray")

# Functions that leave out what holds no pixels, for files that Pillow cannot read.
_MENDERS = {
    "PNG": (integrity.sound_png, integrity.bare_png),
    "WEBP": (integrity.bare_webp,),
}


class DecodedImage(NamedTuple):
    """The pixels of an image file.

    Attributes:
        pixels: uint8 [height, width, 3], upright RGB; perhaps of a smaller version.
        format: the format to store it in: "jpeg" for a JPEG file, else "png", which is lossless.
        converted: why the file cannot be stored as it is, or "". Its format if that is not JPEG or
            PNG, or "animated", "alpha", "16 bit", "palette", "bit depth", "cmyk", "rotated". Three
            are special: "grey" files are stored as they are; "mended" ones lose bytes that hold no
            pixels; "16 bit scaled" files use a part of the range, see `pixels.to_8_bits`.
        full_size: height and width of the file's image, if `pixels` are of a smaller version.
        file: what TensorFlow decodes to these pixels: the file, perhaps mended; b"" if the pixels
            must be encoded anew.
    """

    pixels: np.ndarray
    format: str
    converted: str
    full_size: tuple[int, int] | None = None
    file: bytes = b""

    @property
    def height(self) -> int:
        """The height of the file's image in pixels."""
        return (self.full_size or self.pixels.shape)[0]

    @property
    def width(self) -> int:
        """The width of the file's image in pixels."""
        return (self.full_size or self.pixels.shape)[1]


def decode(data: bytes, *, min_side: int = 0, depth16: str = rules.AUTO) -> DecodedImage:
    """Decode an image file of any kind that is read, whatever its name says.

    Args:
        data: the file.
        min_side: pixels of the shorter side that suffice for a look at the image; 0 for its exact
            pixels. A JPEG may then give a smaller version. Its compressed data is still decoded
            completely, and the same damage is found: only the inverse transform, which cannot
            fail, is done at the smaller size.
        depth16: how 16-bit greys become 8-bit ones, one of `pixels.DEPTHS`.

    Raises:
        Rejected: the file is no image, damaged, truncated, of an unsupported kind, has more than
            `MAX_PIXELS` pixels, or needs more memory than there is.
    """
    kind = file_kind.find(data)
    try:
        if kind is None or not _is_read(kind):
            raise _refusal(data, kind)
        if kind is file_kind.JPEG:
            return _jpeg(data, min_side)
        return _any_kind(data, kind.pillow, depth16)
    except PIL.Image.DecompressionBombError:
        raise Rejected("too many pixels", f"more than {MAX_PIXELS:,} by its header") from None
    except MemoryError:
        raise Rejected("too large", "not enough memory to decode it") from None


def _is_read(kind: FileKind) -> bool:
    """Return whether a library that reads this kind is there.

    Pillow tries only the format that the first bytes tell: it hands some formats to other programs
    (EPS to Ghostscript) and others to little-tested code.
    """
    if kind is file_kind.HEIC:
        return _has_heif()
    return bool(kind.pillow) and (kind is not file_kind.AVIF or PIL.features.check("avif"))


@functools.cache
def _has_heif() -> bool:
    """Return whether Pillow can open HEIC, by a package that need not be installed."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def _refusal(data: bytes, kind: FileKind | None) -> Rejected:
    if kind is None:
        return Rejected(NOT_AN_IMAGE, f"begins with {data[:8]!r}")
    return Rejected(UNSUPPORTED if kind.is_image else NOT_AN_IMAGE, str(kind))


def _jpeg(data: bytes, min_side: int) -> DecodedImage:
    """Decode a JPEG at the speed of libjpeg-turbo, if that reads it."""
    has_metadata, file = integrity.read_jpeg(data)
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(file, strict=False)
    except (ValueError, KeyError):  # a rare kind, or its header is damaged
        return _any_kind(file, "JPEG")
    _check_pixels(width, height)
    is_plain = colors in _PLAIN_COLORS
    space = "RGB" if is_plain else "CMYK"
    orientation = _jpeg_orientation(file) if has_metadata else 1
    scale = _scaled(height, width, min_side) if orientation == 1 else {}
    if not is_plain:  # only a look for damage: Pillow knows which files have inverted inks
        scale = _scaled(height, width, 1)
    try:
        # Strict: libjpeg only warns about damage, which Pillow and TensorFlow show as grey or
        # shifted blocks.
        pixels = simplejpeg.decode_jpeg(file, space, **scale)
    except ValueError as error:
        if "Insufficient memory" in str(error):
            raise MemoryError from None
        mended = mend.jpeg(file, space, str(error))
        if mended is None:
            return _any_kind(file, "JPEG")
        file = mended
        pixels = simplejpeg.decode_jpeg(file, space, strict=False, **scale)
    if not is_plain:
        return _any_kind(file, "JPEG")
    if orientation != 1:
        return DecodedImage(rules.turn(pixels, orientation), "jpeg", "rotated")
    converted = MENDED if file is not data else GREY if colors == "Gray" else ""
    return DecodedImage(pixels, "jpeg", converted, (height, width), file)


def _scaled(height: int, width: int, min_side: int) -> dict[str, Any]:
    """Return simplejpeg's arguments for the smallest version that suffices."""
    if not min_side:
        return {}
    factor = rules.jpeg_factor(min(height, width), min_side)
    size = {"min_height": -(-height // factor), "min_width": -(-width // factor)}
    return {"fastdct": True, "fastupsample": True, **size}


def _any_kind(data: bytes, pillow: str, depth16: str = rules.AUTO) -> DecodedImage:
    """Decode a file with Pillow; `_jpeg` has looked for damage in a JPEG."""
    image, file = _load(data, pillow)
    converted = _why_convert(image, file)
    is_plain = converted in ("", GREY) and pillow == "PNG"
    try:
        if converted in ("", GREY):
            pixels = np.asarray(image.convert("RGB"))
        elif _is_deep(image, file):
            pixels, is_scaled = _eight_bit(image, file, depth16)
            pixels = rules.turn(pixels, _orientation(image))
            converted = SCALED if is_scaled else converted
        else:
            pixels = _upright_rgb(image, file)
    except ValueError as error:  # a rare colour mode
        raise Rejected(UNSUPPORTED, str(error)) from None
    if converted in ("", GREY) and (file is not data or not is_plain):
        converted = MENDED
    kind = "jpeg" if pillow == "JPEG" else "png"
    return DecodedImage(pixels, kind, converted, file=file if is_plain else b"")


def _check_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise PIL.Image.DecompressionBombError


def _load(data: bytes, pillow: str) -> tuple[PIL.Image.Image, bytes]:
    """Return an image whose pixels are loaded, and its file, perhaps mended; or raise Rejected."""
    try:
        return _decoded(data, pillow)
    except (Rejected, MemoryError, PIL.Image.DecompressionBombError):
        raise
    except Exception as error:  # Pillow's decoders raise almost anything on damaged input
        for mended in _MENDERS.get(pillow, ()):  # perhaps only metadata are damaged
            try:
                return _decoded(mended(data), pillow)
            except (Rejected, MemoryError, PIL.Image.DecompressionBombError):
                raise
            except Exception:  # noqa: S112 (the first error is reported)
                continue
        if isinstance(error, PIL.UnidentifiedImageError):
            name = file_kind.find(data).name
            detail = f"begins like {name}, but its header is unreadable"
        else:
            detail = f"{type(error).__name__}: {error}"
        raise Rejected("damaged", detail) from None


def _decoded(data: bytes, pillow: str) -> tuple[PIL.Image.Image, bytes]:
    image = PIL.Image.open(io.BytesIO(data), formats=(pillow,))
    _check_pixels(image.width, image.height)
    # Before anything else loads it: a second attempt after a failed one may succeed and give a
    # blank image.
    image.load()
    if pillow != "PNG":
        return image, data
    channels = 4 * max(1, _png_depth(data) // 8)
    return image, integrity.check_png(data, image.height * (image.width * channels + 1))


def _format(image: PIL.Image.Image) -> str:
    # Pillow calls a JPEG that holds further images MPO.
    kind = "jpeg" if image.format in ("JPEG", "MPO") else image.format.lower()
    return "heic" if kind == "heif" else kind


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
    if image.mode in ("I", "F"):
        raise Rejected("unsupported", "32-bit and floating-point pixels have no fixed white")
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


def _is_deep(image: PIL.Image.Image, file: bytes) -> bool:
    """Return whether an image has 16 bits of a channel, which can be had."""
    is_grey = image.mode.startswith("I;16") or (image.format == "PPM" and image.mode == "I")
    return is_grey or (image.format == "PNG" and _png_depth(file) == 16)


def _eight_bit(image: PIL.Image.Image, file: bytes, depth16: str) -> tuple[np.ndarray, bool]:
    """Return 8-bit RGB of 16 bits, on white, and whether it was scaled to the range that it uses.

    Pillow clips almost all of 16-bit grey to white, and drops the lower bits of color.
    """
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.uint16, copy=False)[..., np.newaxis]
        clear = image.info.get("transparency")
        alpha = None if clear is None else np.where(values == clear, 0, 255).astype(np.uint16)
    else:
        values, alpha = _deep_color(file)
    opaque = values if alpha is None else values[alpha[..., 0] > 0]
    least, most = (int(opaque.min()), int(opaque.max())) if opaque.size else (0, 0)
    pixels = rules.to_8_bits(values, least, most, depth16)
    if alpha is not None:
        pixels = rules.on_white(pixels.astype(np.uint16), alpha).astype(np.uint8)
    is_scaled = depth16 == rules.MINMAX or (depth16 == rules.AUTO and most < 2**15)
    return np.repeat(pixels, 3 // pixels.shape[2], axis=2), is_scaled


def _deep_color(file: bytes) -> tuple[np.ndarray, np.ndarray | None]:
    """Decode a good PNG of 16-bit color: uint16 [H, W, 3], and alpha, uint16 [H, W, 1], 0 to 255.

    OpenCV keeps all bits. It is imported here, because few builds need it.
    """
    import cv2

    try:
        values = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        raise MemoryError from None
    return values[..., 2::-1], values[..., 3:] >> 8 if values.shape[2] == 4 else None


def _scale_transparency(image: PIL.Image.Image, depth: int) -> None:
    """Bring a PNG's transparent colour to the 8-bit scale of its pixels; Pillow does not."""
    colour = image.info["transparency"]
    if depth in (2, 4) and isinstance(colour, int) and image.mode == "L":
        image.info["transparency"] = colour * 255 // (2**depth - 1)


def _png_depth(data: bytes) -> int:
    """Return the bits per channel of a PNG file, or 0 if its header is in the wrong place."""
    return data[24] if data[12:16] == b"IHDR" else 0


def _jpeg_orientation(data: bytes) -> int:
    """Return the orientation of a JPEG file, 1 (upright) if its metadata are damaged."""
    try:
        return _orientation(PIL.Image.open(io.BytesIO(data), formats=("JPEG",)))
    except Exception:  # damaged metadata raise almost anything, and the pixels are good
        return 1


def _orientation(image: PIL.Image.Image) -> int:
    """Return the EXIF or XMP orientation, 1 (upright) if it is missing or damaged."""
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # damaged EXIF raises almost anything, and the pixels are good
        return 1
    return orientation if orientation in TURNS else 1
