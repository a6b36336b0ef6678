"""Answers and errors are TensorFlow Serving's.

With TARGET=HOST:PORT another server is asked, which serves the model of `serving_demo` as `demo`,
version 7, with batching.

What needs a server of its own is tested beside it: states and reloads (`test_serving_reload.py`,
`test_serving_models.py`), the start (`test_serving_server.py`), warm-up requests
(`test_serving_warm_up.py`), metrics (`test_serving_metrics.py`), results of Classify and Regress
(`test_serving_results.py`).
"""

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
    publish_demo,
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


def test_the_last_value_stands_for_all_that_follow(channel):
    """As clients in C++ compress a tensor, with strings too."""
    request = predict(ADD, a=np.zeros(3, np.float32), b=np.zeros(3, np.int32))
    request.inputs["a"].float_val[:] = [1.5, 2.0]
    request.inputs["b"].int_val[:] = [1]
    assert list(call(channel, request).outputs["sum"].float_val) == [2.5, 3.0, 3.0]
    request = predict(DEMO, image_bytes=[png(20), png(200), png(200)])
    del request.inputs["image_bytes"].string_val[2:]
    assert list(call(channel, request).outputs["class_index"].int64_val) == [0, 1, 1]


def test_metadata_are_the_signatures_of_the_file(channel, tmp_path):
    request = messages.GetModelMetadataRequest(model_spec=spec(), metadata_field=["signature_def"])
    response = call(channel, request)
    signatures = messages.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert response.model_spec == spec(number=7)
    publish_demo(tmp_path / "demo")
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
    images = [png(20), png(200)]
    response = call(channel, classify(BY_CLASS, *images))
    assert response.model_spec == spec(signature_name="by_class", number=7)
    rows = response.result.classifications
    assert [[each.label for each in row.classes] for row in rows] == [["night", "day"]] * 2
    expected = np.array([day_probability(image) for image in images])
    scores = [[each.score for each in row.classes] for row in rows]
    np.testing.assert_allclose(scores, np.stack([1 - expected, expected], 1), atol=1e-6)


def test_regress_gives_a_value(channel):
    images = [png(20), png(200)]
    response = call(channel, regress(BY_VALUE, *images))
    assert response.model_spec == spec(signature_name="by_value", number=7)
    expected = [day_probability(image) for image in images]
    values = [each.value for each in response.result.regressions]
    np.testing.assert_allclose(values, expected, atol=1e-6)


def test_the_context_of_a_list_is_part_of_every_example(channel):
    request = regress(BY_VALUE)
    given = request.input.example_list_with_context
    given.context.CopyFrom(example(png(200)))
    given.examples.add()
    given.examples.append(example(png(20)))  # its own image wins
    response = call(channel, request)
    expected = [day_probability(png(200)), day_probability(png(20))]
    values = [each.value for each in response.result.regressions]
    np.testing.assert_allclose(values, expected, atol=1e-6)


def test_multi_inference_answers_several_signatures(channel):
    value, classes = call(channel, tasks((BY_VALUE, REGRESS), (BY_CLASS, CLASSIFY))).results
    assert value.model_spec == spec(signature_name="by_value", number=7)
    assert classes.model_spec == spec(signature_name="by_class", number=7)
    expected = day_probability(IMAGE)
    assert value.regression_result.regressions[0].value == pytest.approx(expected, abs=1e-6)
    (row,) = classes.classification_result.classifications
    assert row.classes[1].score == pytest.approx(expected, abs=1e-6)


ANY = re.compile(".*")
ONE, INT = np.ones(1, np.float32), np.ones(1, np.int32)
SHORT = messages.TensorProto(dtype=1, tensor_content=b"12")
CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"
DEMO, OTHER, NO_SUCH = spec(), spec("m"), spec(signature_name="x")
ADD, BY_CLASS, BY_VALUE = (spec(signature_name=n) for n in ("add", "by_class", "by_value"))


def metadata(*fields, model_spec=None):
    return messages.GetModelMetadataRequest(model_spec=model_spec, metadata_field=fields)


def tasks(*asked):
    request = messages.MultiInferenceRequest()
    for model_spec, method in asked:
        request.tasks.add(model_spec=model_spec, method_name=method)
    request.input.example_list.examples.append(example(IMAGE))
    return request


def classify(model_spec, *images):
    return examples_of(messages.ClassificationRequest, model_spec, *images)


def regress(model_spec, *images):
    return examples_of(messages.RegressionRequest, model_spec, *images)


