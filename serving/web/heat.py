"""A heat map as a transparent picture that a browser lays over the image."""

import base64
import io

import numpy as np

from tfpipe.page import heat_overlay

# Heat maps are smooth: a model computes few values a side, and the browser interpolates.
_MOST_SIDE = 64


def data_url(heat: np.ndarray) -> str:
    """Return a data URL of a transparent PNG file of at most 64 pixels a side.

    Args:
        heat: float [H, W] in 0..1.
    """
    step = -(-max(heat.shape) // _MOST_SIDE)
    padded = np.pad(heat, [(0, -side % step) for side in heat.shape], mode="edge")
    rows, columns = (side // step for side in padded.shape)
    small = padded.reshape(rows, step, columns, step).mean(axis=(1, 3))
    file = io.BytesIO()
    heat_overlay.layer(small).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
