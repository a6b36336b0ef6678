"""Backbones and classifiers: parameter counts as published, names, weights, outputs."""

import dataclasses
import io
import pathlib
import re
import urllib.error
import urllib.request
import urllib.response
from typing import ClassVar

import h5py
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.conftest import draw_logits
from tfpipe.core.errors import UserError
from tfpipe.model import backbones, classifier
from tfpipe.model.classifier import BackboneConfig
from tfpipe.training import resolve


def build(names, classes=2, size=0, weights="none", **changes):
    options = {"pooling": "avg", "head": "dropout(0.5)", "output": "auto", **changes}
    chosen = [backbones.get(name) for name in names]
    branches = [BackboneConfig(b.text, size or b.input_size, weights) for b in chosen]
    return draw_logits(classifier.build(branches, classes, **options))


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


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_seed_models_have_their_published_parameters(seed):
    names, options, state, total, trained = SEEDS[seed]
    built = build(names, **options)
    built.features.trainable = state["trainable"]
    assert built.model.count_params() == total
    assert parameters(built.model.trainable_variables) == trained


def test_the_last_layer_starts_at_even_odds_or_as_keras_draws_it():
    """Glorot and Bengio 2010: uniform within the root of 6 / (inputs + outputs)."""

    def weights(**changes):
        tf_keras.utils.set_random_seed(3)
        branch = BackboneConfig("small_cnn", 32, "none")
        options = {"pooling": "avg", "head": "", "output": "softmax", **changes}
        return classifier.build([branch], 5, **options).head.get_layer("logits").kernel.numpy()

    assert not weights().any()
    drawn = weights(head_init="glorot_uniform")
    bound = (6 / sum(drawn.shape)) ** 0.5
    assert 0.9 * bound < np.abs(drawn).max() <= bound
    np.testing.assert_array_equal(drawn, weights(head_init="glorot_uniform"))


@pytest.mark.parametrize("pooling", classifier.POOLINGS)
def test_poolings_are_numpys(pooling):
    maps = np.random.default_rng(0).normal(size=(2, 3, 5, 4)).astype(np.float32)
    average, largest = maps.mean((1, 2)), maps.max((1, 2))
    expected = {
        "avg": average,
        "max": largest,
        "avg_max": np.concatenate([average, largest], axis=1),
        "flatten": maps.reshape(2, -1),
    }[pooling]
    layer = classifier.POOLINGS[pooling](name="pool")
    for pool in (layer, tf.function(layer)):
        np.testing.assert_allclose(pool(tf.constant(maps)), expected, rtol=1e-5, atol=1e-6)


def test_a_new_classifier_gives_even_odds():
    tf_keras.utils.set_random_seed(5)  # with some, all four units are dead
    built = classifier.build(
        [BackboneConfig("small_cnn", 32, "none")], 5, pooling="avg", head="dense(4)", output="auto"
    )
    images = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    assert not built.model(images, training=False).numpy().any()
    labels = tf.one_hot([0, 4], 5)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(built.losses(labels, built.model(images, training=True)))
    assert float(loss) == pytest.approx(np.log(5))
    assert tape.gradient(loss, built.head.get_layer("logits").kernel).numpy().any(), "it can learn"


def test_norm_takes_the_mean_and_divides_by_the_deviation():
    norm = classifier.head_layers["norm"](name="norm")
    values = np.random.default_rng(0).normal([5, -300], [0.1, 40], (64, 2)).astype(np.float32)
    expected = (values - values.mean(0)) / np.sqrt(values.var(0) + norm.epsilon)
    for _ in range(1000):
        trained = norm(values, training=True)
    np.testing.assert_allclose(trained, expected, rtol=1e-2, atol=1e-2)
    np.testing.assert_allclose(norm(values, training=False), expected, rtol=2e-2, atol=2e-2)
    assert not norm.trainable_weights