# Requests and messages by the code of the answer.
MISTAKES = {
    "INVALID_ARGUMENT": [
        (messages.PredictRequest(), "Missing ModelSpec"),
        (predict(spec(name="")), "ModelSpec has no name specified."),
        (predict(spec(label="x")), "Unrecognized servable version label: x"),
        (
            predict(DEMO),
            "input size does not match signature: 0!=1 len({}) != len({image_bytes}). Sent extra:"
            " {}. Missing but required: {image_bytes}.",
        ),
        (
            predict(ADD, c=ONE, a=ONE, b=INT),
            "input size does not match signature: 3!=2 len({a,b,c}) != len({a,b}). Sent extra:"
            " {c}. Missing but required: {}.",
        ),
        (
            predict(ADD, a=ONE, c=INT),
            "Signature input alias: b(feed name: add_b:0) not found in request and no default"
            " value provided. Inputs expected to be in the request {a,c}, or default input alias"
            " set: ",
        ),
        (predict(ADD, a=SHORT, b=INT), "tensor parsing error: a"),
        (predict(ADD, a=[b"1"], b=INT), "Expects arg[0] to be float but string is provided"),
        (predict(ADD, a=ONE, b=np.ones(1)), "Expects arg[1] to be int32 but double is provided"),
        (
            predict(ADD, a=np.ones(2, np.float32), b=np.ones(3, np.int32)),
            re.compile(r"Batching .*must have equal 0th-dimension size.*"),
        ),
        (
            predict(ADD, ["x"], a=ONE, b=INT),
            "output tensor alias not found in signature: x Outputs expected to be in the set"
            " {half,sum}.",
        ),
        (
            predict(ADD, ["sum", "sum"], a=ONE, b=INT),
            "duplicate output tensor alias: sum",
        ),
        (
            predict(ADD, a=np.float32(1), b=np.int32(1)),
            "Batching Run() input tensors must have at least one dimension",
        ),
        (predict(DEMO, image_bytes=[png(9), png(9)[:30]]), re.compile(r"Invalid PNG\..*")),
        (metadata("signature_def"), "Missing ModelSpec"),
        (
            metadata(model_spec=DEMO),
            "GetModelMetadataRequest must specify at least one metadata_field",
        ),
        (metadata("signature_def", "x", model_spec=DEMO), "Metadata field x is not supported"),
        (status(), "Missing ModelSpec"),
        (classify(NO_SUCH), "No signature was found with the name: x"),
        (classify(BY_CLASS), "Input is empty."),
        (classify(DEMO, IMAGE), "Expected one or two output Tensors, found 4"),
        (classify(ADD, IMAGE), "Expected one input Tensor."),
        (
            classify(BY_VALUE, IMAGE),
            re.compile(
                "Expected classification signature outputs to contain at least one of"
                r' "classes" or "scores"\. Signature was: .*'
            ),
        ),
        (
            regress(spec(signature_name="slow"), IMAGE),
            re.compile("No regression inputs found in SignatureDef: .*"),
        ),
        (tasks((BY_VALUE, CLASSIFY)), re.compile("Expected classification signature outputs .*")),
        (regress(NO_SUCH), "No signature was found with the name: x"),
        (regress(BY_VALUE), "Input is empty."),
        (regress(BY_CLASS, IMAGE), "Expected one output Tensor."),
        (messages.MultiInferenceRequest(), "ModelSpec has no name specified."),
        (
            tasks((BY_CLASS, CLASSIFY), (OTHER, CLASSIFY)),
            "All ModelSpecs in a MultiInferenceRequest must access the same model name.",
        ),
        (
            tasks((BY_CLASS, CLASSIFY), (BY_CLASS, CLASSIFY)),
            "Duplicate evaluation of signature: by_class",
        ),
        (tasks((NO_SUCH, CLASSIFY)), "Requested signature not found in model graph: x"),
        (
            messages.ReloadConfigRequest(),
            "ServerModelConfig type not supported by HandleReloadConfigRequest. Only"
            " ModelConfigList is currently supported",
        ),
    ],
    "NOT_FOUND": [
        (predict(OTHER), "Servable not found for request: Latest(m)"),
        (predict(spec("m", number=7)), "Servable not found for request: Specific(m, 7)"),
        (predict(spec(number=8)), "Servable not found for request: Specific(demo, 8)"),
        (
            metadata("signature_def", model_spec=OTHER),
            "Servable not found for request: Latest(m)",
        ),
        (status(OTHER), "Could not find any versions of model m"),
        (status(spec(number=8)), "Could not find version 8 of model demo"),
        (messages.HealthCheckRequest(service="x"), ANY),
    ],
    "FAILED_PRECONDITION": [
        (predict(NO_SUCH), 'Serving signature key "x" not found.'),
        (
            predict(spec(signature_name="x" * 2000)),
            'Serving signature key "' + "x" * 1001 + "...TRUNCATED",
        ),
    ],
    "UNIMPLEMENTED": [
        (
            tasks((BY_CLASS, "tensorflow/serving/predict")),
            "Unsupported signature method_name: tensorflow/serving/predict",
        ),
    ],
    # Larger than the limit of the server in this process.
    "RESOURCE_EXHAUSTED": [(predict(DEMO, image_bytes=[b"x" * (1 << 20)]), ANY)],
}


@pytest.mark.parametrize(
    ("code", "request_", "message"),
    [
        pytest.param(code, *case, id=f"{code}-{number}")
        for code, cases in MISTAKES.items()
        for number, case in enumerate(cases)
    ],
)
def test_mistakes_are_answered_as_by_tensorflow_serving(channel, code, request_, message):
    if code == "RESOURCE_EXHAUSTED" and "TARGET" in os.environ:
        pytest.skip("the limit is a flag of the embedded server")
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, request_)
    details = caught.value.details()
    assert caught.value.code().name == code, details
    if isinstance(message, re.Pattern):
        assert message.fullmatch(details), details  # one line: a dot matches no newline
    else:
        assert details == message
