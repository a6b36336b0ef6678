"""A folded model computes the same in inference, with fewer operations and constant weights."""

import functools

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.refusals import refused
from tfpipe.model import backbones, classifier, fold, signatures, views
from tfpipe.model.partition import partition
from tfpipe.model.precision import under
from tfpipe.model.predictor import Predictor

layers = tf_keras.layers
CHANNELS = 4


def randomise(model):
    """Gives every BatchNorm numbers of its own, as of a trained one."""
    rng = np.random.default_rng(0)
    for layer in model.submodules:
        if isinstance(layer, layers.BatchNormalization):
            for weight in layer.weights:
                low = 0.5 if "gamma" in weight.name or "variance" in weight.name else -0.3
                weight.assign(rng.uniform(low, low + 0.7, weight.shape))
    return model


def built(build, dtype=None):
    image = tf_keras.Input([9, 9, CHANNELS], dtype=dtype)
    tf_keras.utils.set_random_seed(1)
    return randomise(tf_keras.Model(image, build(image)))


def images(*shape):
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def kinds(model, inputs):
    """Returns the kinds of operations in the graph of a model."""
    graph = tf.function(lambda x: model(x, training=False)).get_concrete_function(inputs).graph
    return {operation.type for operation in graph.get_operations()}


norm = layers.BatchNormalization
conv = functools.partial(layers.Conv2D, 6, 3)
depthwise = functools.partial(layers.DepthwiseConv2D, 3, use_bias=False)

FOLDED = {
    "convolution": lambda x: norm()(conv(use_bias=False)(x)),
    "with a bias": lambda x: norm()(conv(bias_initializer="random_normal")(x)),
    "strided, then ReLU": lambda x: layers.ReLU(6)(
        norm(epsilon=0.01)(conv(strides=2, padding="same", use_bias=False)(x))
    ),
    "depthwise": lambda x: norm()(depthwise()(x)),
    "depthwise, two of each": lambda x: norm()(depthwise(depth_multiplier=2)(x)),
    "separable": lambda x: norm()(layers.SeparableConv2D(6, 3, use_bias=False)(x)),
    "no scale or offset": lambda x: norm(scale=False, center=False)(conv(use_bias=False)(x)),
    "a model within": lambda x: layers.Dense(3)(built(FOLDED["depthwise"])(x)),
}
LEFT = {
    "no convolution before": lambda x: norm()(x),
    "an activation between": lambda x: norm()(conv(activation="relu")(x)),
    "the convolution is used twice": lambda x: layers.Add()([y := conv()(x), norm()(y)]),
    "the convolution is an output": lambda x: [norm()(y := conv()(x)), y],
    "shared": lambda x: layers.Add()([(n := norm())(conv()(x)), n(conv()(x))]),
    "over another axis": lambda x: norm(axis=1)(conv()(x)),
}


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("name", FOLDED)
def test_a_norm_behind_a_convolution_is_folded(name, constant):
    model, batch = built(FOLDED[name]), images(2, 9, 9, CHANNELS)
    expected, before = model(batch, training=False), model.get_weights()
    copy = fold.folded(model, constant=constant)
    np.testing.assert_allclose(copy(batch, training=False), expected, rtol=1e-5, atol=1e-5)
    assert bool(copy.weights) != constant
    assert not any("BatchNorm" in kind for kind in kinds(copy, batch))
    assert ("ReadVariableOp" in kinds(copy, batch)) != constant
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", LEFT)
def test_another_norm_is_left_alone(name):
    model, batch = built(LEFT[name]), images(2, 9, 9, CHANNELS)
    copy = fold.folded(model)
    assert any("BatchNorm" in kind or kind == "Rsqrt" for kind in kinds(copy, batch))
    for one, other in zip(tf.nest.flatten(copy(batch)), tf.nest.flatten(model(batch)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["convolution", "depthwise", "separable"])
def test_in_bfloat16_it_is_as_near_to_float32_as_before(name):
    batch = images(2, 9, 9, CHANNELS)
    exact = built(FOLDED[name])(batch)
    with under("mixed_bfloat16"):
        model = built(FOLDED[name])
    copy = fold.folded(model)  # also outside of the policy
    before, after = model(batch), copy(batch)
    assert after.dtype == before.dtype == tf.bfloat16

    def error(values):
        return np.sqrt(np.mean((tf.cast(values, tf.float32) - exact) ** 2))

    assert 0 < error(after) < 1.2 * error(before)


def test_float16_keeps_its_norms():
    with under("mixed_float16"):
        copy = fold.folded(built(FOLDED["convolution"]))
    assert any(isinstance(layer, layers.BatchNormalization) for layer in copy.layers)


def test_weights_that_no_graph_can_hold_are_not_frozen(monkeypatch):
    config = classifier.BackboneConfig("small_cnn", 32, "none")
    whole = classifier.build([config], 2, pooling="avg", head="", output="auto")
    model = Predictor(whole, views.parse(""))
    monkeypatch.setattr(signatures, "MOST_BYTES", 10)
    signatures.Context(model, ("a", "b"))
    with refused(r"optimize=freeze.*optimize=none"):
        signatures.Context(model, ("a", "b"), freeze=True)


@pytest.fixture(scope="module")
def whole():
    cuts = {"mobilenet@conv_pw_2_relu+conv_dw_4_relu": 64, "small_cnn": 48}
    configs = [classifier.BackboneConfig(name, side, "none") for name, side in cuts.items()]
    found = classifier.build(configs, 2, pooling="avg_max", head="norm", output="auto")
    randomise(found.model)
    return found


@pytest.mark.parametrize("start", ["conv_pw_1", "conv_pw_1_bn", "head"])
def test_the_frozen_part_of_a_classifier(whole, start):
    parts = partition(whole, start)
    batch = tf.constant(np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)), tf.float32)
    for one, other in zip(fold.folded(parts.frozen)(batch), parts.boundary(batch), strict=True):
        assert np.std(other) > 1e-3
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.large  # a minute or more each for the largest
@pytest.mark.parametrize("name", backbones.backbones)
def test_every_backbone(name):
    model = randomise(backbones.build(backbones.get(name), size := 96, "none"))
    batch = images(2, size, size, 3)
    expected = model(batch, training=False).numpy()
    found = fold.folded(model)(batch, training=False)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found / scale, expected / scale, atol=1e-5)
