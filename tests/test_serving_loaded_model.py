"""SavedModels of any origin are loaded, checked and run."""

import os
import re

import numpy as np
import pytest
import tensorflow as tf
from serving_demo import day_probability, png, publish
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from serving.batching import Batcher, BatchingParameters
from tfpipe.protocol import tensors
from tfpipe.protocol.errors import RequestError
from tfpipe.protocol.loaded_model import LoadedModel
from tfpipe.protocol.versions import version_folders


@pytest.fixture
def version(tmp_path):
    return publish(tmp_path / "demo", 1) / "1"


def alone(function):
    return function


def batched(function):
    return Batcher(function, BatchingParameters())


@pytest.mark.parametrize("wrap", [alone, batched])
def test_arrays_and_messages_are_both_taken(version, wrap):
    model = LoadedModel(version, 1, wrap)
    images = [png(30), png(220)]
    expected = [day_probability(image) for image in images]
    for value in (tensors.to_proto(images), np.array(images, object)):
        answer = model.run("", {"image_bytes": value}, ["probability", "class_name"])
        assert list(answer) == ["probability", "class_name"]
        assert answer["class_name"].tolist() == [b"night", b"day"]
        np.testing.assert_allclose(answer["probability"], expected, atol=1e-6)
    empty = model.run("", {"image_bytes": np.array([], object)})
    assert empty["probabilities"].shape == (0, 2)
    assert model.run("slow", {"steps": np.array(1, np.int32)})["trace"] == 512  # has no batch
    with pytest.raises(RequestError, match=r"image_bytes has shape \[1, 1\].* takes \[\?\]"):
        model.run("", {"image_bytes": np.array([images[:1]], object)})
    model.close()
    with pytest.raises(RequestError):
        model.run("", {"image_bytes": np.array(images, object)})


def test_an_empty_batch_is_answered_without_the_model(version):
    ran = []

    def noted(function):
        def run(inputs):
            ran.append(inputs)
            return function(inputs)

        return run

    model = LoadedModel(version, 1, noted)
    answer = model.run("", {"image_bytes": np.array([], object)})
    assert {alias: (array.shape, array.dtype) for alias, array in answer.items()} == {
        "probabilities": ((0, 2), np.float32),
        "probability": ((0,), np.float32),
        "class_index": ((0,), np.int64),
        "class_name": ((0,), object),
    }
    assert not ran


EXAMPLES = {
    "right": {"fixed": [1.0, 2.0], "default": [7], "free": [1, 2, 3], "sparse": [b"a", b"b"]},
    "only what is required": {"fixed": [1.0, 2.0]},
    "a missing key": {"default": [7]},
    "another type": {"fixed": [1, 2]},
    "too few values": {"fixed": [1.0]},
    "too many values": {"fixed": [1.0, 2.0, 3.0]},
    "no values": {"fixed": []},
    "another type of a sparse one": {"fixed": [1.0, 2.0], "sparse": [1]},
    "another type of a ragged one": {"fixed": [1.0, 2.0], "ragged": [b"a"]},
    "another type of a default": {"fixed": [1.0, 2.0], "default": [1.0]},
    "another number than the default's": {"fixed": [1.0, 2.0], "default": [1, 2]},
    "unknown keys": {"fixed": [1.0, 2.0], "more": [b"x"]},
}


@pytest.fixture(scope="module")
def parsing(tmp_path_factory):
    """A model that parses Examples in an inner function, and what it parses."""
    features = {
        "fixed": tf.io.FixedLenFeature([2], tf.float32),
        "default": tf.io.FixedLenFeature([], tf.int64, 3),
        "free": tf.io.FixedLenSequenceFeature([], tf.int64, allow_missing=True),
        "sparse": tf.io.VarLenFeature(tf.string),
        "ragged": tf.io.RaggedFeature(tf.float32),
    }
    inner = tf.function(lambda given: tf.io.parse_example(given, features)["fixed"])
    spec = tf.TensorSpec([None], tf.string, "examples")
    module = tf.Module()
    serve = tf.function(lambda given: {"y": inner(given)}, input_signature=[spec])
    folder = tmp_path_factory.mktemp("parsing")
    tf.saved_model.save(module, str(folder), signatures=serve)
    return LoadedModel(folder, 1), features


