"""Noise: random numbers for each pixel, computed from an example's two."""

import tensorflow as tf

from tfpipe.augment.barrier import barrier
from tfpipe.augment.operation import Kind, operation, require_fraction


@operation("noise", num_random=2, kind=Kind.OVERLAY)
def _noise(images: tf.Tensor, u: tf.Tensor, fraction: float) -> tf.Tensor:
    """`noise(0.02)`: adds to each channel Gaussian noise whose sigma is that fraction of white."""
    require_fraction(fraction, "noise")
    return images + barrier(normal(u, tf.shape(images)), u) * (fraction * 255.0)


def normal(u: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
    """Return standard normal numbers, float32 of a shape [4], for each image by its seeds u [N, 2].

    TensorFlow's stateless generators take one seed for a whole tensor and choose their algorithm
    by device. Here a number is a hash of its position and the image's seeds, float32 in [0, 1).
    """
    first, second = tf.split(tf.bitcast(u, tf.uint32), 2, axis=1)
    position = tf.bitcast(tf.range(tf.reduce_prod(shape[1:])), tf.uint32)[tf.newaxis]
    # Hash the seeds too: close ones would give the same numbers at shifted positions.
    bits = _hash(_hash(position + _hash(first)) + second)
    # The middle of one of 2**23 steps; the quantiles of 0 and 1 are infinite.
    steps = tf.bitcast(tf.bitwise.right_shift(bits, tf.constant(9, tf.uint32)), tf.int32)
    uniform = (tf.cast(steps, tf.float32) + 0.5) * 2.0**-23
    return tf.reshape(tf.math.ndtri(uniform), shape)


def _hash(words: tf.Tensor) -> tf.Tensor:
    """Mix the bits of uint32: the finaliser of MurmurHash3 (Appleby, public domain)."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        words = tf.bitwise.bitwise_xor(words, tf.bitwise.right_shift(words, _word(shift)))
        words *= _word(factor)
    return tf.bitwise.bitwise_xor(words, tf.bitwise.right_shift(words, _word(16)))


def _word(value: int) -> tf.Tensor:
    return tf.constant(value, tf.uint32)
