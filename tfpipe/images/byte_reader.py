"""Read the first bytes of a file as numbers within a graph."""

import tensorflow as tf


class ByteReader:
    """The first bytes of a file, followed by endless zeros.

    Attributes:
        size: int32 scalar, the number of bytes of the file.
    """

    def __init__(self, encoded: tf.Tensor, length: int):
        """Take the first `length` bytes of `encoded`, a string scalar; all of them for -1."""
        head = tf.io.decode_raw(tf.strings.substr(encoded, 0, length), tf.uint8)
        self.size = tf.size(head)
        self._padded = tf.concat([head, tf.zeros([1], tf.uint8)], 0)

    def byte(self, at: tf.Tensor | int) -> tf.Tensor:
        """Return the bytes at positions, int32 of the same shape; 0 beyond the end."""
        found = tf.gather(self._padded, tf.clip_by_value(at, 0, self.size))
        return tf.cast(found, tf.int32)

    def number(
        self, at: tf.Tensor | int, length: int, *, big: tf.Tensor | bool = False
    ) -> tf.Tensor:
        """Return the integers of 1 to 4 bytes at positions, int32 of the same shape.

        Args:
            at: int32, the positions of their first bytes.
            length: bytes of each; the highest of 4 holds the sign.
            big: whether they are big-endian.
        """
        weights = [256**i for i in range(length)]
        if isinstance(big, bool):
            weights = weights[::-1] if big else weights
        else:
            weights = tf.where(big, weights[::-1], weights)
        return tf.reduce_sum(self._bytes(at, length) * weights, -1)

    def starts_with(self, magic: bytes, at: tf.Tensor | int = 0) -> tf.Tensor:
        """Return whether these bytes are at a position, bool scalar."""
        return tf.reduce_all(self._bytes(at, len(magic)) == list(magic))

    def _bytes(self, at: tf.Tensor | int, length: int) -> tf.Tensor:
        """Return the bytes from positions on, in a further dimension."""
        return self.byte(tf.expand_dims(at, -1) + list(range(length)))
