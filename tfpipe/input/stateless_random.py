"""Random numbers for each example that do not depend on order, batch or threads.

A counter-based generator: a number is a hash of (seed, epoch, example, column), without state, for
a whole batch at once. The hash is the finaliser of SplitMix64 (G. Steele, D. Lea, C. Flood, "Fast
splittable pseudorandom number generators", 2014; David Stafford's Mix13), applied to each part of
the key in turn. TensorFlow's stateless generators take one seed for a whole batch; a call for each
example costs a fifth of its decoding.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_DIGITS = 15  # of a digest; 60 bits fit into int64
_BITS = 24  # of float32's significand


def uniform(
    seed: int, epoch: int, example_ids: np.ndarray | tf.Tensor, columns: int
) -> np.ndarray | tf.Tensor:
    """Return float32 [N, columns], uniform in [0, 1) in steps of 2 ** -24.

    Args:
        seed: of the run, in int64.
        epoch: from 0.
        example_ids: int64 [N]; a tensor for the same numbers as a tensor.
        columns: numbers for each example.
    """
    key = np.zeros(1, np.uint64)
    for part in (seed, epoch):
        key = _mix(key ^ np.asarray(part, np.int64).astype(np.uint64))
    column = np.arange(columns, dtype=np.uint64)
    if isinstance(example_ids, tf.Tensor):
        key = _mix(key ^ tf.bitcast(example_ids, tf.uint64), tf.bitwise.right_shift)
        bits = _mix(key[:, tf.newaxis] ^ column, tf.bitwise.right_shift)
        top = tf.cast(tf.bitwise.right_shift(bits, np.uint64(64 - _BITS)), tf.float32)
    else:
        key = _mix(key ^ np.asarray(example_ids, np.int64).astype(np.uint64))
        bits = _mix(key[:, None] ^ column)
        top = (bits >> np.uint64(64 - _BITS)).astype(np.float32)
    return top * np.float32(2.0**-_BITS)


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


def _mix(
    x: np.ndarray | tf.Tensor, shift: Callable[..., Any] = np.right_shift
) -> np.ndarray | tf.Tensor:
    """Return the hash of uint64 [...]; `shift` is the right shift for its type."""
    x = x + _GOLDEN  # modulo 2 ** 64, like all arithmetic here
    x = (x ^ shift(x, np.uint64(30))) * _FIRST
    x = (x ^ shift(x, np.uint64(27))) * _SECOND
    return x ^ shift(x, np.uint64(31))
