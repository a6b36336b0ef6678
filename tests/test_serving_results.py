"""What a model must return for Classify and Regress; the texts are TensorFlow Serving's."""

import grpc
import numpy as np
import pytest
from serving_demo import IMAGE, examples_of, spec

from serving import request_inference
from serving.prometheus_metrics import Metrics
from tfpipe.protocol import messages
from tfpipe.protocol.errors import RequestError


class Fake:
    """Stands for a model that returns these outputs."""

    version = 1

    def __init__(self, outputs):
        self.outputs = outputs
        definition = messages.SignatureDef()
        definition.inputs["inputs"].name = "x:0"
        for alias in outputs:
            definition.outputs[alias].name = "y:0"
        self.signatures = {"serving_default": definition}

    def run(self, signature, inputs):
        return self.outputs


def run(kind, outputs):
    request = examples_of(kind, spec(), IMAGE, IMAGE)
    return request_inference.run(Fake(outputs), request, Metrics()).result


SCORES, LABELS = np.ones((2, 3), np.float32), np.full((2, 3), b"x", object)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"scores": SCORES[0]}, "Expected Tensor shape: [batch_size num_classes] but got [3]"),
        (
            {"scores": SCORES.astype(np.float64)},
            "Expected scores Tensor of DT_FLOAT. Got: DT_DOUBLE",
        ),
        ({"classes": SCORES}, "Expected classes Tensor of DT_STRING. Got: DT_FLOAT"),
        ({"scores": SCORES[:1]}, "Expected scores output batch size of 2. Got: 1"),
        (
            {"classes": LABELS, "scores": SCORES[:, :2]},
            "Tensors class and score should match in dim_size(1). Got 3 vs. 2",
        ),
    ],
)
def test_outputs_that_are_no_classification(outputs, message):
    with pytest.raises(RequestError) as caught:
        run(messages.ClassificationRequest, outputs)
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            SCORES,
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got"
            " [2,3]",
        ),
        (SCORES[0], "Input batch size did not match output batch size: 2 vs. 3"),
        (np.ones(2), "Expected output Tensor of DT_FLOAT.  Got: DT_DOUBLE"),
    ],
)
def test_outputs_that_are_no_regression(values, message):
    with pytest.raises(RequestError) as caught:
        run(messages.RegressionRequest, {"outputs": values})
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.message == message


def test_labels_or_scores_alone_are_a_classification():
    for outputs, label, score in (({"classes": LABELS}, "x", 0), ({"scores": SCORES}, "", 1)):
        rows = run(messages.ClassificationRequest, outputs).classifications
        assert [[(each.label, each.score) for each in row.classes] for row in rows] == [
            [(label, score)] * 3
        ] * 2
    values = run(messages.RegressionRequest, {"outputs": SCORES[:, :1]}).regressions
    assert [each.value for each in values] == [1, 1]
