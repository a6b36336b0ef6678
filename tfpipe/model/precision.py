"""The precision of a Keras model: the global policy, and models that follow it."""

import contextlib
from collections.abc import Iterator

import tf_keras

from tfpipe.core import float32

layers = tf_keras.layers

FLOAT32 = "float32"

# Layers that prepare an image, once for each: in half precision, the ImageNet means in a
# Normalization would lose digits, and no file of weights can hold its variables.
_ALWAYS_FLOAT32 = (layers.Normalization, layers.Rescaling)


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


def in_policy(model: tf_keras.Model) -> tf_keras.Model:
    """Return a model whose layers follow Keras' global policy, or a copy of it that does.

    Args:
        model: a functional or sequential model; its layers may be such models. In a copy, layers
            that prepare an image stay in float32, and so do all weights.
    """
    policy = tf_keras.mixed_precision.global_policy().name
    if all(layer.dtype_policy.name == _policy_of(layer, policy) for layer in _leaves(model)):
        return model
    copies = []

    def copy(layer: layers.Layer) -> layers.Layer:
        if isinstance(layer, tf_keras.Model):
            return in_policy(layer)
        config = layer.get_config() | {"dtype": _policy_of(layer, policy)}
        copied = type(layer).from_config(config)
        copies.append((layer, copied))
        return copied

    result = tf_keras.models.clone_model(model, clone_function=copy)
    for layer, copied in copies:
        copied.set_weights(layer.get_weights())
    return result


def _leaves(model: tf_keras.Model) -> Iterator[layers.Layer]:
    for layer in model.layers:
        yield from _leaves(layer) if isinstance(layer, tf_keras.Model) else [layer]


def _policy_of(layer: layers.Layer, policy: str) -> str:
    kept = (layers.InputLayer, *_ALWAYS_FLOAT32)
    return FLOAT32 if isinstance(layer, kept) else policy
