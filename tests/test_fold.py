"""A graph with BatchNorm folded into its convolutions computes the same, with fewer operations."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from tfpipe.model.fold import folded
from tfpipe.training.precision import under

layers = tf_keras.layers
CHANNELS = 4


def norm(**options):
    """A BatchNorm with numbers of its own."""
    draw = tf_keras.initializers.RandomUniform
    return layers.BatchNormalization(
        beta_initializer=draw(-1, 1, seed=1),
        gamma_initializer=draw(-2, 2, seed=2),
        moving_mean_initializer=draw(-1, 1, seed=3),
        moving_variance_initializer=draw(0.1, 3, seed=4),
        **options,
    )


def frozen(build, dtype="float32"):
    """Returns the constant graph of a Keras model, and its answer, for some images."""
    image = tf_keras.Input([9, 9, CHANNELS], dtype=dtype)
    model = tf_keras.Model(image, build(image))
    images = np.random.default_rng(0).normal(size=(2, 9, 9, CHANNELS)).astype(dtype)
    spec = tf.TensorSpec(images.shape, dtype)
    run = tf.function(lambda x: model(x, training=False)).get_concrete_function(spec)
    constant = convert_variables_to_constants_v2(run)
    return constant, images, model(images, training=False)


def kinds(graph):
    return [node.op for node in graph.node]


def answer(graph, constant, images):
    load = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(graph, name=""), [])
    ends = [[each.name for each in tensors] for tensors in (constant.inputs, constant.outputs)]
    found = load.prune(*ends)(tf.constant(images))
    return found if isinstance(found, list) else [found]


FOLDED = {
    "conv": lambda x: norm()(layers.Conv2D(6, 3, use_bias=False)(x)),
    "strided, then ReLU": lambda x: layers.ReLU(6)(
        norm(epsilon=0.01)(layers.Conv2D(6, 3, strides=2, padding="same", use_bias=False)(x))
    ),
    "depthwise": lambda x: norm()(layers.DepthwiseConv2D(3, use_bias=False)(x)),
    "depthwise, two of each": lambda x: norm()(
        layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False)(x)
    ),
    "no scale or offset": lambda x: norm(scale=False, center=False)(
        layers.Conv2D(6, 1, use_bias=False)(x)
    ),
}
LEFT = {
    "no convolution before": lambda x: norm()(x),
    "a bias between": lambda x: norm()(layers.Conv2D(6, 3)(x)),
    "the convolution is needed": lambda x: [
        norm()(y := layers.Conv2D(6, 3, use_bias=False)(x)),
        layers.ReLU()(y),
    ],
}


@pytest.mark.parametrize("name", FOLDED)
def test_a_norm_behind_a_convolution_is_folded(name):
    constant, images, expected = frozen(FOLDED[name])
    before = constant.graph.as_graph_def()
    assert any("BatchNorm" in kind for kind in kinds(before))
    after = folded(before)
    assert not any("BatchNorm" in kind for kind in kinds(after))
    assert "BiasAdd" in kinds(after)
    np.testing.assert_allclose(answer(after, constant, images)[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", LEFT)
def test_another_norm_is_left_alone(name):
    constant, images, expected = frozen(LEFT[name])
    before = constant.graph.as_graph_def()
    after = folded(before)
    assert kinds(after) == kinds(before)
    expected = expected if isinstance(expected, list) else [expected]
    for one, other in zip(answer(after, constant, images), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FOLDED)
def test_in_bfloat16_it_is_as_near_to_float32_as_before(name):
    _, _, exact = frozen(FOLDED[name])
    with under("mixed_bfloat16"):
        constant, images, before = frozen(FOLDED[name])
    after = folded(constant.graph.as_graph_def())
    assert not any("BatchNorm" in kind for kind in kinds(after))
    found = answer(after, constant, images)[0]
    assert found.dtype == before.dtype == tf.bfloat16

    def error(values):
        return np.sqrt(np.mean((tf.cast(values, tf.float32) - exact) ** 2))

    assert 0 < error(found) < 1.2 * error(before)


def test_float16_is_left_alone():
    with under("mixed_float16"):
        constant, _, _ = frozen(FOLDED["conv"])
    before = constant.graph.as_graph_def()
    assert kinds(folded(before)) == kinds(before)


def test_other_types_are_left_alone():
    def build(x):
        options = {"use_bias": False, "dtype": "float64"}
        return norm(dtype="float64")(layers.Conv2D(6, 3, **options)(x))

    constant, images, expected = frozen(build, "float64")
    after = folded(constant.graph.as_graph_def())
    np.testing.assert_allclose(answer(after, constant, images)[0], expected, rtol=1e-12)
