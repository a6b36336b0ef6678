"""Backbones and classifiers: parameter counts as published, names, weights, outputs."""

import numpy as np
import pytest
import tensorflow as tf

from tfpipe.errors import UserError
from tfpipe.model import backbones, classifier
from tfpipe.model.classifier import Branch


def build(names, classes=2, size=0, weights="none", **changes):
    options = {"pooling": "avg", "head": "dropout(0.5)", "output": "auto", **changes}
    chosen = [backbones.get(name) for name in names]
    branches = [Branch(b.name, size or b.input_size, weights) for b in chosen]
    return classifier.build(branches, classes, **options)


def parameters(variables):
    return sum(int(np.prod(v.shape)) for v in variables)


# Printed by the seeds' own model.summary(): (backbones, options, total, trained).
FROZEN = {"trainable": False}
SEEDS = {
    "R1 InceptionV3": (["inception_v3"], {}, FROZEN, 21_804_833, 2_049),
    "R1 ResNet50": (["resnet50"], {}, FROZEN, 23_589_761, 2_049),
    "R1 Xception": (["xception"], {}, FROZEN, 20_863_529, 2_049),
    "R1 merged": (["inception_v3", "xception", "resnet50"], {}, FROZEN, 66_258_121, 6_145),
    "R5 small CNN": (
        ["small_cnn"],
        {"pooling": "flatten", "head": "dense(64)|dropout(0.5)", "output": "softmax"},
        {"trainable": True},
        1_355_938,
        1_355_938,
    ),
}


@pytest.mark.parametrize("seed", SEEDS)
def test_seed_models_have_their_published_parameters(seed):
    names, options, state, total, trained = SEEDS[seed]
    built = build(names, **options)
    built.features.trainable = state["trainable"]
    assert built.model.count_params() == total
    assert parameters(built.model.trainable_variables) == trained


def test_every_keras_application_is_registered():
    applications = {
        name.lower()
        for name in dir(tf.keras.applications)
        if name[0].isupper() and callable(getattr(tf.keras.applications, name))
    }
    assert len(applications) > 70
    assert set(backbones.backbones) == applications | {"small_cnn"}


# Small members of families that differ in preprocessing; the large test builds all.
SOME = ["mobilenet", "mobilenetv3small", "efficientnetb0", "vgg16", "densenet121", "small_cnn"]


def check_backbone(name, size):
    built = build([name], size=size)
    images = np.random.default_rng(0).uniform(0, 255, (2, size, size, 3)).astype(np.float32)
    logits = built.model(images, training=False)
    assert logits.shape == (2, 1)
    assert logits.dtype == tf.float32
    assert np.isfinite(logits).all()


@pytest.mark.parametrize("name", SOME)
def test_backbones_classify(name):
    check_backbone(name, 64)


@pytest.mark.large
@pytest.mark.parametrize("name", sorted(set(backbones.backbones) - set(SOME)))
def test_all_other_backbones_classify(name):
    tf.keras.backend.clear_session()
    check_backbone(name, 96)


def test_published_input_sizes():
    """keras.applications builds with its own default size when given none; three of them here."""
    for name in ("efficientnetb1", "efficientnetv2b3", "nasnetlarge"):
        expected = {"efficientnetb1": 240, "efficientnetv2b3": 300, "nasnetlarge": 331}[name]
        assert backbones.get(name).input_size == expected
    assert backbones.get("mobilenet").input_size == 224


@pytest.mark.parametrize(
    "spelling", ["InceptionV3", "inception_v3", "INCEPTION-V3", " inceptionv3 "]
)
def test_names_are_compared_loosely(spelling):
    assert backbones.get(spelling).name == "inceptionv3"


def test_an_unknown_backbone_lists_the_known_ones():
    with pytest.raises(UserError, match=r"unknown backbone 'mobilnet'; did you mean 'mobilenet'\?"):
        backbones.get("mobilnet")


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("xception", -1, 1), ("small_cnn", 0, 1), ("resnet50", -123.68, 151.061)],
)
def test_normalises_as_published(name, low, high):
    """[-1, 1] for Xception, [0, 1] for the small CNN, Caffe's mean subtraction for ResNet50."""
    normalise = backbones.get(name).normalise
    found = normalise(tf.constant([[[[0.0, 0.0, 0.0], [255.0, 255.0, 255.0]]]])).numpy()
    assert found.min() == pytest.approx(low, abs=1e-3)
    assert found.max() == pytest.approx(high, abs=1e-3)


def test_one_image_feeds_backbones_of_several_sizes():
    branches = [Branch("small_cnn", 48, "none"), Branch("mobilenet", 32, "none")]
    built = classifier.build(branches, 2, pooling="avg", head="", output="auto")
    assert built.image_size == 48
    images = np.random.default_rng(0).uniform(0, 255, (2, 48, 48, 3)).astype(np.float32)
    assert built.features(images).shape == (2, 64 + 1024)
    # The second branch alone, fed the resized image, gives the second part of the features.
    small = tf.keras.applications.mobilenet.preprocess_input(tf.image.resize(images, [32, 32]))
    mobilenet = built.features.get_layer("mobilenet_1.00_32")
    expected = tf.reduce_mean(mobilenet(small, training=False), [1, 2])
    np.testing.assert_allclose(built.features(images, training=False)[:, 64:], expected, atol=1e-5)


