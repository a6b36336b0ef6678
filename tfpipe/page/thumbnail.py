"""Small versions of stored images."""

import io

import PIL.Image

from tfpipe.core.errors import UserError, one_line
from tfpipe.page import template
from tfpipe.records.example import ImageExample

_QUALITY = 78  # of the JPEG files in a page


def of_file(encoded: bytes, side: int) -> PIL.Image.Image:
    """Decode a JPEG or PNG file to RGB, its longer side at most `side` pixels.

    Raises:
        OSError, ValueError, PIL.Image.DecompressionBombError: it cannot be decoded.
    """
    with PIL.Image.open(io.BytesIO(encoded), formats=("JPEG", "PNG")) as image:
        image.draft("RGB", (2 * side, 2 * side))  # decodes a large JPEG at a fraction of its size
        return _shrunk(image.convert("RGB"), side)


def of_record(record: ImageExample, side: int) -> PIL.Image.Image:
    """Decode the image of a record to RGB, its longer side at most `side` pixels.

    Raises:
        UserError: it cannot be decoded.
    """
    try:
        if record.format != "raw":
            return of_file(record.encoded, side)
        size = (record.width, record.height)
        return _shrunk(PIL.Image.frombytes("RGB", size, record.encoded), side)
    except (OSError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise UserError(f"{one_line(record.filename)} cannot be decoded ({error})") from None


def embed(picture: PIL.Image.Image, alt: str) -> template.Image:
    """Return a picture as a JPEG inside a page, with its alt text."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_QUALITY)
    return template.image(file.getvalue(), alt, "jpeg")


def _shrunk(image: PIL.Image.Image, side: int) -> PIL.Image.Image:
    image.thumbnail((side, side), PIL.Image.Resampling.LANCZOS)
    return image
