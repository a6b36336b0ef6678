"""A heat map as a transparent picture that a browser lays over the image."""

import base64
import io

import numpy as np

from tfpipe.page import heat_overlay

# Heat maps are smooth: a model computes a few values a side, and the browser interpolates.
_MOST_SIDE = 64


def picture(heat: np.ndarray) -> bytes:
    """Draw a heat map.

    Args:
        heat: float [H, W] in 0..1.

    Returns:
        A transparent PNG file of at most 64 pixels a side.
    """
    step = -(-max(heat.shape) // _MOST_SIDE)
    padded = np.pad(heat, [(0, -side % step) for side in heat.shape], mode="edge")
    rows, columns = (side // step for side in padded.shape)
    small = padded.reshape(rows, step, columns, step).mean(axis=(1, 3))
    file = io.BytesIO()
    heat_overlay.layer(small).save(file, "PNG")
    return file.getvalue()


def data_url(heat: np.ndarray) -> str:
    """Return `picture` as a data URL."""
    return "data:image/png;base64," + base64.b64encode(picture(heat)).decode()
