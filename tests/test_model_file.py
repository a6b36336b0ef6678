"""Backbones from model files: cut where asked, safe to load, and kept with the run."""

import dataclasses
import pathlib
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tfpipe import train
from tfpipe.core.errors import UserError
from tfpipe.model import backbones, model_file
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


@pytest.mark.parametrize("layer", ["first", "second", "third"])
def test_cut_at_any_layer_with_the_weights_of_the_file(saved, layer):
    path, model = saved
    backbone = backbones.get(f"{path}@{layer}")
    assert (backbone.name, backbone.input_size) == (f"my_net-{layer}", 32)
    built = backbones.build(backbone, 32, "imagenet")  # --weights is for the other backbones
    expected = tf_keras.Model(model.input, model.get_layer(layer).output)(IMAGES)
    np.testing.assert_array_equal(built(backbone.normalise(IMAGES)), expected)
    assert len(built.weights) == 2 * (1 + ["first", "second", "third"].index(layer))


def test_a_model_of_any_size_takes_the_size_given(tmp_path):
    model = make_model(side=None)
    model.save(tmp_path / "any.keras")
    backbone = backbones.get(f"{tmp_path}/any.keras@second")
    assert backbone.input_size == 0
    built = backbones.build(backbone, 32, "none")
    assert built.output_shape == (None, 7, 7, 5)
    expected = tf_keras.Model(model.input, model.get_layer("second").output)(IMAGES)
    np.testing.assert_array_equal(built(IMAGES), expected)
    with pytest.raises(UserError, match=r"image_size=3. does not fit .*: give a larger one"):
        backbones.build(backbone, 3, "none")


def test_a_model_used_as_a_layer_can_be_the_cut(tmp_path, saved):
    inner = tf_keras.Sequential([layers.Conv2D(4, 3, input_shape=[15, 15, 3])], name="inner")
    image = layers.Input([32, 32, 3])
    outer = tf_keras.Model(image, inner(layers.Conv2D(3, 3, strides=2)(image)))
    outer.save(tmp_path / "outer.keras")
    backbone = backbones.get(f"{tmp_path}/outer.keras@inner")
    np.testing.assert_array_equal(backbone.build(32)(IMAGES), outer(IMAGES))


def refuse(text):
    with pytest.raises(UserError) as refused:
        backbones.get(str(text))
    message = str(refused.value)
    assert "\n" not in message
    assert message.startswith(f"`backbones={text}")
    return message


def test_a_layer_that_is_not_there_lists_near_names_and_the_last_ones(saved):
    message = refuse(f"{saved[0]}@secnd")
    assert "no layer 'secnd' to end at; did you mean 'second'" in message
    assert "its last layers are" in message
    assert message.endswith(", mean")


def test_a_cut_that_is_no_feature_map_is_refused(saved):
    assert "'mean' gives (None, 7), not a feature map" in refuse(f"{saved[0]}@mean")
    assert "'mean' gives (None, 7), not a feature map" in refuse(f"{saved[0]}@second+mean")


@pytest.mark.parametrize("side", [32, None])
def test_several_layers_are_several_feature_maps(tmp_path, side):
    model = make_model(side)
    model.save(tmp_path / "net.keras")
    backbone = backbones.get(f"{tmp_path}/net.keras@second+first")
    assert (backbone.name, backbone.short_name) == ("net-second-first", "net")
    assert backbone.text == f"{tmp_path}/net.keras@second+first"
    built = backbones.build(backbone, 32, "none")
    assert built.output_shape == [(None, 7, 7, 5), (None, 15, 15, 3)]
    for name, found in zip(["second", "first"], built(IMAGES), strict=True):
        expected = tf_keras.Model(model.input, model.get_layer(name).output)(IMAGES)
        np.testing.assert_array_equal(found, expected)
    assert len(built.weights) == 4
    assert "each once" in refuse(f"{tmp_path}/net.keras@first+first")


@pytest.mark.parametrize("text", ["a/model.keras", "model.keras@", "a/model.h5@x", ".keras@x"])
def test_other_forms_are_refused(text):
    assert "give PATH.keras@LAYER" in refuse(text)


