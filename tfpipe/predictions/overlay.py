"""A heat map laid over its image, as a PNG file."""

import io

import numpy as np
import PIL.Image

from tfpipe.images.strict import decode
from tfpipe.page import heat_overlay

# Pixels of the longer side: enough to recognise an image, and at most some 300 kB.
_LEAST, _MOST = 256, 512


def png(encoded: bytes, heat: np.ndarray) -> bytes:
    """Draw a heat map over an image; see `heat_overlay.blend`.

    Args:
        encoded: an image file.
        heat: float32 [S, S] in 0..1, of the whole image squeezed into a square.

    Returns:
        A PNG file with the image's proportions.
    """
    picture = PIL.Image.fromarray(decode(encoded).pixels)
    longer = max(picture.size)
    scale = min(max(longer, _LEAST), _MOST) / longer
    size = [max(1, round(side * scale)) for side in picture.size]
    file = io.BytesIO()
    heat_overlay.blend(picture.resize(size, reducing_gap=2), heat).save(file, "PNG")
    return file.getvalue()
