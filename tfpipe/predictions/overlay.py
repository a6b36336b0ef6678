"""Draws a heat map over its image."""

import cv2
import numpy as np

from tfpipe.images.decode import decode

# Bounds of the longer side in pixels; a PNG of 512 has a third of a MB.
_LEAST, _MOST = 256, 512

# Opacity of the hottest place.
_OPACITY = 0.5

# Index of light red in the colour map, of 255; higher ones are dark and hide the image.
_HOTTEST = 220


def png(encoded: bytes, heat: np.ndarray) -> bytes:
    """Return a PNG of the image with its heat map, from blue (little) to red (most).

    Args:
        encoded: an image file.
        heat: float32 [S, S] in 0..1, of the whole image squeezed into a square.

    Returns:
        A PNG file with the image's aspect ratio. Cold parts show the image unchanged.
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
    mixed = (1 - opacity) * image[..., ::-1] + opacity * colors  # OpenCV's order is BGR
    _, file = cv2.imencode(".png", mixed.round().astype(np.uint8))
    return file.tobytes()
