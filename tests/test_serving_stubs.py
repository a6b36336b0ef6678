"""The stubs of tensorflow-serving-api with TensorFlow's own tensors, as its guide uses them."""

import grpc
import pytest
import tensorflow as tf
from serving_demo import IMAGE, PROBABILITY, demo
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)


@pytest.fixture(scope="module")
def channel():
    with grpc.insecure_channel(demo().address) as channel:
        yield channel


@pytest.fixture
def predictions(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


def test_predict(predictions):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "demo"
    request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto([IMAGE], shape=[1]))
    found = predictions.Predict(request, timeout=30)
    assert found.model_spec.version.value == 7
    probability = tf.make_ndarray(found.outputs["probability"])
    assert probability.tolist() == [pytest.approx(PROBABILITY, abs=1e-6)]
    assert tf.make_ndarray(found.outputs["class_name"]).tolist() == [b"day"]


def test_tensors_in_both_of_their_forms(predictions):
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "demo", "add"
    typed = tf.make_tensor_proto(0.0)
    typed.ClearField("float_val")
    typed.tensor_shape.dim.add(size=2)
    typed.float_val.extend([1.5, 2.5])
    packed = tf.make_tensor_proto([1.5, 2.5])
    assert packed.tensor_content
    for proto in (typed, packed):
        request.inputs["a"].CopyFrom(proto)
        request.inputs["b"].CopyFrom(tf.make_tensor_proto([1, 2], dtype=tf.int32))
        found = predictions.Predict(request, timeout=30)
        assert tf.make_ndarray(found.outputs["sum"]).tolist() == [2.5, 4.5]


def test_classify(predictions):
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name, request.model_spec.signature_name = "demo", "by_class"
    example = tf.train.Example()
    example.features.feature["image/encoded"].bytes_list.value.append(IMAGE)
    request.input.example_list.examples.append(example)
    found = predictions.Classify(request, timeout=30)
    (classes,) = found.result.classifications
    assert {each.label for each in classes.classes} == {"night", "day"}


def test_status_and_metadata(channel, predictions):
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "demo"
    found = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(request, timeout=30)
    (status,) = found.model_version_status
    available = get_model_status_pb2.ModelVersionStatus.AVAILABLE
    assert (status.version, status.state) == (7, available)
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "demo"
    found = predictions.GetModelMetadata(request, timeout=30)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert found.metadata["signature_def"].Unpack(signatures)
    assert "serving_default" in signatures.signature_def


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("cats", [IMAGE], grpc.StatusCode.NOT_FOUND),
        ("demo", [1.0], grpc.StatusCode.INVALID_ARGUMENT),
        ("demo", [[IMAGE]], grpc.StatusCode.INVALID_ARGUMENT),
        ("demo", [b"no image"], grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
def test_errors(predictions, name, value, code):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto(value))
    with pytest.raises(grpc.RpcError) as caught:
        predictions.Predict(request, timeout=30)
    assert caught.value.code() is code
    assert caught.value.details()
