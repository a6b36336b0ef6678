"""Backbones from model files: cut where asked, safe to load, and kept with the run."""

import dataclasses
import pathlib
import re
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.refusals import refused
from tfpipe import train
from tfpipe.model import backbones
from tfpipe.model.classifier import as_list
from tfpipe.training import resolve, run_folder

layers = tf_keras.layers
IMAGES = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)


def make_model(side=32):
    """Three named convolutions, each of an odd number of filters, then a vector."""
    image = layers.Input([side, side, 3], name="image")
    x = layers.Rescaling(1 / 255, name="scale")(image)
    for name, filters in (("first", 3), ("second", 5), ("third", 7)):
        x = layers.Conv2D(filters, 3, strides=2, activation="relu", name=name)(x)
        x = x * 2.0 + 1.0
    return tf_keras.Model(image, layers.GlobalAveragePooling2D(name="mean")(x), name="mine")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "my net.keras"
    model = make_model()
    model.save(path)
    return path, model


def forge(good, path, change):
    """Copies a model file with its configuration's text changed."""
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(path, "w") as forged:
        for name in source.namelist():
            data = source.read(name)
            forged.writestr(name, change(data.decode()) if name == "config.json" else data)
    return path


@pytest.mark.parametrize("side", [32, None])
@pytest.mark.parametrize("names", [["first"], ["second"], ["third"], ["second", "first"]])
def test_cut_at_any_layers_with_the_weights_of_the_file(tmp_path, names, side):
    model, path = make_model(side), tmp_path / "my net.keras"
    model.save(path)
    backbone = backbones.get(f"{path}@{'+'.join(names)}")
    assert backbone.text == f"{path}@{'+'.join(names)}"
    assert (backbone.name, backbone.short_name) == ("-".join(["my_net", *names]), "my net")
    assert backbone.input_size == (side or 0)
    built = backbones.build(backbone, 32, "imagenet")  # --weights is for the other backbones
    assert len(built.weights) == 2 * (1 + ["first", "second", "third"].index(names[0]))
    for name, found in zip(names, as_list(built(backbone.normalise(IMAGES))), strict=True):
        expected = tf_keras.Model(model.input, model.get_layer(name).output)(IMAGES)
        np.testing.assert_array_equal(found, expected)
    if side is None:
        with refused(r"image_size=2. does not fit .*: give a larger one"):
            backbones.build(backbone, 2, "none")


def test_a_model_used_as_a_layer_can_be_the_cut(tmp_path, saved):
    inner = tf_keras.Sequential([layers.Conv2D(4, 3, input_shape=[15, 15, 3])], name="inner")
    image = layers.Input([32, 32, 3])
    outer = tf_keras.Model(image, inner(layers.Conv2D(3, 3, strides=2)(image)))
    outer.save(tmp_path / "outer.keras")
    backbone = backbones.get(f"{tmp_path}/outer.keras@inner")
    np.testing.assert_array_equal(backbone.build(32)(IMAGES), outer(IMAGES))


def refuse(text, *words):
    with refused(f"`backbones={re.escape(str(text))}") as error:
        backbones.get(str(text))
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ("secnd", ["no layer 'secnd' to end at; did you mean 'second'", "its last layers are"]),
        ("mean", ["'mean' gives (None, 7), not a feature map"]),
        ("second+mean", ["'mean' gives (None, 7), not a feature map"]),
        ("first+first", ["each once"]),
    ],
)
def test_a_cut_that_cannot_be_made_is_refused(saved, layers, words):
    refuse(f"{saved[0]}@{layers}", *words)


@pytest.mark.parametrize("text", ["a/model.keras", "model.keras@", "a/model.h5@x", ".keras@x"])
def test_other_forms_are_refused(text):
    refuse(text, "give PATH.keras@LAYER")


