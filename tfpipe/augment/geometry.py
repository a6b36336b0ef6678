"""Geometric operations as matrices: where in the input each pixel of the output comes from.

Coordinates are pixels of the output about its centre, x to the right and y down. So operations do
not depend on the input's size.
"""

import math

import tensorflow as tf

from tfpipe.augment.operation import Kind, operation, require, require_fraction, symmetric


def identity(count: tf.Tensor) -> tf.Tensor:
    """Return float32 [count, 3, 3]."""
    return tf.eye(3, batch_shape=[count])


def _matrices(rows: list[list[tf.Tensor | float]], like: tf.Tensor) -> tf.Tensor:
    """Stack x' = a x + b y + c, y' = d x + e y + f, of numbers or [N] as `like`, into [N, 3, 3]."""
    rows = [*rows, [0.0, 0.0, 1.0]]
    return tf.stack([tf.stack([v + tf.zeros_like(like) for v in row], -1) for row in rows], 1)


@operation("crop", num_random=2, kind=Kind.GEOMETRY)
def _crop(u: tf.Tensor, side: int, fraction: float) -> tf.Tensor:
    """`crop(0.9)`: a window of that fraction of each side, anywhere, scaled back to full size.

    At the beginning of a chain, where the host may do it instead, nothing beyond the window is
    seen.
    """
    require(0 < fraction <= 1, f"crop({fraction:g})", "the fraction is in (0, 1]")
    # The window begins at (1 - f) side u: its centre is off by up to half of (1 - f) side.
    x, y = tf.unstack(symmetric(u) * ((1.0 - fraction) * side / 2), axis=1)
    return _matrices([[fraction, 0.0, x], [0.0, fraction, y]], x)


def crop_window(u: tf.Tensor, fraction: float) -> tf.Tensor:
    """Return the windows of `crop` for its random numbers u, float32 [..., 2].

    They are float32 [..., 4]: top, left, height and width as fractions of the picture.
    """
    corner = tf.reverse(u, [-1]) * (1.0 - fraction)
    return tf.concat([corner, tf.fill(tf.shape(u), fraction)], -1)


@operation("resized_crop", num_random=4, kind=Kind.GEOMETRY)
def _resized_crop(u: tf.Tensor, side: int, low: float, high: float) -> tf.Tensor:
    """`resized_crop(0.35,1)`: a window of that range of the area, 3 : 4 to 4 : 3 as the picture is.

    Szegedy et al., Going Deeper with Convolutions, 2014, as RandomResizedCrop of torchvision. Where
    a window of the area drawn would leave the picture, the range of the ratio is narrower, so that
    the area stays uniform.
    """
    call = f"resized_crop({low:g},{high:g})"
    require(0 < low <= high <= 1, call, "areas are in (0, 1], the smaller first")
    area = low + (high - low) * u[:, 0]
    widest = tf.minimum(tf.math.log(4.0 / 3.0), -tf.math.log(area))
    ratio = tf.exp(symmetric(u[:, 1]) * widest)  # of the window to the picture
    width, height = tf.sqrt(area * ratio), tf.sqrt(area / ratio)
    x, y = tf.unstack(symmetric(u[:, 2:]) * (side / 2), axis=1)
    return _matrices([[width, 0.0, x * (1.0 - width)], [0.0, height, y * (1.0 - height)]], x)


@operation("rotate", num_random=1, kind=Kind.GEOMETRY, strength=lambda m: (30 * m,))
def _rotate(u: tf.Tensor, side: int, degrees: float) -> tf.Tensor:
    """`rotate(20)`: by an angle drawn from within that many degrees either way."""
    require_fraction(degrees, "rotate", 180)
    angle = symmetric(u[:, 0]) * (degrees * math.pi / 180)
    return _matrices(
        [[tf.cos(angle), -tf.sin(angle), 0.0], [tf.sin(angle), tf.cos(angle), 0.0]], angle
    )


# The published RandAugment shears by up to 0.3 pixels a row.
@operation("shear", num_random=1, kind=Kind.GEOMETRY, strength=lambda m: (_degrees(0.3 * m),))
def _shear(u: tf.Tensor, side: int, degrees: float) -> tf.Tensor:
    """`shear(20)`: columns lean by an angle drawn from within that many degrees either way."""
    require(0 <= degrees < 90, f"shear({degrees:g})", "the angle is in [0, 90) degrees")
    angle = symmetric(u[:, 0]) * (degrees * math.pi / 180)
    return _matrices([[1.0, tf.tan(angle), 0.0], [0.0, 1.0, 0.0]], angle)


def _degrees(slope: float) -> float:
    return math.degrees(math.atan(slope))


@operation("zoom", num_random=1, kind=Kind.GEOMETRY)
def _zoom(u: tf.Tensor, side: int, low: float, high: float) -> tf.Tensor:
    """`zoom(0.8,1.2)`: by a factor drawn from that range; above 1 the object grows."""
    factor = _between(u, low, high, "zoom")[:, 0]
    return _matrices([[1.0 / factor, 0.0, 0.0], [0.0, 1.0 / factor, 0.0]], factor)


@operation("zoom_xy", num_random=2, kind=Kind.GEOMETRY)
def _zoom_xy(u: tf.Tensor, side: int, low: float, high: float) -> tf.Tensor:
    """`zoom_xy(0.8,1.2)`: Keras' zoom_range, width and height shrunk by a factor drawn for each.

    Below 1 the object grows: ImageDataGenerator draws the distance of the pixels sampled.
    """
    x, y = tf.unstack(_between(u, low, high, "zoom_xy"), axis=1)
    return _matrices([[x, 0.0, 0.0], [0.0, y, 0.0]], x)


def _between(u: tf.Tensor, low: float, high: float, name: str) -> tf.Tensor:
    require(0 < low <= high, f"{name}({low:g},{high:g})", "factors are above 0, the smaller first")
    return low + (high - low) * u


# The published RandAugment translates by up to 150 of 331 pixels.
@operation("translate", num_random=2, kind=Kind.GEOMETRY, strength=lambda m: (0.45 * m,))
def _translate(u: tf.Tensor, side: int, fraction: float) -> tf.Tensor:
    """`translate(0.1)`: along each axis by up to that fraction of the side either way."""
    require_fraction(fraction, "translate")
    x, y = tf.unstack(symmetric(u) * (fraction * side), axis=1)
    return _matrices([[1.0, 0.0, x], [0.0, 1.0, y]], x)


@operation("flip_lr", num_random=1, kind=Kind.GEOMETRY)
def _flip_lr(u: tf.Tensor, side: int, chance: float = 0.5) -> tf.Tensor:
    """`flip_lr`: mirrors left and right; `flip_lr(0.3)` with that probability, else one half."""
    sign = _sign(u, chance, "flip_lr")
    return _matrices([[sign, 0.0, 0.0], [0.0, 1.0, 0.0]], sign)


@operation("flip_ud", num_random=1, kind=Kind.GEOMETRY)
def _flip_ud(u: tf.Tensor, side: int, chance: float = 0.5) -> tf.Tensor:
    """`flip_ud`: mirrors top and bottom; `flip_ud(0.3)` with that probability, else one half."""
    sign = _sign(u, chance, "flip_ud")
    return _matrices([[1.0, 0.0, 0.0], [0.0, sign, 0.0]], sign)


def _sign(u: tf.Tensor, chance: float, name: str) -> tf.Tensor:
    require_fraction(chance, name)
    return tf.where(u[:, 0] < chance, -1.0, 1.0)
