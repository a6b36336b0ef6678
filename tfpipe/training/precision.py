"""Keras' policy of precision, which is global."""

import contextlib
from collections.abc import Iterator

import tf_keras

from tfpipe.core import float32


@contextlib.contextmanager
def under(policy: str) -> Iterator[None]:
    """Set Keras' global policy while the block runs, and make float32 exact from then on."""
    float32.exact()
    before = tf_keras.mixed_precision.global_policy()
    tf_keras.mixed_precision.set_global_policy(policy)
    try:
        yield
    finally:
        tf_keras.mixed_precision.set_global_policy(before)