def test_every_keras_application_is_registered():
    applications = {
        name.lower()
        for name in dir(tf_keras.applications)
        if name[0].isupper() and callable(getattr(tf_keras.applications, name))
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
    tf_keras.backend.clear_session()
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
    branches = [BackboneConfig("small_cnn", 48, "none"), BackboneConfig("mobilenet", 32, "none")]
    built = classifier.build(branches, 2, pooling="avg", head="", output="auto")
    assert built.image_size == 48
    images = np.random.default_rng(0).uniform(0, 255, (2, 48, 48, 3)).astype(np.float32)
    assert built.features(images).shape == (2, 64 + 1024)
    # The second branch alone, fed the resized image, gives the second part of the features.
    small = tf_keras.applications.mobilenet.preprocess_input(tf.image.resize(images, [32, 32]))
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
        with pytest.raises(UserError, match=r"output=sigmoid. needs two classes"):
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
        tf_keras.utils.set_random_seed(1)
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

    def test_a_missing_file_is_explained(self, tmp_path):
        with pytest.raises(UserError, match=r"weights.: no file '.*nowhere\.h5' for small_cnn"):
            backbones.build(backbones.get("small_cnn"), 32, str(tmp_path / "nowhere.h5"))

    @pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
    def test_the_weights_of_a_whole_model_file_are_loaded(self, tmp_path):
        original = backbones.get("small_cnn").build(32)
        original.save(tmp_path / "whole.h5")
        loaded = backbones.build(backbones.get("small_cnn"), 32, str(tmp_path / "whole.h5"))
        np.testing.assert_array_equal(original.weights[-2], loaded.weights[-2])

    def test_the_small_cnn_has_no_imagenet_weights(self):
        with pytest.raises(
            UserError, match=r"small_cnn has no ImageNet weights: give .weights=none"
        ):
            backbones.build(backbones.get("small_cnn"), 32, "imagenet")

    def test_an_image_too_small_is_explained(self):
        with pytest.raises(UserError, match=r"image_size=16. is too small for xception"):
            backbones.build(backbones.get("xception"), 16, "none")


def refuse_weights(name, path, size=32):
    with pytest.raises(UserError) as refused:
        backbones.build(backbones.get(name), size, str(path))
    message = str(refused.value)
    start = f"`weights`: {path} does not fit {name} without its top: "
    assert message.startswith(start)
    assert "\n" not in message
    return message.removeprefix(start).removesuffix("; give the weights of that model")


def stack(*filters, top=()):
    """The convolutions of the small CNN, with other numbers of filters, and dense layers."""
    layers = tf_keras.layers
    x = image = layers.Input([32, 32, 3])
    for index, number in enumerate(filters, start=1):
        x = layers.MaxPooling2D()(layers.Conv2D(number, 3, name=f"conv{index}")(x))
    for name, units in top:
        x = layers.Dense(units, name=name)(x)
    return tf_keras.Model(image, x)


class TestWeightsOfAnotherModel:
    @pytest.mark.parametrize(
        ("other", "reason"),
        [
            (
                stack(32, 16, 64),
                "it has 'conv2' (weights (3, 3, 32, 16), (16,)) where small_cnn has"
                " 'conv2' (weights (3, 3, 32, 32), (32,))",
            ),
            (
                stack(32, 32, 64, top=[("fc", 9), ("predictions", 2)]),
                "it has 'fc' (weights (64, 9), (9,)) after the last layer of small_cnn",
            ),
            (
                stack(32, 32),
                "it ends where small_cnn has 'conv3' (weights (3, 3, 32, 64), (64,))",
            ),
        ],
    )
    @pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
    @pytest.mark.parametrize("whole", [True, False])
    def test_the_first_layer_that_differs_is_named(self, tmp_path, other, reason, whole):
        (other.save if whole else other.save_weights)(tmp_path / "other.h5")
        assert refuse_weights("small_cnn", tmp_path / "other.h5") == reason

    def test_also_where_keras_split_the_list_of_layers(self, tmp_path):
        stack(32, 32).save_weights(tmp_path / "long.h5")
        with h5py.File(tmp_path / "long.h5", "r+") as file:
            names = list(file.attrs.pop("layer_names"))
            file.attrs["layer_names0"], file.attrs["layer_names1"] = names[:2], names[2:]
        assert "it ends where small_cnn has 'conv3'" in refuse_weights(
            "small_cnn", tmp_path / "long.h5"
        )

    def test_the_same_model_of_another_width(self, tmp_path):
        half = tf_keras.applications.MobileNet(
            alpha=0.5, weights=None, include_top=False, input_shape=(32, 32, 3)
        )
        half.save_weights(tmp_path / "half.h5")
        assert refuse_weights("mobilenet", tmp_path / "half.h5") == (
            "it has 'conv1' (weights (3, 3, 3, 16)) where mobilenet has 'conv1' (weights"
            " (3, 3, 3, 32))"
        )

    def test_the_real_mobilenet_weights(self, shared):
        """MobileNetV2's first layers are MobileNet's but for the width of the second's output."""
        path = shared / "weights" / "mobilenet_1_0_224_tf_no_top.h5"
        assert refuse_weights("mobilenetv2", path) == (
            "it has 'conv_pw_1' (weights (1, 1, 32, 64)) where mobilenetv2 has"
            " 'expanded_conv_project' (weights (1, 1, 32, 16))"
        )


class TestFilesOfAnotherKind:
    def test_text(self, tmp_path):
        (tmp_path / "text.h5").write_text("not HDF5")
        assert refuse_weights("small_cnn", tmp_path / "text.h5") == "it is not an HDF5 file"

    @pytest.mark.parametrize("name", ["model.keras", "renamed.h5"])
    def test_a_model_file(self, tmp_path, name):
        stack(3).save(tmp_path / "model.keras")
        (tmp_path / "model.keras").rename(tmp_path / name)
        assert "it is a whole model" in refuse_weights("small_cnn", tmp_path / name)

    @pytest.mark.parametrize("name", ["new.weights.h5", "renamed.h5"])
    def test_the_newer_layout(self, tmp_path, name):
        stack(3).save_weights(tmp_path / "new.weights.h5")
        (tmp_path / "new.weights.h5").rename(tmp_path / name)
        assert "it has no list of layers" in refuse_weights("small_cnn", tmp_path / name)

    def test_the_older_layout_by_the_newer_name(self, tmp_path):
        backbones.get("small_cnn").build(32).save_weights(tmp_path / "old.h5")
        (tmp_path / "old.h5").rename(tmp_path / "old.weights.h5")
        assert "rename it" in refuse_weights("small_cnn", tmp_path / "old.weights.h5")

    def test_half_a_file(self, tmp_path):
        backbones.get("small_cnn").build(32).save_weights(tmp_path / "half.h5")
        data = (tmp_path / "half.h5").read_bytes()
        (tmp_path / "half.h5").write_bytes(data[: len(data) // 2])
        assert "truncated" in refuse_weights("small_cnn", tmp_path / "half.h5")


@pytest.fixture
def network(monkeypatch, tmp_path):
    """Answers all requests by `answer`, for a user without any files of Keras."""

    class Network(urllib.request.HTTPSHandler):
        asked: ClassVar[list[str]] = []

        def https_open(self, request):
            self.asked.append(request.full_url)
            return self.answer()

        def answer(self):
            raise urllib.error.URLError("no network")

    found = Network()
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".keras").mkdir()
    urllib.request.install_opener(urllib.request.build_opener(found))
    yield found
    urllib.request.install_opener(None)


def refuse_download(name):
    with pytest.raises(UserError) as refused:
        backbones.build(backbones.get(name), backbones.get(name).input_size, "imagenet")
    message = str(refused.value)
    assert "\n" not in message
    assert f"weights={name}=PATH" in message
    return message


def check_download(name, network, capsys):
    """Where the message says that the file belongs is where Keras itself looks for it."""
    message = refuse_download(name)
    url, path = re.search(r"\(no network\): put (\S+) at (\S+), or", message).groups()
    assert network.asked[-1] == url
    pathlib.Path(path).write_text("half a file")
    capsys.readouterr()
    again = refuse_download(name)
    noticed = "A local file was found, but it seems" in capsys.readouterr().out
    assert noticed or f"weights of {name} arrived damaged" in again


@pytest.mark.parametrize("name", ["mobilenetv2", "vgg16"])
def test_a_failed_download_says_where_to_put_the_file(name, network, capsys):
    check_download(name, network, capsys)


@pytest.mark.large
@pytest.mark.parametrize("name", [n for n in backbones.backbones if backbones.get(n).imagenet])
def test_every_failed_download_says_where_to_put_the_file(name, network, capsys):
    tf_keras.backend.clear_session()
    check_download(name, network, capsys)


@pytest.mark.parametrize("name", ["mobilenet", "vgg16"])  # without and with a checksum
def test_a_damaged_download_is_told(name, network, monkeypatch):
    def answer():
        page = b"<html>Please log in</html>"
        headers = {"Content-Length": str(len(page))}
        response = urllib.response.addinfourl(io.BytesIO(page), headers, "", 200)
        response.msg = "OK"
        return response

    monkeypatch.setattr(network, "answer", answer)
    assert f"weights of {name} arrived damaged" in refuse_download(name)


def test_another_error_of_a_download_is_not_hidden(network, monkeypatch):
    def fail():
        raise RuntimeError("something else")

    monkeypatch.setattr(network, "answer", fail)
    with pytest.raises(RuntimeError, match="something else"):
        backbones.build(backbones.get("mobilenet"), 224, "imagenet")


IMAGES = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)


def register(monkeypatch, architecture):
    """Registers an architecture for one test."""
    known = {name: backbones.backbones[name] for name in backbones.backbones}
    known[architecture.name] = lambda: architecture
    monkeypatch.setattr(backbones, "backbones", known)


def refuse_name(text):
    with pytest.raises(UserError) as refused:
        backbones.build(backbones.get(text), 71, "none")
    assert "\n" not in str(refused.value)
    return str(refused.value)


class TestCuts:
    def test_vgg16_ends_at_its_fourth_block(self):
        cut = backbones.get("VGG16@block4_pool")
        assert (cut.name, cut.text) == ("vgg16-block4_pool", "vgg16@block4_pool")
        assert cut.input_size == 224
        built = backbones.build(cut, 224, "none")
        assert built.output_shape == (None, 14, 14, 512)
        # The published 14,714,688 less three convolutions of 512 x 512 x 3 x 3 and 512 biases.
        assert built.count_params() == 14_714_688 - 3 * (512 * 512 * 9 + 512)
        assert built.layers[-1].name == "block4_pool"
        assert built.name == cut.name

    def test_several_layers_in_their_order_with_the_weights_of_the_whole(self, tmp_path):
        whole = backbones.get("small_cnn").build(32)
        whole.save_weights(tmp_path / "whole.h5")
        cut = backbones.get("small_cnn@pool2+conv1")
        assert cut.name == "small_cnn-pool2-conv1"
        built = backbones.build(cut, 32, str(tmp_path / "whole.h5"))
        assert built.output_shape == [(None, 8, 8, 32), (None, 32, 32, 32)]
        assert len(built.weights) == 4
        for name, found in zip(["pool2", "conv1"], built(IMAGES), strict=True):
            expected = tf_keras.Model(whole.input, whole.get_layer(name).output)(IMAGES)
            np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(cut.normalise(IMAGES), IMAGES / 255)

    def test_imagenet_weights_are_cut_and_not_fetched_for_a_wrong_layer(self, monkeypatch):
        fetched = []

        def fetch(size):
            fetched.append(small.build(size))
            return fetched[-1]

        small = backbones.get("small_cnn")
        with_weights = dataclasses.replace(small, imagenet=fetch)
        register(monkeypatch, with_weights)
        with pytest.raises(UserError, match="no layer 'pool9'"):
            backbones.build(backbones.get("small_cnn@pool9"), 32, "imagenet")
        assert not fetched
        built = backbones.build(backbones.get("small_cnn@pool1"), 32, "imagenet")
        np.testing.assert_array_equal(built.weights[0], fetched[0].weights[0])

    def test_a_layer_that_is_not_there(self):
        message = refuse_name("vgg16@block4_pol")
        assert message.startswith("`backbones=vgg16@block4_pol`: the model has no layer")
        assert "did you mean 'block4_pool' or " in message
        assert message.endswith(", block5_conv2, block5_conv3, block5_pool")

    def test_a_name_that_keras_counts_is_not_one_to_end_at(self, monkeypatch):
        """The same merge may be add_1 in one model of a process, and add_2 in the next."""
        image = tf_keras.Input([32, 32, 3])
        x = tf_keras.layers.Conv2D(4, 1, name="first")(image)
        model = tf_keras.Model(image, tf_keras.layers.Add()([x, x]))
        mine = backbones.Architecture("mine", 32, lambda size: model, backbones.scale_to_unit)
        register(monkeypatch, mine)
        counted = model.layers[-1].name
        message = refuse_name(f"mine@{counted}")
        assert f"no layer {counted!r} to end at; its last layers are first" in message

    def test_a_small_image_is_explained_with_the_whole_name(self):
        with pytest.raises(UserError, match=r"image_size=16. is too small for xception"):
            backbones.build(backbones.get("xception@block2_pool"), 16, "none")

    @pytest.mark.parametrize("text", ["small_cnn@", "small_cnn@pool1+", "small_cnn@pool1+pool1"])
    def test_other_forms_are_refused(self, text):
        assert refuse_name(text).startswith(f"`backbones={text}`: ")
        assert "each once" in refuse_name(text)

    def test_an_unknown_backbone(self):
        assert "unknown backbone 'mobilnet'; did you mean 'mobilenet'?" in refuse_name(
            "mobilnet@conv1"
        )

    def test_a_name_with_slashes_is_one_of_layers(self):
        cut = backbones.get("densenet121@conv1/relu")
        assert (cut.name, cut.layers) == ("densenet121-conv1_relu", ("conv1/relu",))

    def test_two_cuts_of_one_backbone_make_a_classifier(self):
        built = build(["small_cnn", "small_cnn@pool2"], size=32)
        assert built.features(IMAGES).shape == (2, 64 + 32)


class TestFlagsOfBackbones:
    def branches(self, tiny_config, **flags):
        chosen = resolve.branches(tiny_config(**{"image_size": "32", **flags}))
        return [(branch["name"], branch["size"], branch["weights"]) for branch in chosen]

    def test_a_cut_one_has_two_names(self, tiny_config):
        for name in ("vgg16", "VGG16-block4_pool", "vgg16block4pool"):
            assert self.branches(
                tiny_config,
                backbones="small_cnn, VGG16@block4_pool",
                image_size=f"small_cnn=32,{name}=48",
                weights=f"{name}=imagenet,small_cnn=none",
            ) == [("small_cnn", 32, "none"), ("vgg16@block4_pool", 48, "imagenet")]

    def test_the_short_name_is_the_whole_ones_where_both_are_there(self, tiny_config):
        both = {"backbones": "vgg16@block4_pool,vgg16", "weights": "none"}
        sizes = "vgg16=32,vgg16-block4_pool=48"
        assert [b[1] for b in self.branches(tiny_config, image_size=sizes, **both)] == [48, 32]
        with pytest.raises(UserError, match="no value for vgg16-block4_pool"):
            self.branches(tiny_config, image_size="vgg16=32", **both)

    def test_an_ambiguous_name_is_refused(self, tiny_config):
        names = r"\(vgg16-block4_pool, vgg16-block5_pool\)"
        with pytest.raises(UserError, match=f"'vgg16=32' is not name=value .*{names}"):
            self.branches(
                tiny_config,
                backbones="vgg16@block4_pool,vgg16@block5_pool",
                image_size="vgg16=32,vgg16=48",
            )

    def test_each_may_be_named_once(self, tiny_config):
        with pytest.raises(UserError, match="each backbone once"):
            self.branches(tiny_config, backbones="vgg16@block4_pool,VGG16@block4_pool")
