"""Squares in images, and the operation that greys one."""

import tensorflow as tf

from tfpipe.augment.operation import Kind, operation, require_fraction

# Most backbones normalise it to about 0, the fill of the cutout paper.
_GREY = 127.5


def inside(images: tf.Tensor, centre: tf.Tensor, fraction: tf.Tensor) -> tf.Tensor:
    """Return which pixels of images [N, S, S, 3] have their centre in a square: bool [N, S, S, 1].

    `centre` is float32 [N, 2], x and y, and `fraction` float32 [N], the square's side, both as
    fractions of the image's side. The square may reach beyond the image.
    """
    side = tf.shape(images)[1]
    position = (tf.range(tf.cast(side, tf.float32)) + 0.5) / tf.cast(side, tf.float32)
    near = tf.abs(position - centre[:, :, tf.newaxis]) < fraction[:, tf.newaxis, tf.newaxis] / 2
    columns, rows = near[:, 0, tf.newaxis, :, tf.newaxis], near[:, 1, :, tf.newaxis, tf.newaxis]
    return tf.logical_and(rows, columns)


@operation("cutout", num_random=2, kind=Kind.OVERLAY)
def _cutout(images: tf.Tensor, u: tf.Tensor, fraction: float) -> tf.Tensor:
    """`cutout(0.2)`: greys a square of that fraction of the side, its centre anywhere.

    DeVries and Taylor, Improved Regularization of Convolutional Neural Networks with Cutout, 2017.
    """
    require_fraction(fraction, "cutout")
    return tf.where(inside(images, u, tf.fill(tf.shape(u)[:1], fraction)), _GREY, images)
