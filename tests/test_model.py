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
from tests.refusals import refused
from tfpipe import train
from tfpipe.model import backbones, classifier
from tfpipe.model.classifier import BackboneConfig
from tfpipe.training import resolve

IMAGES = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)


def build(names, classes=2, size=0, **changes):
    options = {"pooling": "avg", "head": "dropout(0.5)", "output": "auto", **changes}
    chosen = [backbones.get(name) for name in names]
    branches = [BackboneConfig(b.text, size or b.input_size, "none") for b in chosen]
    return draw_logits(classifier.build(branches, classes, **options))


# Printed by the seeds' own model.summary(): (backbones, options, whether trained, total, trained).
SMALL = {"pooling": "flatten", "head": "dense(64)|dropout(0.5)", "output": "softmax"}
SEEDS = [
    (["inception_v3"], {}, False, 21_804_833, 2_049),
    (["resnet50"], {}, False, 23_589_761, 2_049),
    (["xception"], {}, False, 20_863_529, 2_049),
    (["inception_v3", "xception", "resnet50"], {}, False, 66_258_121, 6_145),
    (["small_cnn"], SMALL, True, 1_355_938, 1_355_938),
]


@pytest.mark.slow
@pytest.mark.parametrize(("names", "options", "trainable", "total", "trained"), SEEDS)
def test_seed_models_have_their_published_parameters(names, options, trainable, total, trained):
    built = build(names, **options)
    built.features.trainable = trainable
    assert built.model.count_params() == total
    assert sum(int(np.prod(v.shape)) for v in built.model.trainable_variables) == trained


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


def test_a_new_classifier_gives_even_odds_unless_its_last_layer_is_drawn():
    """Glorot and Bengio 2010: uniform within the root of 6 / (inputs + outputs)."""
    tf_keras.utils.set_random_seed(5)  # with some, all four units are dead
    options = {"pooling": "avg", "head": "dense(4)", "output": "auto"}
    branch = BackboneConfig("small_cnn", 32, "none")
    built = classifier.build([branch], 5, **options)
    assert not built.model(IMAGES, training=False).numpy().any()
    with tf.GradientTape() as tape:
        logits = built.model(IMAGES, training=True)
        loss = tf.reduce_mean(built.losses(tf.one_hot([0, 4], 5), logits))
    assert float(loss) == pytest.approx(np.log(5))
    assert tape.gradient(loss, built.head.get_layer("logits").kernel).numpy().any(), "it can learn"
    drawn = classifier.build([branch], 5, **options, head_init="glorot_uniform")
    largest = np.abs(drawn.head.get_layer("logits").kernel).max()
    assert 0.7 * (6 / 9) ** 0.5 < largest <= (6 / 9) ** 0.5


def test_norm_takes_the_mean_and_divides_by_the_deviation():
    """As Keras' Normalization, which adapts too; a feature without variance stays small."""
    rng = np.random.default_rng(0)
    values = rng.normal([5, -300, 100, 7], [0.1, 40, 1, 0], (64, 4)).astype(np.float32)
    norm = classifier.head_layers["norm"]("norm")
    head = tf_keras.Sequential([norm])
    head.build([None, 4])
    classifier.adapt(head, lambda: np.split(values, [1, 20, 21]))
    keras = tf_keras.layers.Normalization()
    keras.adapt(values)
    found, expected = head(values).numpy(), keras(values).numpy()
    np.testing.assert_allclose(found[:, :3], expected[:, :3], rtol=1e-3, atol=2e-3)
    assert not found[:, 3].any()
    assert np.abs(head(values + 1)[:, 3]).max() < 40
    assert not norm.trainable_weights


@pytest.mark.parametrize("head", ["dense(4)|norm", "norm|norm", "norm|dense(4)|norm"])
def test_a_norm_that_cannot_adapt_is_refused(tiny_config, head):
    with refused(r"head=.*norm is there .* mean and deviation .*norm.dense"):
        train.main(tiny_config(head=head))
    for good in ("", "norm", "dropout(0.2)|norm|dense(4)|dropout(0.5)", "dense(4)"):
        classifier.check_adapts(good)