@pytest.mark.parametrize("given", EXAMPLES.values(), ids=EXAMPLES)
def test_an_example_is_refused_exactly_where_tensorflow_refuses_it(parsing, given):
    model, features = parsing
    lists = {float: "float_list", int: "int64_list", bytes: "bytes_list"}
    found = tf.train.Example()
    for key, values in given.items():
        if values:
            getattr(found.features.feature[key], lists[type(values[0])]).value.extend(values)
        else:
            found.features.feature[key].float_list.SetInParent()
    serialized = np.array([found.SerializeToString()], object)
    try:
        tf.io.parse_example(serialized, features)
    except tf.errors.InvalidArgumentError as error:
        key = re.search(r"(?:Key|Feature): (\w+)", str(error))[1]
        with pytest.raises(RequestError, match=rf"^Example 0: feature {key} "):
            model.run("", {"examples": serialized})
    else:
        assert model.run("", {"examples": serialized})["y"].tolist() == [[1, 2]]


@pytest.mark.parametrize("data", [b"\xff\xfejunk", png(9)])
def test_bytes_that_are_no_example_are_told(parsing, data):
    with pytest.raises(RequestError, match=r"input 0 is no serialized tf.Example .*fixed"):
        parsing[0].run("", {"examples": np.array([data], object)})


def test_default_inputs_need_not_be_sent(version):
    file = version / "saved_model.pb"
    saved = SavedModel.FromString(file.read_bytes())
    signature = saved.meta_graphs[0].signature_def["add"]
    signature.defaults["b"].CopyFrom(tensors.to_proto(np.array([5], np.int32)))
    file.write_bytes(saved.SerializeToString())
    model, one = LoadedModel(version, 1), np.ones(1, np.float32)
    assert model.run("add", {"a": one})["sum"] == [6]
    assert model.run("add", {"a": one, "b": np.array([2], np.int32)})["sum"] == [3]
    with pytest.raises(
        RequestError, match=r"Inputs contains invalid name. Used request inputs: a,"
    ):
        model.run("add", {"a": one, "c": one})
    with pytest.raises(RequestError, match=r"Signature input alias: a\(feed name: add_a:0\)"):
        model.run("add", {"b": one})


def test_damage_is_one_line(version):
    (data,) = (version / "variables").glob("variables.data*")
    os.truncate(data, 1)
    for message in ("cannot load", "SavedModel file does not exist"):
        with pytest.raises(RequestError, match=message) as caught:
            LoadedModel(version, 1)
        assert caught.value.message.startswith(f"cannot load {version}: ")
        assert caught.value.message.isprintable()
        (version / "saved_model.pb").unlink(missing_ok=True)


def test_a_model_without_signatures_answers_to_none(tmp_path):
    tf.saved_model.save(tf.Module(), str(tmp_path))
    with pytest.raises(RequestError, match='Serving signature key "serving_default" not found'):
        LoadedModel(tmp_path, 1).run("", {})


def test_a_model_of_tensorflow_1_with_a_table(tmp_path):
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        words = v1.placeholder(tf.string, [None])
        scale = v1.get_variable("scale", initializer=3.0)
        keys, values = tf.constant(["a", "b"]), tf.constant([1, 2], tf.int64)
        table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), -1)
        found = tf.cast(table.lookup(words), tf.float32) * scale
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        v1.saved_model.simple_save(
            session, str(tmp_path / "1"), {"words/in": words}, {"y": found},
            legacy_init_op=v1.tables_initializer(),
        )  # fmt: skip
    for wrap in (alone, batched):
        model = LoadedModel(tmp_path / "1", 1, wrap)
        answer = model.run("", {"words/in": np.array([b"b", b"x", b"a"], object)})
        assert answer["y"].tolist() == [6, -3, 3]


