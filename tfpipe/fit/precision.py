"""Keras' policy of precision, which is global, for as long as a model is built under it."""

import contextlib
from collections.abc import Iterator

import tensorflow as tf


@contextlib.contextmanager
def under(policy: str) -> Iterator[None]:
    """Sets Keras' global policy while the block runs."""
    before = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy(policy)
    try:
        yield
    finally:
        tf.keras.mixed_precision.set_global_policy(before)
