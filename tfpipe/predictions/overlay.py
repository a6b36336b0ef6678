"""A heat map, laid over its image."""

import cv2
import numpy as np

from tfpipe.images.strict import decode

# Of the longer side, in pixels: enough to see an image by, and a third of a MB as a PNG.
_LEAST, _MOST = 256, 512

# How much of the picture the hottest place covers.
_OPACITY = 0.5

# Where the colour map is a light red, of 255: further on it grows dark, and hides what is there.
_HOTTEST = 220


def png(encoded: bytes, heat: np.ndarray) -> bytes:
    """Draws a heat map over an image: bluish where little speaks for the class, red where most.

    Where nothing does the image shows as it is.

    Args:
        encoded: an image file.
        heat: float32 [S, S] in 0..1, of the whole image squeezed into a square.

    Returns:
        A PNG file of the image's proportions.
    """
    pixels = decode(encoded).pixels
    height, width = pixels.shape[:2]
    scale = min(max(height, width, _LEAST), _MOST) / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    image = cv2.resize(pixels, size, interpolation=method)
    warm = cv2.resize(heat.clip(0, 1), size, interpolation=cv2.INTER_LINEAR)
    colors = cv2.applyColorMap((_HOTTEST * warm).round().astype(np.uint8), cv2.COLORMAP_TURBO)
    opacity = (_OPACITY * warm)[..., np.newaxis]
    mixed = (1 - opacity) * image[..., ::-1] + opacity * colors  # cv2 has blue first
    _, file = cv2.imencode(".png", mixed.round().astype(np.uint8))
    return file.tobytes()