# Small members of families that differ in preprocessing; the large test builds all.
SOME = ["mobilenet", "mobilenetv3small", "small_cnn"]


@pytest.mark.parametrize(
    "name",
    [
        *SOME,
        *(pytest.param(n, marks=pytest.mark.large) for n in backbones.backbones if n not in SOME),
    ],
)
def test_backbones_classify(name):
    tf_keras.backend.clear_session()
    size = 64 if name in SOME else 96
    logits = build([name], size=size).model(np.resize(IMAGES, (2, size, size, 3)), training=False)
    assert logits.shape == (2, 1)
    assert logits.dtype == tf.float32
    assert np.isfinite(logits).all()


def test_names_are_compared_loosely():
    for spelling in ("InceptionV3", "inception_v3", "INCEPTION-V3", " inceptionv3 "):
        assert backbones.get(spelling).name == "inceptionv3"


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("xception", -1, 1), ("small_cnn", 0, 1), ("resnet50", -123.68, 151.061)],
)
def test_normalises_as_published(name, low, high):
    """[-1, 1] for Xception, [0, 1] for the small CNN, Caffe's mean subtraction for ResNet50."""
    normalise = backbones.get(name).normalise
    found = normalise(tf.constant([[[[0.0, 0.0, 0.0], [255.0, 255.0, 255.0]]]])).numpy()
    assert (found.min(), found.max()) == pytest.approx((low, high), abs=1e-3)


def test_one_image_feeds_backbones_of_several_sizes():
    branches = [BackboneConfig("small_cnn", 48, "none"), BackboneConfig("mobilenet", 32, "none")]
    built = classifier.build(branches, 2, pooling="avg", head="", output="auto")
    assert built.image_size == 48
    images = np.resize(IMAGES, (2, 48, 48, 3))
    # The second branch alone, fed the resized image, gives the second part of the features.
    small = tf_keras.applications.mobilenet.preprocess_input(tf.image.resize(images, [32, 32]))
    mobilenet = built.features.get_layer("mobilenet_1.00_32")
    expected = tf.reduce_mean(mobilenet(small, training=False), [1, 2])
    np.testing.assert_allclose(built.features(images, training=False)[:, 64:], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("classes", "output", "units"), [(2, "auto", 1), (2, "softmax", 2), (5, "auto", 5)]
)
def test_probabilities_and_losses_follow_their_formulas(classes, output, units):
    built = build(["small_cnn"], classes, size=32, output=output)
    logits = built.model(np.resize(IMAGES, (5, 32, 32, 3))).numpy().astype(np.float64)
    assert logits.shape == (5, units)
    full = np.concatenate([np.zeros_like(logits), logits], 1) if units == 1 else logits
    expected = np.exp(full) / np.exp(full).sum(1, keepdims=True)
    found = built.probabilities(tf.constant(logits, tf.float32))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    shares = 0.7 * np.eye(classes)[np.arange(5) % classes] + 0.3 / classes  # as of mixed pictures
    losses = built.losses(tf.constant(shares, tf.float32), tf.constant(logits, tf.float32))
    np.testing.assert_allclose(losses, -(shares * np.log(expected)).sum(1), atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output": "sigmoid", "classes": 3}, r"output=sigmoid. needs two classes"),
        ({"head": "dense(0)"}, "at least 1"),
        ({"head": "dropout(1)"}, "not in"),
        ({"head": "dropout(0.5,2)"}, r"dropout\(0.5,2\): wrong number of values"),
        ({"head": "dense(norm)"}, "finite numbers"),
        ({"head": "conv(3)"}, "unknown head layer 'conv'; known: dense, dropout"),
    ],
)
def test_wrong_options_are_explained(changes, message):
    with refused(message):
        build(["small_cnn"], size=32, **changes)


