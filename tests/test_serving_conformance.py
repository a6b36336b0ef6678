"""Answers and errors are TensorFlow Serving's.

With TARGET=HOST:PORT another server is asked, which serves the model of `serving_demo` as `demo`,
version 7, with batching.
"""

import contextlib
import os
import re

import grpc
import numpy as np
import pytest
import tensorflow as tf
from serving_demo import (
    IMAGE,
    call,
    day_probability,
    demo,
    example,
    examples_of,
    png,
    predict,
    publish,
    spec,
    status,
)
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from tfpipe.protocol import messages, tensors


@pytest.fixture(scope="module")
def channel():
    with grpc.insecure_channel(os.environ.get("TARGET") or demo().address) as channel:
        yield channel


def test_predict_classifies_images(channel):
    images = [png(20), png(200), png(90)]
    response = call(channel, predict(spec(), image_bytes=images))
    expected = np.array([day_probability(image) for image in images])
    assert response.model_spec == spec(signature_name="serving_default", number=7)
    assert list(response.outputs["class_index"].int64_val) == [0, 1, 0]
    assert list(response.outputs["class_name"].string_val) == [b"night", b"day", b"night"]
    np.testing.assert_allclose(response.outputs["probability"].float_val, expected, atol=1e-6)
    probabilities = tensors.from_proto(response.outputs["probabilities"])
    np.testing.assert_allclose(probabilities, np.stack([1 - expected, expected], 1), atol=1e-6)


def test_predict_runs_the_signature_and_outputs_asked_for(channel):
    a, b = np.array([1.5, 2.0], np.float32), np.array([1, -1], np.int32)
    response = call(channel, predict(spec(signature_name="add", number=7), ["half"], a=a, b=b))
    assert response.model_spec == spec(signature_name="add", number=7)
    assert list(response.outputs) == ["half"]
    assert tf.make_ndarray(response.outputs["half"]).tolist() == [0.75, 1.0]
    assert set(call(channel, predict(spec(signature_name="add"), a=a, b=b)).outputs) == {
        "half",
        "sum",
    }


def test_metadata_are_the_signatures_of_the_file(channel, tmp_path):
    request = messages.GetModelMetadataRequest(model_spec=spec(), metadata_field=["signature_def"])
    response = call(channel, request)
    signatures = messages.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert response.model_spec == spec(number=7)
    publish(tmp_path / "demo", 7)
    saved = SavedModel.FromString((tmp_path / "demo" / "7" / "saved_model.pb").read_bytes())
    assert dict(signatures.signature_def) == dict(saved.meta_graphs[0].signature_def)
    assert signatures.signature_def["add"].inputs["b"].dtype == tf.int32


def test_status_and_health(channel):
    for model_spec in (spec(), spec(number=7), spec(label="ignored")):
        (status,) = call(
            channel, messages.GetModelStatusRequest(model_spec=model_spec)
        ).model_version_status
        assert (status.version, status.state, status.status.error_code) == (7, 30, 0)
    for name in ("", "PredictionService", "ModelService"):
        assert call(channel, messages.HealthCheckRequest(service=name)).status == 1


def test_classify_names_the_classes_and_their_scores(channel):
    model_spec = spec(signature_name="by_class")
    images = [png(20), png(200)]
    request = examples_of(messages.ClassificationRequest, model_spec, *images)
    response = call(channel, request)
    assert response.model_spec == spec(signature_name="by_class", number=7)
    rows = response.result.classifications
    assert [[each.label for each in row.classes] for row in rows] == [["night", "day"]] * 2
    expected = np.array([day_probability(image) for image in images])
    scores = [[each.score for each in row.classes] for row in rows]
    np.testing.assert_allclose(scores, np.stack([1 - expected, expected], 1), atol=1e-6)


def test_regress_gives_a_value(channel):
    images = [png(20), png(200)]
    request = examples_of(messages.RegressionRequest, spec(signature_name="by_value"), *images)
    response = call(channel, request)
    assert response.model_spec == spec(signature_name="by_value", number=7)
    expected = [day_probability(image) for image in images]
    values = [each.value for each in response.result.regressions]
    np.testing.assert_allclose(values, expected, atol=1e-6)


def test_the_context_of_a_list_is_part_of_every_example(channel):
    request = messages.RegressionRequest(model_spec=spec(signature_name="by_value"))
    given = request.input.example_list_with_context
    given.context.CopyFrom(example(png(200)))
    given.examples.add()
    given.examples.append(example(png(20)))  # its own image wins
    response = call(channel, request)
    expected = [day_probability(png(200)), day_probability(png(20))]
    values = [each.value for each in response.result.regressions]
    np.testing.assert_allclose(values, expected, atol=1e-6)


