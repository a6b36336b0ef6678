"""Draws a heat map as an overlay for its picture."""

import base64
import io

import numpy as np
from PIL import Image

# Heat maps have few values a side, and a browser smooths them again.
_MOST_SIDE = 64

# Red, green, blue and opacity, 0..255, from cold to hot; cold parts are dimmed.
_HEATS = np.linspace(0, 1, 5)
_COLORS = np.array(
    [
        (10, 6, 40, 150),
        (98, 20, 120, 130),
        (210, 58, 80, 120),
        (248, 140, 30, 110),
        (252, 236, 110, 90),
    ]
)


def picture(heat: np.ndarray) -> bytes:
    """Draw a heat map.

    Args:
        heat: float [H, W] in 0..1.

    Returns:
        A PNG file with transparency, of at most 64 pixels a side.
    """
    step = -(-max(heat.shape) // _MOST_SIDE)
    padded = np.pad(heat, [(0, -side % step) for side in heat.shape], mode="edge")
    rows, columns = (side // step for side in padded.shape)
    small = padded.reshape(rows, step, columns, step).mean(axis=(1, 3))
    channels = [np.interp(small, _HEATS, channel) for channel in _COLORS.T]
    file = io.BytesIO()
    Image.fromarray(np.stack(channels, -1).round().astype(np.uint8), "RGBA").save(file, "PNG")
    return file.getvalue()


def data_url(heat: np.ndarray) -> str:
    """Return `picture` as a data URL."""
    return "data:image/png;base64," + base64.b64encode(picture(heat)).decode()
