"""The first bytes of a file in a string tensor, read as numbers within a graph."""

import tensorflow as tf


class Head:
    """The beginning of a file, followed by as many zeros as anybody asks for.

    Attributes:
        size: int32 scalar, how many bytes of the file are here.
    """

    def __init__(self, encoded: tf.Tensor, length: int):
        """`encoded` is a string scalar, of which the first `length` bytes are taken."""
        head = tf.io.decode_raw(tf.strings.substr(encoded, 0, length), tf.uint8)
        self.size = tf.size(head)
        self._padded = tf.concat([head, tf.zeros([1], tf.uint8)], 0)

    def byte(self, at: tf.Tensor | int) -> tf.Tensor:
        """Returns the bytes at positions, int32 of the same shape; 0 where there are none."""
        found = tf.gather(self._padded, tf.clip_by_value(at, 0, self.size))
        return tf.cast(found, tf.int32)

    def number(
        self, at: tf.Tensor | int, length: int, *, big: tf.Tensor | bool = False
    ) -> tf.Tensor:
        """Returns the integers of `length` bytes, 1 to 4, at positions, int32 of the same shape.

        Args:
            at: int32, where they begin.
            length: of each.
            big: whether the first byte is the highest one. With 4 bytes the highest is the sign's.
        """
        weights = [256**i for i in range(length)]
        if isinstance(big, bool):
            weights = weights[::-1] if big else weights
        else:
            weights = tf.where(big, weights[::-1], weights)
        return tf.reduce_sum(self._bytes(at, length) * weights, -1)

    def starts_with(self, magic: bytes, at: tf.Tensor | int = 0) -> tf.Tensor:
        """Returns whether these bytes are at a position, bool scalar."""
        return tf.reduce_all(self._bytes(at, len(magic)) == list(magic))

    def _bytes(self, at: tf.Tensor | int, length: int) -> tf.Tensor:
        """Returns the bytes from positions on, in a further dimension."""
        return self.byte(tf.expand_dims(at, -1) + list(range(length)))
