"""A model whose weights are constants answers as it does with variables, and holds what it had."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tfpipe.model import classifier, constants, split
from tfpipe.model.constants import with_constant_weights

SIDE = 64


def pictures(count=3, seed=0):
    return tf.constant(
        np.random.default_rng(seed).integers(0, 256, [count, SIDE, SIDE, 3], "uint8")
    )


@pytest.fixture(scope="module", params=["mobilenet", "mobilenet@conv_pw_12_relu+conv_dw_13_relu"])
def model(request):
    tf_keras.utils.set_random_seed(3)
    branches = [
        classifier.Branch(request.param, SIDE, "none"),
        classifier.Branch("small_cnn", SIDE, "none"),
    ]
    built = classifier.build(branches, 2, pooling="avg", head="norm|dense(8)", output="auto")
    for layer in built.model.submodules:
        if isinstance(layer, tf_keras.layers.BatchNormalization):
            layer.momentum = 0.0
    built.model(pictures(16), training=True)  # else, with random weights, all ends near 0
    return built


@pytest.mark.parametrize("start", ["conv_pw_10", "head"])
def test_constants_answer_as_variables_do(model, start):
    parts = split.split(model, start)
    fixed = with_constant_weights(parts.boundary)
    batches = [pictures(seed=0), pictures(seed=1), pictures(count=2)]
    for images in [*batches, tf.cast(batches[0], tf.float32)]:
        expected = parts.boundary(images)
        assert max(float(tf.math.reduce_std(each)) for each in expected) > 1e-3
        for one, other in zip(fixed(images), expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_a_list_of_tensors_crosses_too(model):
    early, late = split.split(model, "conv_pw_10"), split.split(model, "conv_pw_12")
    way = split.between(model, early, late)
    crossing = early.boundary(pictures())
    found = with_constant_weights(lambda tensors: way(tensors, training=False))(crossing)
    for one, other in zip(found, way(crossing, training=False), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def nodes_of(function):
    """Returns the kinds of operations that TensorFlow runs for a function of the images."""
    graphs = []
    with pytest.MonkeyPatch.context() as patch:
        fold = constants.folded
        keep = lambda graph: graphs.append(fold(graph)) or graphs[-1]  # noqa: E731
        patch.setattr(constants, "folded", keep)
        function(pictures())
    return {node.op for graph in graphs for node in graph.node}


def test_no_variable_is_read(model):
    parts = split.split(model, "head")
    found = nodes_of(with_constant_weights(parts.boundary))
    assert "Conv2D" in found
    assert not found & {"ReadVariableOp", "VarHandleOp", "Placeholder_1"}


def test_what_is_too_large_stays_in_variables(model, monkeypatch):
    monkeypatch.setattr(constants, "_MOST_BYTES", 10)
    parts = split.split(model, "head")
    fixed = with_constant_weights(parts.boundary)
    assert not nodes_of(fixed)
    np.testing.assert_allclose(fixed(pictures())[0], parts.boundary(pictures())[0], atol=1e-4)


def test_several_devices_read_their_variables():
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        variable = tf.Variable(2.0)
        function = with_constant_weights(lambda value: value * variable)
    assert float(function(tf.constant(3.0))) == 6
    variable.assign(4.0)
    assert float(function(tf.constant(3.0))) == 12
