"""What an image looks like: its mean colour, and a hash that survives re-encoding and resizing.

The hash is pHash, 16 x 16 bits: which of the 256 lowest frequencies of the grey image, scaled to
32 x 32, are above their median (C. Zauner, "Implementation and Benchmarking of Perceptual Image
Hash Functions", 2010). `imagehash.phash(image, hash_size=16, highfreq_factor=2)` computes the same,
but takes 0.2 to 0.8 ms an image, as long as decoding one, so that it is the reference of the tests
instead. Here a few points of the image do for all its pixels, and the hashes of many images are
computed at once.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Samples along each side of a thumbnail, a power of 2; each 2 x 2 of them make one grey value.
SIDE = 64
_GREYS = SIDE // 2
# Frequencies along each side.
_KEPT = 16

_MIDDLES = 2 * np.arange(SIDE) + 1

# ITU-R BT.601 luma times 1000, for two neighbouring samples.
_LUMA = np.array([299, 587, 114] * 2, np.float32)

# The DCT-II (unnormalised) times 1024, rounded. Whole numbers make every sum below exact (at most
# 4 * 255,000 * (1024 * 32) ** 2 < 2 ** 53), so that neither the machine's order of summation nor
# the number of images at once can change a bit.
_SCALE = 1024
_PHASES = np.outer(np.arange(_KEPT), 2 * np.arange(_GREYS) + 1)
_DCT = np.rint(_SCALE * np.cos(np.pi / (2 * _GREYS) * _PHASES))

# Waves of less than a quarter of a grey level count as none: they are what encoders make of a flat
# area. A wave of amplitude 1 has the coefficient (_GREYS / 2) ** 2; a grey value is 4,000 fold.
_STEP = 0.25 * (_GREYS / 2) ** 2 * 4000 * _SCALE**2


# Images at a time: enough to share the cost of a call, and few enough for their arrays to stay in
# memory that the process has already; more take three times as long each.
_BLOCK = 16


class Look(NamedTuple):
    """What an image looks like.

    Attributes:
        color: mean red, green and blue, 0 to 255, one decimal.
        hash: 64 lower-case hexadecimal digits: 16 rows, from the lowest vertical frequency, of 16
            bits, from the lowest horizontal one. `imagehash.hex_to_hash` reads them.
    """

    color: tuple[float, float, float]
    hash: str


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """Samples an image at the middles of a grid of 64 x 64 equal cells, whatever its shape.

    Args:
        pixels: uint8 [height, width, 3], RGB, each side at least 1.

    Returns:
        uint8 [64, 64, 3].
    """
    height, width, _ = pixels.shape
    # Shifted, because NumPy's division takes as long as all the rest.
    rows, columns = (_MIDDLES * side >> SIDE.bit_length() for side in (height, width))
    return pixels[rows].take(columns, axis=1)


def looks(thumbnails: Sequence[np.ndarray]) -> list[Look]:
    """Describes images; the description of one does not depend on the others.

    Half of the bits of the hash of an image rich in detail are 1. A bit whose frequency the image
    lacks is 0, so that a flat image, or a smooth gradient, has few; see `duplicates`.

    Args:
        thumbnails: as from `thumbnail`, any number.
    """
    blocks = range(0, len(thumbnails), _BLOCK)
    return [look for i in blocks for look in _looks(thumbnails[i : i + _BLOCK])]


def _looks(thumbnails: Sequence[np.ndarray]) -> list[Look]:
    count = len(thumbnails)
    rows = np.asarray(thumbnails).reshape(count, _GREYS, 2, SIDE * 3)
    pairs = np.add(rows[:, :, 0], rows[:, :, 1], dtype=np.uint16).astype(np.float32)

    sums = (np.ones(_GREYS, np.float32) @ pairs).reshape(count, SIDE, 3).sum(axis=1)
    colors = np.round(sums.astype(np.float64) / SIDE**2, 1).tolist()

    # One small product for each image: of a large one BLAS makes threads, in every worker.
    grey = pairs.reshape(count, _GREYS**2, len(_LUMA)) @ _LUMA
    grey = grey.astype(np.float64).reshape(count, _GREYS, _GREYS)
    waves = np.rint(_DCT @ grey @ _DCT.T / _STEP).reshape(count, _KEPT**2)
    # Above the lower of the two in the middle is above the median, their mean.
    middle = _KEPT**2 // 2 - 1
    bits = np.packbits(waves > np.partition(waves, middle, axis=1)[:, middle, None], axis=1)
    return [
        Look(tuple(color), row.tobytes().hex()) for color, row in zip(colors, bits, strict=True)
    ]
