import io
import os
import pathlib
import shutil
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from serving import protocol, tensors
from serving.config import Batching
from serving.errors import RequestError
from serving.servable import Servable
from serving.versions import version_folders


class Brightness(tf.Module):
    """Calls an image a day or a night by its mean brightness."""

    def __init__(self, bias):
        super().__init__()
        self.bias = tf.Variable(bias)
        self.names = tf.constant(["night", "day"])

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def classify(self, image_bytes):
        def mean(data):
            image = tf.io.decode_image(data, channels=3, expand_animations=False)
            return tf.reduce_mean(tf.cast(image, tf.float32)) / 255.0

        means = tf.map_fn(mean, image_bytes, fn_output_signature=tf.float32)
        day = tf.sigmoid(4.0 * (means - 0.5) + self.bias)
        probabilities = tf.stack([1.0 - day, day], axis=1)
        index = tf.argmax(probabilities, axis=1)
        return {
            "probabilities": probabilities,
            "class_index": index,
            "class_name": tf.gather(self.names, index),
            "probability": day,
        }

    def by_example(self, serialized):
        features = {"image/encoded": tf.io.FixedLenFeature([], tf.string, "")}
        return self.classify(tf.io.parse_example(serialized, features)["image/encoded"])

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def by_class(self, inputs):
        scores = self.by_example(inputs)["probabilities"]
        return {"classes": tf.broadcast_to(self.names, tf.shape(scores)), "scores": scores}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def by_value(self, inputs):
        return {"outputs": self.by_example(inputs)["probability"]}

    @tf.function(
        input_signature=[tf.TensorSpec([None], name="a"), tf.TensorSpec([None], tf.int32, "b")]
    )
    def add(self, a, b):
        return {"sum": a + tf.cast(b, tf.float32), "half": tf.cast(a, tf.float16) / 2}

    @tf.function(input_signature=[tf.TensorSpec([], tf.int32, "steps")])
    def slow(self, steps):
        matrix = tf.eye(512)
        for _ in tf.range(steps):
            matrix = tf.matmul(matrix, matrix)
        return {"trace": tf.linalg.trace(matrix)}


def publish(
    base, version, bias=0.0, signatures=("classify", "add", "slow", "by_class", "by_value")
):
    """Saves a model and gives it the name of a version in one step, as an export does."""
    module = Brightness(bias)
    names = {"classify": protocol.DEFAULT_SIGNATURE}
    work = base.with_name(f"{base.name}-work")
    tf.saved_model.save(
        module,
        str(work),
        signatures={names.get(key, key): getattr(module, key) for key in signatures},
    )
    base.mkdir(parents=True, exist_ok=True)
    work.rename(base / str(version))


def png(grey, size=(5, 4)):
    file = io.BytesIO()
    Image.new("RGB", size, (grey, grey, grey)).save(file, "PNG")
    return file.getvalue()


def day_probability(data, bias=0.0):
    """What the model says, by Pillow and NumPy."""
    mean = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.float64).mean() / 255
    return 1 / (1 + np.exp(-(4 * (mean - 0.5) + bias)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The base path of a model with version 1; copy it to change it."""
    base = tmp_path_factory.mktemp("trained") / "demo"
    publish(base, 1)
    return base


@pytest.fixture
def version(trained, tmp_path):
    return shutil.copytree(trained / "1", tmp_path / "1")


JOINED = {"alone": None, "in batches": Batching()}


@pytest.mark.parametrize("joined", JOINED.values(), ids=JOINED)
def test_arrays_and_messages_are_both_taken(trained, joined):
    servable = Servable(trained / "1", 1, joined)
    images = [png(30), png(220)]
    expected = [day_probability(image) for image in images]
    for value in (tensors.to_proto(images), np.array(images, object)):
        answer = servable.run("", {"image_bytes": value}, ["probability", "class_name"])
        assert list(answer) == ["probability", "class_name"]
        assert answer["class_name"].tolist() == [b"night", b"day"]
        np.testing.assert_allclose(answer["probability"], expected, atol=1e-6)


@pytest.mark.parametrize("joined", JOINED.values(), ids=JOINED)
def test_an_empty_batch_has_an_empty_answer(trained, joined):
    answer = Servable(trained / "1", 1, joined).run("", {"image_bytes": np.array([], object)})
    assert answer["probabilities"].shape == (0, 2)


def test_default_inputs_need_not_be_sent(version):
    file = version / "saved_model.pb"
    saved = SavedModel.FromString(file.read_bytes())
    signature = saved.meta_graphs[0].signature_def["add"]
    signature.defaults["b"].CopyFrom(tensors.to_proto(np.array([5], np.int32)))
    file.write_bytes(saved.SerializeToString())
    servable, one = Servable(version, 1), np.ones(1, np.float32)
    assert servable.run("add", {"a": one})["sum"] == [6]
    assert servable.run("add", {"a": one, "b": np.array([2], np.int32)})["sum"] == [3]
    with pytest.raises(
        RequestError, match=r"Inputs contains invalid name. Used request inputs: a,"
    ):
        servable.run("add", {"a": one, "c": one})
    with pytest.raises(RequestError, match=r"Signature input alias: a\(feed name: add_a:0\)"):
        servable.run("add", {"b": one})


def test_damage_is_told_in_one_line(version):
    (data,) = (version / "variables").glob("variables.data*")
    os.truncate(data, 1)
    with pytest.raises(RequestError) as caught:
        Servable(version, 1)
    assert caught.value.message.startswith(f"cannot load {version}: ")
    assert caught.value.message.isprintable()


def test_a_file_that_is_not_there_is_not_called_damaged(version):
    (version / "saved_model.pb").unlink()
    with pytest.raises(RequestError, match="SavedModel file does not exist") as caught:
        Servable(version, 1)
    assert caught.value.message.isprintable()


def test_a_model_without_signatures_answers_to_none(tmp_path):
    tf.saved_model.save(tf.Module(), str(tmp_path))
    with pytest.raises(RequestError, match='Serving signature key "serving_default" not found'):
        Servable(tmp_path, 1).run("", {})


def test_only_numbers_name_versions(tmp_path):
    for name in ("1", "08", "8", "12", "-3", "tmp-8", "8.partial", "\u0663", "1e3", "9" * 20):
        (tmp_path / name).mkdir()
    (tmp_path / "13").write_text("a file")
    (tmp_path / "14").symlink_to(tmp_path / "14")
    (tmp_path / "15").symlink_to(tmp_path / "12")
    expected = {number: tmp_path / str(number) for number in (1, 8, 12, 15)}
    assert version_folders(tmp_path) == expected
    assert version_folders(tmp_path / "none") == {}


if __name__ == "__main__":  # for a server elsewhere: `make conformance`
    publish(pathlib.Path(sys.argv[1]), 7)