def test_a_text_file_and_unusual_types(tmp_path):
    class Unusual(tf.Module):
        @tf.function(
            input_signature=[
                tf.TensorSpec(None, tf.bfloat16, "half"),
                tf.TensorSpec([2, None], tf.complex64, "complex"),
            ]
        )
        def serve(self, half, complex):
            return {"rank": tf.rank(half), "twice": half * 2, "real": tf.math.real(complex)}

    module = Unusual()
    tf.saved_model.save(module, str(tmp_path), signatures=module.serve)
    binary = tmp_path / "saved_model.pb"
    text = str(SavedModel.FromString(binary.read_bytes()))
    (tmp_path / "saved_model.pbtxt").write_text(text)
    binary.unlink()
    model = LoadedModel(tmp_path, 1, batched)
    half = tf.make_tensor_proto(tf.constant([[1.5]], tf.bfloat16))
    answer = model.run("", {"half": half, "complex": np.full([2, 3], 1j + 4, np.complex64)})
    assert (answer["rank"], float(answer["twice"][0, 0])) == (2, 3)
    assert answer["real"].tolist() == [[4, 4, 4]] * 2
    with pytest.raises(RequestError, match=r"complex has shape \[3, 3\].* takes \[2, \?\]"):
        model.run("", {"half": half, "complex": np.zeros([3, 3], np.complex64)})


def test_only_numbers_name_versions(tmp_path):
    for name in ("1", "08", "8", "12", "-3", "tmp-8", "8.partial", "\u0663", "1e3", "9" * 20):
        (tmp_path / name).mkdir()
    (tmp_path / "13").write_text("a file")
    (tmp_path / "14").symlink_to(tmp_path / "14")
    (tmp_path / "15").symlink_to(tmp_path / "12")
    expected = {number: tmp_path / str(number) for number in (1, 8, 12, 15)}
    assert version_folders(tmp_path) == expected
    assert version_folders(tmp_path / "none") == {}


@pytest.fixture
def old(tmp_path):
    """A graph as TensorFlow 1.0 wrote it: a Placeholder of any shape looks like a scalar."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        examples, x = v1.placeholder(tf.string), v1.placeholder(tf.float32, [None, 1])
        parsed = tf.raw_ops.ParseExample(
            serialized=examples,
            names=tf.constant([], tf.string),
            sparse_keys=[],
            dense_keys=["x"],
            dense_defaults=[tf.constant([0.0])],
            sparse_types=[],
            dense_shapes=[[1]],
        ).dense_values[0]
        bias = v1.get_variable("bias", initializer=2.0)
        session.run(v1.global_variables_initializer())
        build = v1.saved_model.signature_def_utils.predict_signature_def
        builder = v1.saved_model.Builder(str(tmp_path / "1"))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            {
                "serving_default": build({"x": x}, {"y": x / 2 + bias}),
                "any": build({"x": x}, {"y": x / 2 + bias}),
                "examples": build({"inputs": examples}, {"outputs": parsed / 2 + bias}),
            },
        )
        builder.save()
    file = tmp_path / "1" / "saved_model.pb"
    saved = SavedModel.FromString(file.read_bytes())
    (graph,) = saved.meta_graphs
    graph.graph_def.versions.producer = 21
    for node in graph.graph_def.node:
        if node.op == "Placeholder" and node.attr["shape"].shape.unknown_rank:
            node.attr["shape"].shape.Clear()
    for info in graph.signature_def["any"].inputs.values():
        info.ClearField("tensor_shape")
    file.write_bytes(saved.SerializeToString())
    return LoadedModel(tmp_path / "1", 1)


def test_a_graph_of_tensorflow_1_0_is_loaded(old):
    serialized = tf.train.Example()
    serialized.features.feature["x"].float_list.value.append(2.0)
    answer = old.run("examples", {"inputs": np.array([serialized.SerializeToString()], object)})
    assert answer["outputs"].tolist() == [[3.0]]
    assert old.run("any", {"x": np.array([[2, 4]], np.float32)})["y"].tolist() == [[3.0, 4.0]]


def test_clients_of_tensorflow_1_may_leave_out_dimensions_of_size_1(old):
    """As TensorFlow Serving's own test does; the outputs then have none either."""
    assert old.run("", {"x": np.array([2, 3], np.float32)})["y"].tolist() == [3.0, 3.5]
    assert old.run("", {"x": np.array([[2], [3]], np.float32)})["y"].tolist() == [[3.0], [3.5]]
    for wrong in (np.ones((2, 2)), np.ones((1, 1, 1)), np.ones(())):
        with pytest.raises(RequestError) as caught:
            old.run("", {"x": wrong.astype(np.float32)})
        assert caught.value.code.name == "INVALID_ARGUMENT"
