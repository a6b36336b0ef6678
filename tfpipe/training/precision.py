"""Keras' policy of precision, which is global."""

import contextlib
from collections.abc import Iterator

import tf_keras


@contextlib.contextmanager
def under(policy: str) -> Iterator[None]:
    """Set Keras' global policy while the block runs."""
    before = tf_keras.mixed_precision.global_policy()
    tf_keras.mixed_precision.set_global_policy(policy)
    try:
        yield
    finally:
        tf_keras.mixed_precision.set_global_policy(before)