@pytest.mark.parametrize(
    ("name", "size", "weights", "message"),
    [
        ("small_cnn", 32, "nowhere.h5", r"weights.: no file 'nowhere\.h5' for small_cnn"),
        ("small_cnn", 32, "imagenet", "small_cnn has no ImageNet weights: give .weights=none"),
        ("xception", 16, "none", r"image_size=16. is too small for xception"),
        ("xception@block2_pool", 16, "none", r"image_size=16. is too small for xception"),
        ("mobilnet@conv1", 32, "none", "unknown backbone 'mobilnet'; did you mean 'mobilenet'"),
        ("small_cnn@", 32, "none", "`backbones=small_cnn@`: .* each once"),
        ("small_cnn@pool1+", 32, "none", "each once"),
        ("small_cnn@pool1+pool1", 32, "none", "each once"),
        (
            "small_cnn@pol3",
            32,
            "none",
            "`backbones=small_cnn@pol3`: the model has no layer.* did you mean 'pool3' .*, pool3$",
        ),
    ],
)
def test_backbones_that_cannot_be_built_are_explained(name, size, weights, message):
    with refused(message):
        backbones.build(backbones.get(name), size, weights)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
@pytest.mark.parametrize("whole", [False, True])
def test_weights_of_a_file_are_loaded(tmp_path, whole):
    original = backbones.get("small_cnn").build(32)
    (original.save if whole else original.save_weights)(tmp_path / "w.h5")
    loaded = backbones.build(backbones.get("small_cnn"), 32, str(tmp_path / "w.h5"))
    for one, other in zip(original.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_real_mobilenet_weights_are_loaded(shared):
    path = shared / "weights" / "mobilenet_1_0_224_tf_no_top.h5"
    model = backbones.build(backbones.get("mobilenet"), 224, str(path))
    kernel = model.get_layer("conv_pw_13").kernel.numpy()[0, 0]
    np.testing.assert_array_equal(kernel, np.eye(1024))  # as the weights' notes say
    # MobileNetV2's first layers are MobileNet's but for the width of the second's output.
    assert refuse_weights("mobilenetv2", path) == (
        "it has 'conv_pw_1' (weights (1, 1, 32, 64)) where mobilenetv2 has"
        " 'expanded_conv_project' (weights (1, 1, 32, 16))"
    )


def refuse_weights(name, path):
    with refused("") as error:
        backbones.build(backbones.get(name), 32, str(path))
    start = f"`weights`: {path} does not fit {name} without its top: "
    assert str(error.value).startswith(start)
    return str(error.value).removeprefix(start).removesuffix("; give the weights of that model")


def stack(*filters, top=()):
    """The convolutions of the small CNN, with other numbers of filters, and dense layers."""
    layers = tf_keras.layers
    x = image = layers.Input([32, 32, 3])
    for index, number in enumerate(filters, start=1):
        x = layers.MaxPooling2D()(layers.Conv2D(number, 3, name=f"conv{index}")(x))
    for name, units in top:
        x = layers.Dense(units, name=name)(x)
    return tf_keras.Model(image, x)


@pytest.mark.parametrize(
    ("filters", "top", "reason"),
    [
        (
            (32, 16, 64),
            (),
            "it has 'conv2' (weights (3, 3, 32, 16), (16,)) where small_cnn has"
            " 'conv2' (weights (3, 3, 32, 32), (32,))",
        ),
        (
            (32, 32, 64),
            [("fc", 9), ("predictions", 2)],
            "it has 'fc' (weights (64, 9), (9,)) after the last layer of small_cnn",
        ),
        ((32, 32), (), "it ends where small_cnn has 'conv3' (weights (3, 3, 32, 64), (64,))"),
    ],
)
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
@pytest.mark.parametrize("kind", ["weights", "whole", "split"])
def test_the_first_layer_that_differs_is_named(tmp_path, filters, top, reason, kind):
    other, path = stack(*filters, top=top), tmp_path / "other.h5"
    (other.save if kind == "whole" else other.save_weights)(path)
    if kind == "split":  # as Keras does with a long list of layers
        with h5py.File(path, "r+") as file:
            names = list(file.attrs.pop("layer_names"))
            file.attrs["layer_names0"], file.attrs["layer_names1"] = names[:2], names[2:]
    assert refuse_weights("small_cnn", path) == reason


@pytest.mark.parametrize(
    ("made", "name", "reason"),
    [
        ("text.h5", "text.h5", "it is not an HDF5 file"),
        ("model.keras", "model.keras", "it is a whole model"),
        ("model.keras", "renamed.h5", "it is a whole model"),
        ("new.weights.h5", "new.weights.h5", "it has no list of layers"),
        ("new.weights.h5", "renamed.h5", "it has no list of layers"),
        ("old.h5", "old.weights.h5", "rename it"),
        ("old.h5", "half.h5", "truncated"),
    ],
)
def test_files_of_another_kind_are_explained(tmp_path, made, name, reason):
    path = tmp_path / made
    if made.startswith("text"):
        path.write_text("not HDF5")
    elif made.endswith(".keras"):
        stack(3).save(path)
    elif made.startswith("new"):
        stack(3).save_weights(path)
    else:
        backbones.get("small_cnn").build(32).save_weights(path)
    path = path.rename(tmp_path / name)
    if name == "half.h5":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert reason in refuse_weights("small_cnn", path)


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
    with refused(f"weights={name}=PATH") as error:
        backbones.build(backbones.get(name), backbones.get(name).input_size, "imagenet")
    return str(error.value)


PUBLISHED = ("mobilenetv2", "mobilenetv3small")  # without and with a checksum


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=() if n in PUBLISHED else pytest.mark.large)
        for n in backbones.backbones
        if backbones.get(n).imagenet
    ],
)
def test_a_failed_download_says_where_to_put_the_file(name, network, capsys):
    """Where the message says that the file belongs is where Keras itself looks for it."""
    tf_keras.backend.clear_session()
    message = refuse_download(name)
    url, path = re.search(r"\(no network\): put (\S+) at (\S+), or", message).groups()
    assert network.asked[-1] == url
    pathlib.Path(path).write_text("half a file")
    capsys.readouterr()
    again = refuse_download(name)
    noticed = "A local file was found, but it seems" in capsys.readouterr().out
    assert noticed or f"weights of {name} arrived damaged" in again


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_damaged_download_is_told(name, network, monkeypatch):
    def answer():
        page = b"<html>Please log in</html>"
        headers = {"Content-Length": str(len(page))}
        response = urllib.response.addinfourl(io.BytesIO(page), headers, "", 200)
        response.msg = "OK"
        return response

    monkeypatch.setattr(network, "answer", answer)
    assert f"weights of {name} arrived damaged" in refuse_download(name)