def test_multi_inference_answers_several_signatures(channel):
    asked = [
        (spec(signature_name="by_value"), REGRESS),
        (spec(signature_name="by_class"), CLASSIFY),
    ]
    value, classes = call(channel, tasks(*asked)).results
    assert value.model_spec == spec(signature_name="by_value", number=7)
    assert classes.model_spec == spec(signature_name="by_class", number=7)
    expected = day_probability(IMAGE)
    assert value.regression_result.regressions[0].value == pytest.approx(expected, abs=1e-6)
    (row,) = classes.classification_result.classifications
    assert row.classes[1].score == pytest.approx(expected, abs=1e-6)


INVALID, MISSING = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
PRECONDITION, UNIMPLEMENTED = grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.UNIMPLEMENTED
ANY = re.compile(".*")
ONE, INT = np.ones(1, np.float32), np.ones(1, np.int32)
SHORT = messages.TensorProto(dtype=1, tensor_content=b"12")


def metadata(*fields, model_spec=None):
    return messages.GetModelMetadataRequest(model_spec=model_spec, metadata_field=fields)


CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"


def tasks(*asked, images=(IMAGE,)):
    request = messages.MultiInferenceRequest()
    for model_spec, method in asked:
        request.tasks.add(model_spec=model_spec, method_name=method)
    request.input.example_list.examples.extend(map(example, images))
    return request


