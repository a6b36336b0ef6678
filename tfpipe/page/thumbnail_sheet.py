"""A sheet of thumbnails, each with its label and file name: what a data set looks like."""

import bisect
import io
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from tfpipe.core.errors import one_line
from tfpipe.page.figure import COLORS
from tfpipe.records.example import Fields

# In pixels. A cell is a square for the thumbnail, then two lines of text.
_THUMB, _GAP, _MARGIN = 168, 10, 14
_LABEL_SIZE, _NAME_SIZE, _TEXT_HEIGHT, _HEAD = 16, 13, 46, 34

_PAPER, _MAT, _INK, _GREY = "#ffffff", "#f0f0f0", "#1a1a1a", "#5c5c5c"


class Picture(NamedTuple):
    """One cell of the sheet; the image is RGB and not larger than a thumbnail."""

    label: str
    color: str
    filename: str
    image: Image.Image


def picture(record: Fields) -> Picture:
    """Returns the cell of a record.

    Raises:
        OSError, ValueError, Image.DecompressionBombError: its image cannot be decoded.
    """
    color = COLORS[(record.label or 0) % len(COLORS)]
    return Picture(record.text, color, record.filename, thumbnail(record))


def draw(pictures: Sequence[Picture], title: str) -> Image.Image:
    """Returns an RGB image of thumbnails in rows, each with its label and file name below."""
    columns = min(max(len(pictures), 3), max(6, round((1.5 * len(pictures)) ** 0.5)))
    rows = -(-len(pictures) // columns)  # rounded up
    step_x, step_y = _THUMB + _GAP, _THUMB + _TEXT_HEIGHT + _GAP
    size = (2 * _MARGIN + columns * step_x - _GAP, 2 * _MARGIN + _HEAD + rows * step_y - _GAP)
    sheet = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(sheet)
    fonts = [ImageFont.load_default(points) for points in (_LABEL_SIZE, _NAME_SIZE)]
    head = _shorten(title, fonts[0], size[0] - 2 * _MARGIN)
    pen.text((_MARGIN, _MARGIN), head, fill=_INK, font=fonts[0])
    for index, (label, color, filename, image) in enumerate(pictures):
        left = _MARGIN + index % columns * step_x
        top = _MARGIN + _HEAD + index // columns * step_y
        pen.rectangle((left, top, left + _THUMB - 1, top + _THUMB - 1), fill=_MAT)
        sheet.paste(image, (left + (_THUMB - image.width) // 2, top + (_THUMB - image.height) // 2))
        top += _THUMB
        pen.rectangle((left, top, left + _THUMB - 1, top + 3), fill=color)
        text = _shorten(label, fonts[0], _THUMB)
        pen.text((left, top + 7), text, fill=_INK, font=fonts[0])
        text = _shorten(filename, fonts[1], _THUMB)
        pen.text((left, top + 28), text, fill=_GREY, font=fonts[1])
    return sheet


def thumbnail(record: Fields, side: int = _THUMB) -> Image.Image:
    """Returns the image of a record in RGB, its longer side at most `side` pixels.

    Raises:
        OSError, ValueError, Image.DecompressionBombError: it cannot be decoded.
    """
    if record.format == "raw":
        small = Image.frombytes("RGB", (record.width, record.height), record.encoded)
    else:
        with Image.open(io.BytesIO(record.encoded), formats=("JPEG", "PNG")) as image:
            image.draft("RGB", (2 * side, 2 * side))  # decodes a large JPEG at a fraction
            small = image.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return small


def _shorten(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Returns `text` on one line, without its middle if it is wider than `width` pixels."""
    text = one_line(text)
    if font.getlength(text) <= width:
        return text
    most = min(len(text), int(4 * width / font.size))  # more would not fit; names may be long
    fits = bisect.bisect(
        range(1, most), width, key=lambda keep: font.getlength(_without_middle(text, keep))
    )
    return _without_middle(text, fits)


def _without_middle(text: str, keep: int) -> str:
    return f"{text[: keep - keep // 2]}...{text[len(text) - keep // 2 :]}"
