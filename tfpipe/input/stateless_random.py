"""Random numbers for each example that do not depend on order, batch or threads.

A counter-based generator: a number is a hash of (seed, epoch, example, column), without state, for
a whole batch at once. The hash is the finaliser of SplitMix64 (G. Steele,
D. Lea, C. Flood, "Fast splittable pseudorandom number generators", 2014; David Stafford's Mix13),
applied to each part of the key in turn. TensorFlow's stateless generators take one seed for a
whole batch; a call for each example costs a fifth of its decoding.
"""

import numpy as np
import tensorflow as tf

Array = np.ndarray | tf.Tensor

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_DIGITS = 15  # of a digest; 60 bits fit into int64
_BITS = 24  # of float32's significand


def uniform(seed: Array, epoch: Array, sample: Array, columns: int) -> Array:
    """Return uniform random numbers.

    Args:
        seed: int64 [N] or [1].
        epoch: int64 [N] or [1].
        sample: int64 [N], the ids of the examples.
        columns: numbers for each example.

    Returns:
        float32 [N, columns], uniform in [0, 1), in steps of 2 ** -24; an array for arrays, a
        tensor for tensors.
    """
    key = _mix(_cast(seed, np.uint64))
    key = _mix(key ^ _cast(epoch, np.uint64))
    key = _mix(key ^ _cast(sample, np.uint64))
    bits = _mix(key[:, None] ^ np.arange(columns, dtype=np.uint64))
    return _cast(_right(bits, 64 - _BITS), np.float32) * np.float32(2.0**-_BITS)


def example_id(sha256: str | tf.Tensor) -> int | tf.Tensor:
    """Return the id of an example: the first 60 bits of its image's digest.

    Args:
        sha256: hex digest; or a string tensor, for an int64 tensor of the same shape.
    """
    if isinstance(sha256, str):
        return int(sha256[:_DIGITS], 16)
    digits = tf.io.decode_raw(tf.strings.substr(sha256, 0, _DIGITS), tf.uint8)
    digits = tf.cast(digits, tf.int64)
    values = tf.where(digits >= ord("a"), digits - ord("a") + 10, digits - ord("0"))
    return tf.reduce_sum(values * 16 ** np.arange(_DIGITS - 1, -1, -1, dtype=np.int64), -1)


def _mix(x: Array) -> Array:
    x = x + _GOLDEN  # modulo 2 ** 64, like all arithmetic here
    x = (x ^ _right(x, 30)) * _FIRST
    x = (x ^ _right(x, 27)) * _SECOND
    return x ^ _right(x, 31)


def _right(x: Array, bits: int) -> Array:
    shift = np.right_shift if isinstance(x, np.ndarray) else tf.bitwise.right_shift
    return shift(x, np.uint64(bits))


def _cast(x: Array, dtype: type) -> Array:
    return x.astype(dtype) if isinstance(x, np.ndarray) else tf.cast(x, dtype)