def test_files_that_are_no_models_are_refused(tmp_path):
    refuse(f"{tmp_path}/missing.keras@x", "does not exist")
    (tmp_path / "text.keras").write_text("not a zip archive")
    refuse(f"{tmp_path}/text.keras@x", "is not a Keras model")
    with zipfile.ZipFile(tmp_path / "empty.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    refuse(f"{tmp_path}/empty.keras@x", "cannot be loaded")
    tf_keras.Sequential([layers.Dense(2, input_shape=[3])]).save(tmp_path / "vector.keras")
    refuse(f"{tmp_path}/vector.keras@dense", "not square RGB images")


def test_a_file_of_keras_2_15_is_read(saved, tmp_path):
    """It names the package keras where tf_keras names itself."""
    path = forge(saved[0], tmp_path / "old.keras", lambda text: text.replace("tf_keras", "keras"))
    built = backbones.get(f"{path}@third").build(32)
    for one, other in zip(built.get_weights(), saved[1].get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_file_of_keras_3_is_refused(tmp_path):
    image = keras.Input([8, 8, 3])
    keras.Model(image, keras.layers.Conv2D(2, 3, name="end")(image)).save(tmp_path / "new.keras")
    refuse(f"{tmp_path}/new.keras@end", f"saved by Keras {keras.__version__}", "tf_keras")


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("Rescaling", "Lambda", "a layer of the class Lambda"),
        ("keras.layers", "foreign_module", "foreign_module"),
        ("__operators__.add", "io.write_file", "tf.io.write_file"),
        ("math.multiply", "py_function", "tf.py_function"),
        ("TFOpLambda", "TensorFlowOpLayer", "TensorFlowOpLayer"),
    ],
)
def test_no_code_of_a_file_runs(saved, tmp_path, monkeypatch, old, new, word):
    (tmp_path / "foreign_module.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(tmp_path)

    def change(text):
        assert old in text
        return text.replace(old, new)

    path = forge(saved[0], tmp_path / "forged.keras", change)
    monkeypatch.setattr(tf_keras.models, "load_model", lambda *_, **__: pytest.fail("loaded"))
    refuse(f"{path}@third", "is refused", word)


@pytest.mark.slow
def test_models_of_keras_applications_are_not_refused(tmp_path):
    """Their preprocessing and activations are operators in the graph."""
    model = tf_keras.applications.MobileNetV3Small(
        include_top=False, weights=None, input_shape=(64, 64, 3)
    )
    model.save(tmp_path / "app.keras")
    last = model.layers[-1].name
    built = backbones.get(f"{tmp_path}/app.keras@{last}").build(64)
    assert built.count_params() == model.count_params()


def test_the_real_squeezenet_is_cut(shared):
    path = shared / "weights" / "squeezenet_1_0_imagenet.keras"
    backbone = backbones.get(f"{path}@fire9_concat")
    assert backbone.input_size == 227
    built = backbone.build(227)
    whole = tf_keras.models.load_model(path, compile=False, safe_mode=True)
    images = tf.image.resize(IMAGES, [227, 227])
    expected = tf_keras.Model(whole.input, whole.get_layer("fire9_concat").output)(images)
    np.testing.assert_allclose(built(images), expected, rtol=1e-5, atol=1e-4)
    # 1,248,424 parameters less the 513,000 of the last convolution.
    assert built.count_params() == 735_424


class TestRun:
    @pytest.fixture
    def config(self, tiny_config, tmp_path):
        path = tmp_path / "net.keras"
        make_model().save(path)
        return tiny_config(
            backbones=f"small_cnn,{path}@second",
            weights="small_cnn=none",
            image_size="small_cnn=24,net-second=0",
            stages="head",
            pooling="avg",
            epochs=1,
            augment="",
        )

    @pytest.mark.parametrize("name", ["net-second", "net"])
    def test_options_of_each_backbone(self, config, name):
        path = config.backbones.split(",")[1].split("@")[0]
        config = dataclasses.replace(config, image_size=f"small_cnn=24,{name}=32")
        assert resolve.branches(config) == (
            {"name": "small_cnn", "size": 24, "weights": "none"},
            {"name": f"{path}@second", "size": 32, "weights": path},
        )

    @pytest.mark.slow
    def test_a_run_is_restored_without_the_file_but_resumed_with_it(self, config):
        path = pathlib.Path(config.backbones.split(",")[1].split("@")[0])
        train.main(config)
        opened = run_folder.load(config.run_dir)
        original = tf_keras.models.load_model(path)
        changed = make_model()
        path.unlink()

        restored = opened.restore().classifier
        feature_map = tf_keras.Model(original.input, original.get_layer("second").output)(IMAGES)
        np.testing.assert_allclose(
            restored.features(IMAGES)[:, 64:], tf.reduce_mean(feature_map, [1, 2]), rtol=1e-5
        )
        with refused(r"net\.keras@second. does not exist"):
            train.main(config)
        changed.save(path)
        with refused(r"net\.keras differs from the model file that .* began with"):
            train.main(config)
        (pathlib.Path(config.run_dir) / "backbones" / "net.keras").unlink()
        with refused(r"run/backbones/net\.keras@second.? does not exist"):
            opened.restore()

    def test_options_that_do_not_fit(self, config, tiny_config, tmp_path):
        with refused(r"image_size=40.: .*net\.keras takes images of 32 x 32"):
            train.main(dataclasses.replace(config, describe=True, image_size="40"))
        with refused("not name=value with the name of a backbone"):
            resolve.branches(dataclasses.replace(config, weights="small_cnn=none,net-second=none"))
        (tmp_path / "other").mkdir()
        make_model(side=None).save(tmp_path / "other" / "net.keras")
        other = f"{tmp_path}/other/net.keras@first"
        with refused("two model files have one name"):
            resolve.branches(tiny_config(backbones=f"{tmp_path}/net.keras@second,{other}"))
        with refused(r"net\.keras takes images of any size: give a side"):
            resolve.branches(tiny_config(backbones=other, image_size="0"))