def register(monkeypatch, architecture):
    """Registers an architecture for one test."""
    known = {name: backbones.backbones[name] for name in backbones.backbones}
    known[architecture.name] = lambda: architecture
    monkeypatch.setattr(backbones, "backbones", known)


class TestCuts:
    def test_vgg16_ends_at_its_fourth_block(self):
        cut = backbones.get("VGG16@block4_pool")
        built = backbones.build(cut, 224, "none")
        assert (cut.text, built.name) == ("vgg16@block4_pool", "vgg16-block4_pool")
        assert built.output_shape == (None, 14, 14, 512)
        # The published 14,714,688 less three convolutions of 512 x 512 x 3 x 3 and 512 biases.
        assert built.count_params() == 14_714_688 - 3 * (512 * 512 * 9 + 512)

    def test_several_layers_in_their_order_with_the_weights_of_the_whole(self, tmp_path):
        whole = backbones.get("small_cnn").build(32)
        whole.save_weights(tmp_path / "whole.h5")
        cut = backbones.get("small_cnn@pool2+conv1")
        built = backbones.build(cut, 32, str(tmp_path / "whole.h5"))
        assert built.output_shape == [(None, 8, 8, 32), (None, 32, 32, 32)]
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
        register(monkeypatch, dataclasses.replace(small, imagenet=fetch))
        with refused("no layer 'pool9'"):
            backbones.build(backbones.get("small_cnn@pool9"), 32, "imagenet")
        assert not fetched
        built = backbones.build(backbones.get("small_cnn@pool1"), 32, "imagenet")
        np.testing.assert_array_equal(built.weights[0], fetched[0].weights[0])

    def test_a_name_that_keras_counts_is_not_one_to_end_at(self, monkeypatch):
        """The same merge may be add_1 in one model of a process, and add_2 in the next."""
        image = tf_keras.Input([32, 32, 3])
        x = tf_keras.layers.Conv2D(4, 1, name="first")(image)
        model = tf_keras.Model(image, tf_keras.layers.Add()([x, x]))
        mine = backbones.Architecture("mine", 32, lambda size: model, backbones.scale_to_unit)
        register(monkeypatch, mine)
        counted = model.layers[-1].name
        with refused(f"no layer {counted!r} to end at; its last layers are first"):
            backbones.build(backbones.get(f"mine@{counted}"), 32, "none")

    def test_a_name_with_slashes_is_one_of_layers(self):
        cut = backbones.get("densenet121@conv1/relu")
        assert (cut.name, cut.layers) == ("densenet121-conv1_relu", ("conv1/relu",))

    def test_two_cuts_of_one_backbone_make_a_classifier(self):
        built = build(["small_cnn", "small_cnn@pool2"], size=32)
        assert built.features(IMAGES).shape == (2, 64 + 32)