CONFORMANCE = {
    "no spec": (messages.PredictRequest(), INVALID, "Missing ModelSpec"),
    "no name": (predict(spec(name="")), INVALID, "ModelSpec has no name specified."),
    "model": (predict(spec("m")), MISSING, "Servable not found for request: Latest(m)"),
    "model and version": (
        predict(spec("m", number=7)),
        MISSING,
        "Servable not found for request: Specific(m, 7)",
    ),
    "version": (
        predict(spec(number=8)),
        MISSING,
        "Servable not found for request: Specific(demo, 8)",
    ),
    "label": (predict(spec(label="x")), INVALID, "Unrecognized servable version label: x"),
    "signature": (
        predict(spec(signature_name="x")),
        PRECONDITION,
        'Serving signature key "x" not found.',
    ),
    "no input": (
        predict(spec()),
        INVALID,
        "input size does not match signature: 0!=1 len({}) != len({image_bytes}). Sent extra: {}."
        " Missing but required: {image_bytes}.",
    ),
    "too many inputs": (
        predict(spec(signature_name="add"), c=ONE, a=ONE, b=INT),
        INVALID,
        "input size does not match signature: 3!=2 len({a,b,c}) != len({a,b}). Sent extra: {c}."
        " Missing but required: {}.",
    ),
    "wrong input": (
        predict(spec(signature_name="add"), a=ONE, c=INT),
        INVALID,
        "Signature input alias: b(feed name: add_b:0) not found in request and no default value"
        " provided. Inputs expected to be in the request {a,c}, or default input alias set: ",
    ),
    "unparsable": (
        predict(spec(signature_name="add"), a=SHORT, b=INT),
        INVALID,
        "tensor parsing error: a",
    ),
    "dtype": (
        predict(spec(signature_name="add"), a=[b"1"], b=INT),
        INVALID,
        "Expects arg[0] to be float but string is provided",
    ),
    "second dtype": (
        predict(spec(signature_name="add"), a=ONE, b=np.ones(1)),
        INVALID,
        "Expects arg[1] to be int32 but double is provided",
    ),
    "shapes": (
        predict(spec(signature_name="add"), a=np.ones(2, np.float32), b=np.ones(3, np.int32)),
        INVALID,
        re.compile(r"Batching .*must have equal 0th-dimension size.*"),
    ),
    "output": (
        predict(spec(signature_name="add"), ["x"], a=ONE, b=INT),
        INVALID,
        "output tensor alias not found in signature: x Outputs expected to be in the set"
        " {half,sum}.",
    ),
    "output twice": (
        predict(spec(signature_name="add"), ["sum", "sum"], a=ONE, b=INT),
        INVALID,
        "duplicate output tensor alias: sum",
    ),
    "damaged image": (
        predict(spec(), image_bytes=[png(9), png(9)[:30]]),
        INVALID,
        re.compile(r"Invalid PNG\..*"),
    ),
    "long message": (
        predict(spec(signature_name="x" * 2000)),
        PRECONDITION,
        'Serving signature key "' + "x" * 1001 + "...TRUNCATED",
    ),
    "too large": (
        predict(spec(), image_bytes=[b"x" * (1 << 20)]),
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        ANY,
    ),
    "metadata without spec": (metadata("signature_def"), INVALID, "Missing ModelSpec"),
    "metadata of nothing": (
        metadata(model_spec=spec()),
        INVALID,
        "GetModelMetadataRequest must specify at least one metadata_field",
    ),
    "metadata of something else": (
        metadata("signature_def", "x", model_spec=spec()),
        INVALID,
        "Metadata field x is not supported",
    ),
    "metadata of a model": (
        metadata("signature_def", model_spec=spec("m")),
        MISSING,
        "Servable not found for request: Latest(m)",
    ),
    "status without spec": (status(), INVALID, "Missing ModelSpec"),
    "status of a model": (status(spec("m")), MISSING, "Could not find any versions of model m"),
    "status of a version": (
        status(spec(number=8)),
        MISSING,
        "Could not find version 8 of model demo",
    ),
    "classify": (
        messages.ClassificationRequest(model_spec=spec(signature_name="x")),
        INVALID,
        "No signature was found with the name: x",
    ),
    "classify without examples": (
        messages.ClassificationRequest(model_spec=spec(signature_name="by_class")),
        INVALID,
        "Input is empty.",
    ),
    "classify by another signature": (
        examples_of(messages.ClassificationRequest, spec(), IMAGE),
        INVALID,
        "Expected one or two output Tensors, found 4",
    ),
    "classify by two inputs": (
        examples_of(messages.ClassificationRequest, spec(signature_name="add"), IMAGE),
        INVALID,
        "Expected one input Tensor.",
    ),
    "classify without classes": (
        examples_of(messages.ClassificationRequest, spec(signature_name="by_value"), IMAGE),
        PRECONDITION,
        re.compile(
            "Expected classification signature outputs to contain at least one of"
            r' "classes" or "scores"\. Signature was: .*'
        ),
    ),
    "regress": (
        messages.RegressionRequest(model_spec=spec(signature_name="x")),
        INVALID,
        "No signature was found with the name: x",
    ),
    "regress without examples": (
        messages.RegressionRequest(model_spec=spec(signature_name="by_value")),
        INVALID,
        "Input is empty.",
    ),
    "regress by two outputs": (
        examples_of(messages.RegressionRequest, spec(signature_name="by_class"), IMAGE),
        INVALID,
        "Expected one output Tensor.",
    ),
    "regress by another input": (
        examples_of(messages.RegressionRequest, spec(signature_name="slow"), IMAGE),
        PRECONDITION,
        re.compile("No regression inputs found in SignatureDef: .*"),
    ),
    "multi of nothing": (
        messages.MultiInferenceRequest(),
        INVALID,
        "ModelSpec has no name specified.",
    ),
    "multi of two models": (
        tasks((spec(signature_name="by_class"), CLASSIFY), (spec("m"), CLASSIFY)),
        INVALID,
        "All ModelSpecs in a MultiInferenceRequest must access the same model name.",
    ),
    "multi twice the same": (
        tasks(
            (spec(signature_name="by_class"), CLASSIFY), (spec(signature_name="by_class"), CLASSIFY)
        ),
        INVALID,
        "Duplicate evaluation of signature: by_class",
    ),
    "multi of an unknown signature": (
        tasks((spec(signature_name="x"), CLASSIFY)),
        INVALID,
        "Requested signature not found in model graph: x",
    ),
    "multi of another method": (
        tasks((spec(signature_name="by_class"), "tensorflow/serving/predict")),
        UNIMPLEMENTED,
        "Unsupported signature method_name: tensorflow/serving/predict",
    ),
    "reload without a list": (
        messages.ReloadConfigRequest(),
        INVALID,
        "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is"
        " currently supported",
    ),
    "health": (messages.HealthCheckRequest(service="x"), MISSING, ANY),
}


@pytest.mark.parametrize(("request_", "code", "message"), CONFORMANCE.values(), ids=CONFORMANCE)
def test_mistakes_are_answered_as_by_tensorflow_serving(channel, request_, code, message):
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "TARGET" in os.environ:
        pytest.skip("the limit is a flag of the embedded server")
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, request_)
    assert caught.value.code() is code, caught.value.details()
    details = caught.value.details()
    if isinstance(message, re.Pattern):
        assert message.fullmatch(details), details  # one line: a dot matches no newline
    else:
        assert details == message


def test_calls_that_nobody_waits_for_cost_no_slot(channel):
    for _ in range(50):
        with contextlib.suppress(grpc.RpcError):
            call(channel, predict(spec(), image_bytes=[png(9)] * 50), timeout=0.001)
    assert call(channel, predict(spec(), image_bytes=[png(9)])).outputs
