"""Colour operations, which change each pixel on its own, and blur.

A chain clips to 0..255 at its end. Operations clip only their input, if they need it.
"""

import tensorflow as tf

from tfpipe.augment.barrier import barrier
from tfpipe.augment.operation import (
    Kind,
    operation,
    per_image,
    require,
    require_fraction,
    symmetric,
)
from tfpipe.images.preprocess import LUMA

_MAX_SIGMA = 5.0  # pixels; the cost grows with it


# For a grey pixel, 0.45 of white equals the published RandAugment's factors of 0.1 and 1.9.
@operation("brightness", num_random=1, kind=Kind.COLOR, strength=lambda m: (0.45 * m,))
def _brightness(images: tf.Tensor, u: tf.Tensor, fraction: float) -> tf.Tensor:
    """`brightness(0.2)`: adds up to that fraction of white either way."""
    require_fraction(fraction, "brightness")
    return images + per_image(symmetric(u) * (fraction * 255.0))


@operation("contrast", num_random=1, kind=Kind.COLOR, strength=lambda m: (0.9 * m,))
def _contrast(images: tf.Tensor, u: tf.Tensor, fraction: float) -> tf.Tensor:
    """`contrast(0.2)`: stretches about each image's mean by up to that fraction either way."""
    require_fraction(fraction, "contrast")
    images = barrier(images, u)
    # In two steps: XLA vectorizes the first, over rows.
    mean = per_image(tf.reduce_mean(tf.reduce_mean(images, 1), [1, 2]))
    return images + (images - mean) * per_image(symmetric(u) * fraction)


@operation("saturation", num_random=1, kind=Kind.COLOR, strength=lambda m: (0.9 * m,))
def _saturation(images: tf.Tensor, u: tf.Tensor, fraction: float) -> tf.Tensor:
    """`saturation(0.2)`: moves from or to grey (ITU-R BT.601 luma) by up to that fraction."""
    require_fraction(fraction, "saturation")
    luma = tf.reduce_sum(images * tf.constant(LUMA), -1, keepdims=True)
    return images + (images - luma) * per_image(symmetric(u) * fraction)


@operation("hue", num_random=1, kind=Kind.COLOR)
def _hue(images: tf.Tensor, u: tf.Tensor, fraction: float) -> tf.Tensor:
    """`hue(0.05)`: turns hues by up to that fraction of a full circle either way."""
    require_fraction(fraction, "hue", 0.5)
    turn = per_image(symmetric(u) * fraction)
    hue, saturation, value = tf.split(tf.image.rgb_to_hsv(_unit(images)), 3, axis=-1)
    turned = tf.concat([tf.math.floormod(hue + turn, 1.0), saturation, value], -1)
    return tf.where(turn == 0.0, images, tf.image.hsv_to_rgb(turned) * 255.0)


@operation("gamma", num_random=1, kind=Kind.COLOR)
def _gamma(images: tf.Tensor, u: tf.Tensor, low: float, high: float) -> tf.Tensor:
    """`gamma(0.8,1.2)`: raises to a power drawn from that range; above 1 darkens."""
    require(0 < low <= high, f"gamma({low:g},{high:g})", "powers are above 0, the smaller first")
    power = per_image(low + (high - low) * u)
    return tf.where(power == 1.0, images, tf.pow(_unit(images), power) * 255.0)


def _unit(images: tf.Tensor) -> tf.Tensor:
    """Return levels as 0..1."""
    return tf.clip_by_value(images, 0.0, 255.0) / 255.0


@operation("blur", num_random=1, kind=Kind.COLOR)
def _blur(images: tf.Tensor, u: tf.Tensor, sigma: float = 1.0) -> tf.Tensor:
    """`blur`: a Gaussian whose sigma is drawn from up to 1 pixel, or with `blur(2)` up to 2."""
    require_fraction(sigma, "blur", _MAX_SIGMA)
    radius = round(3 * sigma)
    offsets = tf.range(-radius, radius + 1, dtype=tf.float32)
    # Below 0.01 pixels, a Gaussian in float32 is exactly one pixel.
    own = tf.maximum(u * sigma, 0.01)
    weights = tf.exp(-0.5 * tf.square(offsets / own))
    weights /= tf.reduce_sum(weights, 1, keepdims=True)
    for axis in (1, 2):
        images = barrier(images, u)
        size = tf.shape(images)[axis]
        images = tf.add_n(
            [
                tf.gather(images, _shifted(size, offset - radius), axis=axis)
                * per_image(weights[:, offset])
                for offset in range(2 * radius + 1)
            ]
        )
    return images


def _shifted(size: tf.Tensor, by: int) -> tf.Tensor:
    """Return the indices 0..size-1 shifted by `by`, clipped to the ends."""
    return tf.clip_by_value(tf.range(size) + by, 0, size - 1)
