"""The one way to draw a heat map: hot places stay clear and turn yellow, cold ones get dark."""

import numpy as np
import PIL.Image

# Red, green, blue and opacity, 0..255, from cold (0) to hot (1).
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


def layer(heat: np.ndarray) -> PIL.Image.Image:
    """Return a heat map as a transparent RGBA layer, to be laid over its image.

    Args:
        heat: float [H, W] in 0..1; other values are clipped.
    """
    channels = [np.interp(heat, _HEATS, channel) for channel in _COLORS.T]
    return PIL.Image.fromarray(np.stack(channels, -1).round().astype(np.uint8))


def blend(picture: PIL.Image.Image, heat: np.ndarray) -> PIL.Image.Image:
    """Return an image in grey below the colours of its heat map.

    Args:
        picture: any mode.
        heat: float [H, W] in 0..1, of the whole image; stretched to the picture.

    Returns:
        RGB, of the picture's size.
    """
    mixed = picture.convert("L").convert("RGB")
    stretched = layer(heat).resize(picture.size, PIL.Image.Resampling.BILINEAR)
    mixed.paste(stretched, mask=stretched)
    return mixed
