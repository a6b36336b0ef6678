"""Make the classes of the training split equal: drop images, or add transformed copies.

Only the training split is balanced. The others measure a classifier and keep the
classes as they are.

A copy is its original after one random transform, as seed recipe R1 (T. Gui, 2018) made to
replace outliers: crop, rotate, shear, or mirror along either axis. It has its original's fold.
"""

import collections
import hashlib
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from tfpipe.images.image_table import to_hex

MODES = ("none", "drop", "copies")

# From recipe R1: the sides of a crop, and the largest angle of a rotation or shear.
_CROP = 0.9
_DEGREES = 20.0


class Copy(NamedTuple):
    """A copy to be made.

    Attributes:
        original: index of the original.
        number: of the copy of that image, from 1.
    """

    original: int
    number: int


def drop(
    keys: np.ndarray | Sequence[str], labels: Sequence[str], training: Sequence[int], seed: int
) -> list[int]:
    """Choose images to leave out, so that every class has as many as the smallest.

    Args:
        keys: digests of the contents of all images, a `DIGEST` array or hexadecimal.
        labels: their classes.
        training: indices of the images in the training split.
        seed: of the choice.

    Returns:
        Indices of the images to leave out, ascending. A hash of seed and contents chooses them,
        whatever the order of the images.
    """
    members = _by_class(keys, labels, training, seed)
    least = min(map(len, members), default=0)
    return sorted(index for indices in members for index in indices[least:])


def copies(
    keys: np.ndarray | Sequence[str], labels: Sequence[str], training: Sequence[int], seed: int
) -> list[Copy]:
    """Choose images to copy, so that every class has as many as the largest.

    Args:
        keys: digests of the contents of all images, a `DIGEST` array or hexadecimal.
        labels: their classes.
        training: indices of the images in the training split.
        seed: of the choice.

    Returns:
        The copies, sorted. The images of a class take turns in the order of a hash: each is copied
        once before any is copied twice.
    """
    members = _by_class(keys, labels, training, seed)
    most = max(map(len, members), default=0)
    return sorted(
        Copy(indices[i % len(indices)], i // len(indices) + 1)
        for indices in members
        for i in range(most - len(indices))
    )


def transform(pixels: np.ndarray, key: str, number: int, seed: int) -> np.ndarray:
    """Make one copy by one of five equally likely transforms.

    They are a crop of 0.9 of each side, scaled back to full size; a rotation or a horizontal shear
    by up to 20 degrees either way; and a flip along either axis. Beyond its edges the image is
    mirrored, so that no corner is black.

    Args:
        pixels: uint8 [height, width, 3], RGB.
        key: hex digest of the original's contents.
        number: of the copy, from 1.
        seed: of the transform.

    Returns:
        uint8 of the same shape.
    """
    rng = np.random.default_rng(list(_digest(f"copy:{seed}:{number}:{key}")))
    return _TRANSFORMS[rng.integers(len(_TRANSFORMS))](pixels, rng)


def crop(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Crop 0.9 of each side and scale it back to full size."""
    height, width = pixels.shape[:2]
    left, top = rng.random(2) * (1 - _CROP) * (width, height)
    # min, because rounding must not move the crop over the edge.
    box = (left, top, min(left + _CROP * width, width), min(top + _CROP * height, height))
    image = Image.fromarray(pixels)
    return np.asarray(image.resize(image.size, Image.Resampling.BICUBIC, box=box))


def rotate(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rotate about the centre by up to 20 degrees either way."""
    angle = _angle(rng)
    cos, sin = math.cos(angle), math.sin(angle)
    return _warp(pixels, np.array([[cos, -sin], [sin, cos]]))


def shear(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shear horizontally about the centre by up to 20 degrees either way."""
    return _warp(pixels, np.array([[1.0, math.tan(_angle(rng))], [0.0, 1.0]]))


def flip_lr(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirror left and right."""
    del rng
    return pixels[:, ::-1].copy()


def flip_ud(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mirror top and bottom."""
    del rng
    return pixels[::-1].copy()


_TRANSFORMS: tuple[Callable[[np.ndarray, np.random.Generator], np.ndarray], ...] = (
    *(crop, rotate, shear, flip_lr, flip_ud),
)


def _angle(rng: np.random.Generator) -> float:
    return math.radians(rng.uniform(-_DEGREES, _DEGREES))


def _warp(pixels: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Sample each output pixel where `matrix` maps it, as (x, y) from the image's centre."""
    height, width = pixels.shape[:2]
    half = np.array([width, height]) / 2
    # Pad by the reach of the corners, and two pixels for the cubic kernel.
    reach = np.abs(matrix) @ half
    pad_x, pad_y = np.maximum(np.ceil(reach - half), 0).astype(int) + 2
    padded = np.pad(pixels, ((pad_y, pad_y), (pad_x, pad_x), (0, 0)), mode="symmetric")
    offset = half - matrix @ half + np.array([pad_x, pad_y])
    # Pillow's order is a, b, c, d, e, f of x' = a x + b y + c and y' = d x + e y + f.
    affine = tuple(np.column_stack([matrix, offset]).ravel())
    image = Image.fromarray(padded)
    size = (width, height)
    return np.asarray(
        image.transform(size, Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC)
    )


def _by_class(
    keys: np.ndarray | Sequence[str], labels: Sequence[str], training: Sequence[int], seed: int
) -> list[list[int]]:
    """Return the indices of each class in the order of a hash."""
    members = collections.defaultdict(list)
    for index in training:
        key = keys[index] if isinstance(keys[index], str) else to_hex(keys[index])
        members[labels[index]].append((_digest(f"balance:{seed}:{key}"), index))
    return [[index for _, index in sorted(each)] for each in members.values()]


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