def test_files_that_are_no_models_are_refused(tmp_path):
    assert "does not exist" in refuse(f"{tmp_path}/missing.keras@x")
    (tmp_path / "text.keras").write_text("not a zip archive")
    assert "is not a Keras model" in refuse(f"{tmp_path}/text.keras@x")
    with zipfile.ZipFile(tmp_path / "empty.keras", "w") as archive:
        archive.writestr("config.json", "{}")
    assert "cannot be loaded" in refuse(f"{tmp_path}/empty.keras@x")
    tf_keras.Sequential([layers.Dense(2, input_shape=[3])]).save(tmp_path / "vector.keras")
    assert "not square RGB images" in refuse(f"{tmp_path}/vector.keras@dense")


def test_a_file_of_keras_2_15_is_read(saved, tmp_path):
    """It names the package keras where tf_keras names itself."""
    path = forge(saved[0], tmp_path / "old.keras", lambda text: text.replace("tf_keras", "keras"))
    built = backbones.get(f"{path}@third").build(32)
    for one, other in zip(built.get_weights(), saved[1].get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_file_of_keras_3_is_refused(tmp_path):
    image = keras.Input([8, 8, 3])
    keras.Model(image, keras.layers.Conv2D(2, 3, name="end")(image)).save(tmp_path / "new.keras")
    message = refuse(f"{tmp_path}/new.keras@end")
    assert f"saved by Keras {keras.__version__}" in message
    assert "tf_keras" in message


def test_a_lambda_layer_is_refused(tmp_path):
    image = layers.Input([8, 8, 3])
    model = tf_keras.Model(image, layers.Lambda(lambda x: x, name="mine")(image))
    model.save(tmp_path / "code.keras")
    assert "refused: it uses a layer of the class Lambda" in refuse(f"{tmp_path}/code.keras@mine")


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
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
    message = refuse(f"{path}@third")
    assert "is refused" in message
    assert word in message


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

    def test_options_of_each_backbone(self, config):
        path = config.backbones.split(",")[1].split("@")[0]
        assert resolve.branches(config) == (
            {"name": "small_cnn", "size": 24, "weights": "none"},
            {"name": f"{path}@second", "size": 32, "weights": path},
        )

    def test_a_file_may_be_named_without_its_layer(self, config):
        config = dataclasses.replace(config, image_size="small_cnn=24,net=32")
        assert [branch["size"] for branch in resolve.branches(config)] == [24, 32]

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
        with pytest.raises(UserError, match=r"net\.keras@second. does not exist"):
            train.main(config)
        changed.save(path)
        with pytest.raises(
            UserError, match=r"net\.keras differs from the model file that .* began with"
        ):
            train.main(config)
        (pathlib.Path(config.run_dir) / "backbones" / "net.keras").unlink()
        with pytest.raises(UserError, match=r"run/backbones/net\.keras@second.? does not exist"):
            opened.restore()

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"image_size": "40"}, r"image_size=40.: .*net\.keras takes images of 32 x 32"),
            (
                {"weights": "small_cnn=none,net-second=none"},
                r"not name=value with the name of a backbone",
            ),
        ],
    )
    def test_options_that_do_not_fit(self, config, changes, message):

        with pytest.raises(UserError, match=message):
            train.main(dataclasses.replace(config, describe=True, **changes))

    def test_two_files_of_one_name_are_refused(self, tiny_config, tmp_path):
        for folder in ("a", "b"):
            (tmp_path / folder).mkdir()
            make_model().save(tmp_path / folder / "net.keras")
        text = f"{tmp_path}/a/net.keras@first,{tmp_path}/b/net.keras@second"
        with pytest.raises(UserError, match="two model files have one name"):
            resolve.branches(tiny_config(backbones=text))

    def test_a_size_is_needed_where_the_file_has_none(self, tiny_config, tmp_path):
        make_model(side=None).save(tmp_path / "any.keras")
        with pytest.raises(UserError, match=r"any\.keras takes images of any size: give a side"):
            resolve.branches(tiny_config(backbones=f"{tmp_path}/any.keras@first", image_size="0"))


def test_parse_takes_any_path():
    assert model_file.parse(" a@b/c d.keras@x/y@z ") == ("a@b/c d.keras", "x/y@z")
    assert model_file.parse("m.keras@l") == ("m.keras", "l")