class TestOutput:
    images = np.random.default_rng(0).uniform(0, 255, (5, 32, 32, 3)).astype(np.float32)

    @pytest.mark.parametrize(
        ("classes", "output", "units"), [(2, "auto", 1), (2, "softmax", 2), (5, "auto", 5)]
    )
    def test_probabilities_and_losses_follow_their_formulas(self, classes, output, units):
        built = build(["small_cnn"], classes, size=32, output=output)
        logits = built.model(self.images, training=False).numpy().astype(np.float64)
        assert logits.shape == (5, units)
        full = np.concatenate([np.zeros_like(logits), logits], 1) if units == 1 else logits
        expected = np.exp(full) / np.exp(full).sum(1, keepdims=True)
        labels = np.arange(5) % classes
        probabilities = built.probabilities(tf.constant(logits, tf.float32))
        np.testing.assert_allclose(probabilities, expected, atol=1e-6)
        shares = 0.7 * np.eye(classes)[labels] + 0.3 / classes  # as mixed pictures have
        losses = built.losses(tf.constant(shares, tf.float32), tf.constant(logits, tf.float32))
        np.testing.assert_allclose(losses, -(shares * np.log(expected)).sum(1), atol=1e-6)

    def test_a_sigmoid_over_three_classes_is_refused(self):
        with pytest.raises(UserError, match="--output=sigmoid needs two classes"):
            build(["small_cnn"], 3, size=32, output="sigmoid")

    @pytest.mark.parametrize(
        ("head", "message"),
        [
            ("dense(0)", "at least 1"),
            ("dropout(1)", "not in"),
            ("conv(3)", "unknown head layer 'conv'; known: dense, dropout"),
        ],
    )
    def test_a_wrong_head_is_explained(self, head, message):
        with pytest.raises(UserError, match=message):
            build(["small_cnn"], size=32, head=head)


class TestWeights:
    def test_a_file_is_loaded(self, tmp_path):
        tf.keras.utils.set_random_seed(1)
        original = backbones.get("small_cnn").build(32)
        original.save_weights(tmp_path / "w.h5")
        loaded = backbones.build(backbones.get("small_cnn"), 32, str(tmp_path / "w.h5"))
        for one, other in zip(original.weights, loaded.weights, strict=True):
            np.testing.assert_array_equal(one, other)

    def test_the_real_mobilenet_weights_are_loaded(self, shared):
        path = shared / "weights" / "mobilenet_1_0_224_tf_no_top.h5"
        model = backbones.build(backbones.get("mobilenet"), 224, str(path))
        kernel = model.get_layer("conv_pw_13").kernel.numpy()[0, 0]
        np.testing.assert_array_equal(kernel, np.eye(1024))  # as the weights' notes say

    def test_a_missing_or_foreign_file_is_explained(self, tmp_path):
        small = backbones.get("small_cnn")
        with pytest.raises(UserError, match=r"--weights: no file '.*nowhere\.h5' for small_cnn"):
            backbones.build(small, 32, str(tmp_path / "nowhere.h5"))
        (tmp_path / "text.h5").write_text("not HDF5")
        with pytest.raises(UserError, match=r"text\.h5 does not fit small_cnn"):
            backbones.build(small, 32, str(tmp_path / "text.h5"))
        tf.keras.Sequential([tf.keras.layers.Dense(3, input_shape=[2])]).save_weights(
            tmp_path / "other.h5"
        )
        with pytest.raises(UserError, match=r"other\.h5 does not fit small_cnn"):
            backbones.build(small, 32, str(tmp_path / "other.h5"))

    def test_the_small_cnn_has_no_imagenet_weights(self):
        with pytest.raises(
            UserError, match="small_cnn has no ImageNet weights: pass --weights=none"
        ):
            backbones.build(backbones.get("small_cnn"), 32, "imagenet")

    def test_a_failed_download_says_where_to_put_the_file(self, monkeypatch, tmp_path):
        monkeypatch.setenv("KERAS_HOME", str(tmp_path))
        monkeypatch.setattr("keras.src.utils.data_utils.urlretrieve", raise_url_error)
        with pytest.raises(UserError, match=r"could not be downloaded.*put it into"):
            backbones.build(backbones.get("mobilenetv2"), 96, "imagenet")

    def test_an_image_too_small_is_explained(self):
        with pytest.raises(UserError, match="--image_size=16 is too small for xception"):
            backbones.build(backbones.get("xception"), 16, "none")


def raise_url_error(*args, **kwargs):
    import urllib.error

    raise urllib.error.URLError("no network")
