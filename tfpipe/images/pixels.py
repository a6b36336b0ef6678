"""The definition of the model's pixels, and the limits of what is decoded.

Three modules follow it, and `tests/test_pixels.py` holds them together:

- `preprocess_host`: training, on the host's threads, without TensorFlow;
- `preprocess`: evaluation and export, as a TensorFlow graph;
- `upload`: serving, as a graph for files of any kind, perhaps hostile.

The rules:

1. An image is upright, 8-bit RGB, on white where it is transparent, and the first one of an
   animation. 16 bits are scaled to the bits that are used (`to_8_bits`). A build converts
   other files once (`strict`, `store`); `upload` converts each.
2. A JPEG is decoded at the smallest of 1/8, 1/4, 1/2 and 1 of its size that covers the square,
   with libjpeg's fast transform and upsampling: a few levels off, and a quarter faster.
3. The resize to the square ignores the proportions, as the published recipes do. It is bilinear
   with pixel centres at halves. Where it shrinks a side to less than half, it is antialiased.

A host resize and a graph resize differ by one level, by two where they are antialiased.
"""

from types import ModuleType
from typing import Any

import numpy as np

CHANNELS = 3

# How 16 bits become 8, see `to_8_bits`.
AUTO, FULL, MINMAX = "auto", "full", "minmax"
DEPTHS = (AUTO, FULL, MINMAX)

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601 weights of R, G and B

# 256 MiB of RGB, where Pillow begins to warn. The header tells, so nothing is allocated before.
MAX_PIXELS = 89_478_485

# Every scan of a JPEG passes over the whole image. Progressive files have about ten scans; 218 KB
# with 883 scans keep a decoder busy for 24 s.
MAX_SCANS = 100

# The fractions of its size at which a JPEG can be decoded: 1/8, 1/4, 1/2, 1.
JPEG_FACTORS = (8, 4, 2, 1)

# For each EXIF orientation, 1 to 8 (EXIF 2.32, 4.6.5): whether to transpose the image, and then
# whether to reverse its rows and its columns.
TURNS = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


def jpeg_factor(shorter: float, size: int) -> int:
    """Return the largest of `JPEG_FACTORS` at which the shorter side has `size` pixels or more."""
    return next(f for f in JPEG_FACTORS if -(-shorter // f) >= size or f == 1)


def is_antialiased(height: Any, width: Any, new_height: Any, new_width: Any) -> Any:
    """Return whether a resize averages, for integers or for integer tensors."""
    return (height > 2 * new_height) | (width > 2 * new_width)


def fit(height: Any, width: Any, pixels: float, math: ModuleType = np) -> tuple[Any, Any]:
    """Return the largest size of about the same proportions with at most `pixels` pixels.

    Args:
        height: at least 1, as a float or float64 tensor.
        width: likewise.
        pixels: at least 1, and less than height x width.
        math: `numpy`, or `tensorflow` for tensors.

    Returns:
        The new height and width, whole numbers of the same type, each at least 1.
    """
    scale = math.sqrt(pixels / (height * width))
    height = math.maximum(math.minimum(math.floor(height * scale), pixels), 1.0)
    most = math.floor(pixels / height)
    width = math.maximum(math.minimum(math.floor(width * scale), most), 1.0)
    return math.minimum(height, math.floor(pixels / width)), width


def to_8_bits(values: np.ndarray, least: int, most: int, depth16: str) -> np.ndarray:
    """Scale 16-bit values to 8 bits; `upload` does the same in a graph.

    Scans and microscopes store 10, 12 or 14 bits in 16. The highest 8 bits of such an image are
    nearly black.

    Args:
        values: uint16, of any shape.
        least: the smallest value to show.
        most: the largest value to show.
        depth16: "auto" keeps the highest 8 of the bits that `most` has, "full" the highest 8 of 16,
            and "minmax" stretches `least` and `most` to 0 and 255, rounded.

    Returns:
        uint8, of the same shape.
    """
    if depth16 == MINMAX:
        span = max(most - least, 1)
        stretched = (np.clip(values, least, most).astype(np.int32) - least) * 255
        return ((stretched + span // 2) // span).astype(np.uint8)
    shift = 8 if depth16 == FULL else max(0, most.bit_length() - 8)
    return (values >> shift).astype(np.uint8)


def on_white(color: Any, alpha: Any) -> Any:
    """Blend colours with white, for arrays or tensors.

    Args:
        color: [..., 3] in 0..255, of a type that holds 65,535.
        alpha: [..., 1], from 0 for transparent to 255, of the same type.

    Returns:
        The blended colours, rounded, of the same shape and type.
    """
    return (color * alpha + 255 * (255 - alpha) + 127) // 255


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Return [H, W, C] upright, a view; `orientation` is one of `TURNS`."""
    transposed, rows, columns = TURNS[orientation]
    if transposed:
        pixels = pixels.swapaxes(0, 1)
    return pixels[:: -1 if rows else 1, :: -1 if columns else 1]
