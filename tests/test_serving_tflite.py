"""TFLite models are served by `--prefer_tflite_model`."""

import shutil

import grpc
import numpy as np
import pytest
import tensorflow as tf
from flatbuffers import flexbuffers
from serving_demo import call, embedded, predict, publish, spec

from tfpipe.protocol import messages
from tfpipe.protocol.errors import RequestError
from tfpipe.protocol.loaded_model import LoadedModel


@pytest.fixture(scope="module")
def converted():
    """The bytes of a model that halves rows of two numbers and adds 2."""
    half_plus_two = tf.function(
        lambda x: {"y": x / 2 + 2}, input_signature=[tf.TensorSpec([1, 2], tf.float32, "x")]
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [half_plus_two.get_concrete_function()]
    )
    return converter.convert()


@pytest.fixture
def version(converted, tmp_path):
    folder = tmp_path / "demo" / "1"
    folder.mkdir(parents=True)
    (folder / "model.tflite").write_bytes(converted)
    return folder


def test_requests_of_any_number_of_rows_are_answered(version):
    with (
        embedded(version.parent, prefer_tflite_model=True) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        request = messages.GetModelMetadataRequest(
            model_spec=spec(), metadata_field=["signature_def"]
        )
        found = messages.SignatureDefMap()
        call(channel, request).metadata["signature_def"].Unpack(found)
        (signature,) = found.signature_def.values()
        ((x, info),), (y,) = signature.inputs.items(), signature.outputs
        assert info.dtype == messages.types_pb2.DT_FLOAT
        for rows in (1, 3, 2):
            given = np.arange(2 * rows, dtype=np.float32).reshape(rows, 2)
            response = call(channel, predict(spec(), **{x: given}))
            assert response.model_spec.version.value == 1
            np.testing.assert_allclose(
                response.outputs[y].float_val, (given / 2 + 2).ravel(), rtol=1e-6
            )
        for wrong in (np.ones((1, 3), np.float32), np.float32(1), np.ones((1, 2))):
            with pytest.raises(grpc.RpcError) as caught:
                call(channel, predict(spec(), **{x: wrong}))
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_without_the_flag_or_the_file_the_savedmodel_is_served(tmp_path, version):
    saved = publish(tmp_path / "other", 1, signatures=("add",)) / "1"
    assert "add" in LoadedModel(saved, 1, prefer_tflite=True).signatures
    with pytest.raises(RequestError, match="SavedModel file does not exist"):
        LoadedModel(version, 1)
    shutil.copy(version / "model.tflite", saved)
    assert "add" in LoadedModel(saved, 1).signatures
    assert "add" not in LoadedModel(saved, 1, prefer_tflite=True).signatures


def test_the_signatures_in_the_file_name_the_tensors(version, converted):
    """As TensorFlow's converter writes them: a map in the metadata."""
    (signature,) = LoadedModel(version, 1, prefer_tflite=True).signatures.values()
    ((_, x),), ((_, y),) = signature.inputs.items(), signature.outputs.items()
    named = messages.SignatureDef(method_name="tensorflow/serving/predict")
    for info, name in ((named.inputs["given"], f"{x.name}:0"), (named.outputs["result"], y.name)):
        info.name, info.dtype = name, messages.types_pb2.DT_FLOAT
        info.tensor_shape.dim.add(size=1)
        info.tensor_shape.dim.add(size=2)
    (version / "model.tflite").write_bytes(with_signatures(converted, {"halve": named}))
    model = LoadedModel(version, 1, prefer_tflite=True)
    assert list(model.signatures) == ["halve"]
    answer = model.run("halve", {"given": np.array([[2, 4]], np.float32)})
    assert answer["result"].tolist() == [[3, 4]]
    named.outputs["result"].name = "nowhere"
    (version / "model.tflite").write_bytes(with_signatures(converted, {"halve": named}))
    with pytest.raises(RequestError, match=r"tensor result \(nowhere\) is not in the model"):
        LoadedModel(version, 1, prefer_tflite=True)


def with_signatures(converted, signatures):
    """Returns the model with one more entry in its metadata, written by TensorFlow's own tools."""
    schema = pytest.importorskip("tensorflow.lite.python.schema_py_generated")
    flatbuffer_utils = pytest.importorskip("tensorflow.lite.tools.flatbuffer_utils")
    builder = flexbuffers.Builder()
    with builder.Map():
        for key, value in signatures.items():
            builder.Key(key)
            builder.String(value.SerializeToString().decode())
    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(converted))
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = list(builder.Finish())
    entry.name, entry.buffer = b"signature_defs_metadata", len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


@pytest.mark.parametrize("content", [b"", b"TFL3", b"\x10\0\0\0TFL3" + bytes(100)])
def test_a_damaged_file_is_one_line(version, content):
    (version / "model.tflite").write_bytes(content)
    with pytest.raises(RequestError, match="cannot load") as caught:
        LoadedModel(version, 1, prefer_tflite=True)
    assert "\n" not in caught.value.message