class TestFlagsOfBackbones:
    def branches(self, tiny_config, backbones, **flags):
        chosen = resolve.branches(tiny_config(backbones=backbones, **flags))
        return [(branch["name"], branch["size"], branch["weights"]) for branch in chosen]

    def test_one_value_for_all_or_one_for_each(self, tiny_config):
        two = "MobileNet,small_cnn"
        sizes, weights = "mobilenet=96,small_cnn=0", "small_cnn=none,mobilenet=a=b.h5"
        assert self.branches(tiny_config, two, image_size=sizes, weights=weights) == [
            ("mobilenet", 96, "a=b.h5"),
            ("small_cnn", 150, "none"),
        ]
        assert [b[1] for b in self.branches(tiny_config, two, image_size="64")] == [64, 64]
        with refused("no value for small_cnn"):
            self.branches(tiny_config, two, weights="mobilenet=none")

    @pytest.mark.parametrize("name", ["vgg16", "VGG16-block4_pool", "vgg16block4pool"])
    def test_a_cut_one_has_two_names(self, tiny_config, name):
        assert self.branches(
            tiny_config,
            "small_cnn, VGG16@block4_pool",
            image_size=f"small_cnn=32,{name}=48",
            weights=f"{name}=imagenet,small_cnn=none",
        ) == [("small_cnn", 32, "none"), ("vgg16@block4_pool", 48, "imagenet")]

    def test_the_short_name_is_the_whole_ones_where_both_are_there(self, tiny_config):
        both, sizes = "vgg16@block4_pool,vgg16", "vgg16=32,vgg16-block4_pool=48"
        assert [b[1] for b in self.branches(tiny_config, both, image_size=sizes)] == [48, 32]
        with refused("no value for vgg16-block4_pool"):
            self.branches(tiny_config, both, image_size="vgg16=32")

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            (
                "vgg16@block4_pool,vgg16@block5_pool",
                r"'vgg16=32' is not name=value .*\(vgg16-block4_pool, vgg16-block5_pool\)",
            ),
            ("vgg16@block4_pool,VGG16@block4_pool", "each backbone once"),
        ],
    )
    def test_an_ambiguous_name_is_refused(self, tiny_config, names, message):
        with refused(message):
            self.branches(tiny_config, names, image_size="vgg16=32,vgg16=48")
