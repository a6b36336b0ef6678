"""Every backbone in every precision: its weights, its features, a step, its file of weights."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.training import CACHED, val_losses
from tfpipe import export, train
from tfpipe.model import backbones, classifier, fold
from tfpipe.model.partition import partition
from tfpipe.model.precision import in_policy, under
from tfpipe.training import randomness

# One small member of each family; the large test has all.
SLOW = ("efficientnetb0", "mobilenetv3small")
SIDE = 75  # the least that every backbone takes

# Operations that draw from TensorFlow's own state, which no checkpoint has.
UNSAVED = ("RandomUniform", "RandomStandardNormal", "TruncatedNormal", "RandomUniformInt")


def marked(name):
    if name == "small_cnn":
        return name
    return pytest.param(name, marks=pytest.mark.slow if name in SLOW else pytest.mark.large)


def built(name, policy):
    config = classifier.BackboneConfig(name, SIDE, "none")
    randomness.seed_everything(0)
    with under(policy):
        return classifier.build([config], 2, pooling="avg", head="dropout(0.5)", output="auto")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("policy", "dtype"), [("mixed_bfloat16", "bfloat16"), ("mixed_float16", "float16")]
)
@pytest.mark.parametrize("name", [marked(name) for name in backbones.backbones])
def test_every_backbone(name, policy, dtype, tmp_path):
    exact, half = built(name, "float32"), built(name, policy)
    assert {weight.dtype for weight in half.model.weights} <= {tf.float32, tf.int64}
    half.model.set_weights(exact.model.get_weights())
    images = tf.constant(np.random.default_rng(0).uniform(0, 255, (2, SIDE, SIDE, 3)), tf.float32)

    frozen = partition(half, "head").frozen
    (found,) = classifier.as_list(fold.folded(frozen)(images, training=False))
    assert found.dtype == dtype
    expected = exact.features(images, training=False).numpy()
    if np.abs(expected).mean() < np.finfo(np.float16).tiny and dtype == tf.float16:
        pytest.skip("random weights make features that float16 cannot hold")
    error = found.numpy().astype(np.float32) - expected
    # Half precision keeps 8 bits or more, less what dozens of layers add up.
    assert np.abs(error).mean() < 0.1 * np.abs(expected).mean()

    parts = partition(half, "all")

    @tf.function
    def gradients(images):
        with tf.GradientTape() as tape:
            logits = parts.trained(parts.boundary(images), training=True)
            loss = tf.reduce_sum(logits)
        assert logits.dtype == tf.float32
        return tape.gradient(loss, parts.trained.trainable_variables)

    definition = gradients.get_concrete_function(tf.TensorSpec(images.shape)).graph.as_graph_def()
    nodes = [*definition.node, *(n for f in definition.library.function for n in f.node_def)]
    assert not {node.op for node in nodes} & set(UNSAVED)
    assert all(each is not None and each.dtype == tf.float32 for each in gradients(images))

    path = tmp_path / "half.weights.h5"
    half.model.save_weights(path)
    restored = built(name, "float32").model
    restored.load_weights(path)
    for one, other in zip(half.model.get_weights(), restored.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_model_of_another_precision_follows_the_policy():
    """As a model file that was saved in half precision; layers within layers too."""
    layers = tf_keras.layers
    with under("mixed_float16"):
        inner = tf_keras.Sequential([layers.Input([8, 8, 3]), layers.Conv2D(4, 3)])
        image = tf_keras.Input([8, 8, 3])
        x = layers.Normalization(mean=[0.1, 0.2, 0.3], variance=[2.0, 3.0, 4.0])(image)
        model = tf_keras.Model(image, layers.ReLU()(inner(x) + 0.5))
    images = tf.constant(np.random.default_rng(0).normal(size=(2, 8, 8, 3)), tf.float32)
    kernel, bias = (weight.astype(np.float64) for weight in inner.get_weights())
    normal = (images.numpy() - [0.1, 0.2, 0.3]) / np.sqrt([2.0, 3.0, 4.0])
    rows = np.lib.stride_tricks.sliding_window_view(normal, (3, 3), axis=(1, 2))
    expected = np.maximum(np.einsum("nhwcij,ijcf->nhwf", rows, kernel) + bias + 0.5, 0)
    for policy, error in (("float32", 1e-5), ("mixed_bfloat16", 0.05)):
        with under(policy):
            found = in_policy(model)
            assert in_policy(found) is found
        np.testing.assert_allclose(tf.cast(found(images), "float32"), expected, atol=error)
        assert len(found.weights) == len(model.weights)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_features_fine_tuning_and_export_in_bfloat16(tiny_config, tmp_path):
    """EfficientNet has a Normalization, whose variables Keras makes in half precision."""
    stages = "head:epochs=1;all:from=all,lr=1e-4,epochs=1"
    options = {
        "backbones": "efficientnetb0",
        "image_size": str(SIDE),
        "precision": "mixed_bfloat16",
    }
    config = tiny_config(**CACHED | options | {"stages": stages, "head": ""})
    train.main(config)
    assert np.isfinite(val_losses(tmp_path / "run")).all()
    export.main(
        export.Options(
            run_dir=config.run_dir,
            export_dir=str(tmp_path / "export"),
            check_images=4,
            serving_batch_sizes="1",
        )
    )
