"""Keeps XLA from computing values again wherever they are used."""

from typing import TypeVar

import tensorflow as tf

T = TypeVar("T", tf.Tensor, tuple[tf.Tensor, ...])


def barrier(values: T, numbers: tf.Tensor) -> T:
    """Return `values`, computed in full before anything uses them.

    XLA fuses cheap operations into each of their users and repeats them for every element there,
    such as a pixel for all its neighbours. It cannot fuse into a loop that might run. This loop
    never runs, but only we know. tf.stop_gradient has no effect here, and branches run on a
    single thread on a CPU. `numbers` is a float tensor without infinities, unknown to XLA.
    """
    never = tf.reduce_max(numbers) == float("inf")
    return tf.while_loop(
        lambda turn, _: turn,
        lambda turn, old: (turn, tf.nest.map_structure(tf.zeros_like, old)),
        (never, values),
        shape_invariants=(never.shape, tf.nest.map_structure(lambda value: value.shape, values)),
    )[1]
