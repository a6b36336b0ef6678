"""REST as TensorFlow Serving answers it, and the metrics beside it."""

import base64
import http.client
import json
import re

import grpc
import numpy as np
import pytest
from serving_demo import IMAGE, PROBABILITY, day_probability, demo, png

from serving import json_api
from tfpipe.protocol import messages, tensors
from tfpipe.protocol.client import Client
from tfpipe.protocol.errors import RequestError
from tfpipe.protocol.transport import ServerError

DAY = pytest.approx(PROBABILITY, abs=1e-6)


def b64(data):
    return {"b64": base64.b64encode(data).decode()}


@pytest.fixture(scope="module")
def server():
    return demo()


def ask(server, method, path, body=None, headers=()):
    """Returns the status and the JSON of an answer."""
    connection = http.client.HTTPConnection(server.rest_address, timeout=30)
    data = json.dumps(body) if isinstance(body, dict | list) else body
    connection.request(method, path, data, dict(headers))
    response = connection.getresponse()
    text = response.read()
    connection.close()
    kind = response.getheader("Content-Type", "")
    return response.status, json.loads(text) if "json" in kind else text.decode()


def test_rows_and_columns(server):
    rows = {"instances": [b64(IMAGE), b64(png(20))]}
    code, found = ask(server, "POST", "/v1/models/demo:predict", rows)
    assert code == 200
    assert [row["class_name"] for row in found["predictions"]] == ["day", "night"]
    assert found["predictions"][0]["probability"] == DAY
    columns = {"signature_name": "serving_default", "inputs": {"image_bytes": [b64(IMAGE)]}}
    code, found = ask(server, "POST", "/v1/models/demo/versions/7:predict", columns)
    assert code == 200
    assert found["outputs"]["probability"] == [DAY]
    assert found["outputs"]["probabilities"][0][1] == DAY
    alone = {"inputs": [b64(IMAGE)]}  # of the only input
    assert ask(server, "POST", "/v1/models/demo:predict", alone)[1] == found


@pytest.mark.parametrize(
    "encode",
    [
        base64.encodebytes,
        lambda data: base64.encodebytes(data).replace(b"\n", b"\r\n"),
        lambda data: b" " + base64.b64encode(data) + b"\t\n",
        lambda data: base64.b64encode(data).rstrip(b"="),
        base64.urlsafe_b64encode,
    ],
)
def test_base64_may_have_white_space_and_no_padding(server, encode):
    data = IMAGE + bytes(range(256)) + b"\xff"  # a PNG may have more at its end
    body = {"instances": [{"b64": encode(data).decode()}]}
    code, found = ask(server, "POST", "/v1/models/demo:predict", body)
    assert code == 200, found
    assert found["predictions"][0]["probability"] == DAY


def test_an_empty_list_is_answered_with_one(server):
    code, found = ask(server, "POST", "/v1/models/demo:predict", {"inputs": {"image_bytes": []}})
    assert code == 200
    assert found["outputs"] == {alias: [] for alias in found["outputs"]}
    info = messages.SignatureDef().inputs["x"]
    info.dtype = TYPES.DT_UINT8
    for size in (-1, 4, 4, 3):
        info.tensor_shape.dim.add(size=size)
    found, _ = json_api.read_tensors({"inputs": []}, {"x": info})
    assert tensors.from_proto(found["x"]).shape == (0, 4, 4, 3)


def test_numbers_by_name(server):
    body = {"signature_name": "add", "instances": [{"a": 1.5, "b": 2}, {"a": 0.1, "b": -1}]}
    code, found = ask(server, "POST", "/v1/models/demo:predict", body)
    assert code == 200
    assert found["predictions"] == [{"sum": 3.5, "half": 0.75}, {"sum": -0.9, "half": 0.05}]


def test_scalars_go_in_columns_only(server):
    body = {"signature_name": "slow", "inputs": 2}
    assert ask(server, "POST", "/v1/models/demo:predict", body) == (200, {"outputs": 512.0})


def test_classify_and_regress(server):
    examples = [{"image/encoded": b64(IMAGE)}, {"image/encoded": [b64(png(20))]}]
    body = {"signature_name": "by_class", "examples": examples}
    code, found = ask(server, "POST", "/v1/models/demo:classify", body)
    assert code == 200
    assert found["results"][0][1] == ["day", DAY]
    assert [label for label, _ in found["results"][1]] == ["night", "day"]
    body = {"signature_name": "by_value", "context": examples[0], "examples": [{}, examples[1]]}
    code, found = ask(server, "POST", "/v1/models/demo:regress", body)
    assert code == 200
    assert found["results"] == [DAY, pytest.approx(day_probability(png(20)), abs=1e-6)]


def test_status_and_metadata(server):
    expected = {
        "model_version_status": [
            {
                "version": "7",
                "state": "AVAILABLE",
                "status": {"error_code": "OK", "error_message": ""},
            }
        ]
    }
    for path in ("/v1/models/demo", "/v1/models/demo/versions/7"):
        assert ask(server, "GET", path) == (200, expected)
    code, found = ask(server, "GET", "/v1/models/demo/metadata")
    assert code == 200
    assert found["model_spec"]["version"] == "7"
    signatures = found["metadata"]["signature_def"]["signature_def"]
    assert signatures["add"]["inputs"]["b"]["dtype"] == "DT_INT32"


PREDICT = "demo:predict"
MISTAKES = [
    (PREDICT, "{", 400, "JSON Parse error: .*"),
    (PREDICT, "[" * 100_000, 400, "JSON Parse error: .*"),
    (PREDICT, "", 400, "JSON Parse error: The document is empty"),
    (PREDICT, [1], 400, r"JSON Value: \[1\] Is not object"),
    (PREDICT, {}, 400, "Missing 'inputs' or 'instances' key"),
    (PREDICT, {"inputs": 1, "instances": [1]}, 400, ".*expecting only one of.*"),
    (PREDICT, {"instances": []}, 400, "No values in 'instances' array"),
    (PREDICT, {"signature_name": "x", "instances": [1]}, 400, '.*: "x" not found in signature def'),
    (PREDICT, {"signature_name": 1}, 400, ".*must be a string.*"),
    (PREDICT, {"instances": [1]}, 400, ".*Number is not of expected type: string"),
    (PREDICT, {"instances": [{"b64": "?"}]}, 400, "Unable to base64 decode"),
    (
        PREDICT,
        {"instances": [{"b64": "data:image/png;base64,AAAA"}]},
        400,
        "Unable .*`data:` URL.*",
    ),
    (PREDICT, {"instances": [{"b64": "AAA AA=="}]}, 400, "Unable to base64 decode"),
    (PREDICT, {"inputs": b64(IMAGE)}, 400, r"Batching Run\(\) input tensors must have at .*"),
    (PREDICT, {"inputs": "AAAA"}, 400, r"Batching Run\(\) input tensors must have at .*"),
    (PREDICT, {"instances": [b64(IMAGE[:30])]}, 400, r"Invalid PNG\..*"),
    (
        PREDICT,
        {"signature_name": "add", "inputs": {"a": [[1], [1, 2]], "b": [1]}},
        400,
        "Encountered list at unexpected size: 2 at level: 1 expected size: 1",
    ),
    (
        PREDICT,
        {"instances": [b64(IMAGE), {"image_bytes": b64(IMAGE)}]},
        400,
        "Expecting value/list but got object at item 1 of input list",
    ),
    ("x:predict", {"instances": [1]}, 404, r"Servable not found for request: Latest\(x\)"),
    ("demo/labels/x:predict", {"instances": [1]}, 400, "Unrecognized servable version label: x"),
    (f"demo/versions/{2**63}:predict", {}, 400, "Failed to convert.*"),
    ("demo:classify", {}, 400, ".*key 'examples' is expected.*"),
    ("demo:explode", {}, 400, "Malformed request: POST /v1/models/demo:explode"),
]


@pytest.mark.parametrize(("path", "body", "status", "message"), MISTAKES)
def test_mistakes(server, path, body, status, message):
    code, found = ask(server, "POST", f"/v1/models/{path}", body)
    assert code == status, found
    assert list(found) == ["error"]
    assert re.fullmatch(message, found["error"]), found


def test_limits(server):
    code, found = ask(server, "POST", "/v1/models/demo:predict", "x" * (2 << 20))
    assert (code, found["error"]) == (413, "the body is larger than 1,048,576 bytes")
    packed = {"Content-Encoding": "gzip"}
    assert ask(server, "POST", "/v1/models/demo:predict", "x", packed)[0] == 501
    assert ask(server, "GET", "/v1/models/demo/x")[0] == 400
    assert ask(server, "DELETE", "/v1/models/demo")[0] == 405


def test_the_client_speaks_rest_too(server):
    images = [IMAGE, png(20)]
    with (
        Client(f"http://{server.rest_address}", "demo") as rest,
        Client(server.address, "demo") as plain,
    ):
        assert rest.metadata() == plain.metadata()
        one, other = (client.predict({"image_bytes": images}) for client in (rest, plain))
        assert one.keys() == other.keys()
        for key, value in other.items():
            assert one[key].dtype == value.dtype
            np.testing.assert_array_equal(one[key], value)
        assert rest.classify_images(images) == plain.classify_images(images)
        numbers = {"a": np.ones(2, np.float32), "b": np.ones(2, np.int32)}
        halves = rest.predict(numbers, ["half"], signature_name="add")
        assert halves["half"].tolist() == [0.5, 0.5]
        with pytest.raises(ServerError) as caught:
            rest.predict({"image_bytes": [b"?"]})
        assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    with Client("http://127.0.0.1:1", "demo", retries=1) as nobody:
        with pytest.raises(ServerError, match="no server answers at") as caught:
            nobody.classify_images(images)
        assert caught.value.code is grpc.StatusCode.UNAVAILABLE


TYPES = messages.types_pb2


def read(value, dtype):
    info = messages.SignatureDef().inputs["x"]
    info.dtype = dtype
    return json_api.read_tensors({"inputs": value}, {"x": info})[0]["x"]


@pytest.mark.parametrize(
    ("value", "dtype", "expected"),
    [
        (1, TYPES.DT_FLOAT, np.float32(1)),
        ([0.1, float("nan")], TYPES.DT_FLOAT, np.array([0.1, np.nan], np.float32)),
        ([[1], [2]], TYPES.DT_INT64, np.array([[1], [2]])),
        ([255], TYPES.DT_UINT8, np.array([255], np.uint8)),
        ([True], TYPES.DT_BOOL, np.array([True])),
        (["ä", {"b64": "AP8"}], TYPES.DT_STRING, np.array(["ä".encode(), b"\0\xff"], object)),
        ([], TYPES.DT_STRING, np.array([], object)),
    ],
)
def test_values_become_tensors(value, dtype, expected):
    found = read(value, dtype)
    assert found.dtype == dtype
    np.testing.assert_array_equal(tensors.from_proto(found), expected)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (256, TYPES.DT_UINT8),
        (1.0, TYPES.DT_INT32),
        (True, TYPES.DT_INT32),
        (2**63, TYPES.DT_INT64),
        (2**24, TYPES.DT_FLOAT),
        (1e39, TYPES.DT_FLOAT),
        ("1", TYPES.DT_FLOAT),
        (1, TYPES.DT_BOOL),
        (None, TYPES.DT_STRING),
        (1, TYPES.DT_RESOURCE),
        (1, TYPES.DT_COMPLEX64),
    ],
)
def test_values_that_do_not_fit_are_refused(value, dtype):
    with pytest.raises(RequestError):
        read([value], dtype)


def test_deep_nesting_is_refused():
    with pytest.raises(RequestError, match="unexpected level"):
        read(json.loads("[" * 40 + "1" + "]" * 40), TYPES.DT_FLOAT)


def test_outputs_become_values():
    floats = tensors.to_proto(np.array([0.2, np.nan, np.inf], np.float32))
    assert json.loads(json_api.write_tensors({"y": floats}, as_rows=True))["predictions"][0] == 0.2
    assert b"NaN" in json_api.write_tensors({"y": floats}, as_rows=False)
    assert b"Infinity" in json_api.write_tensors({"y": floats}, as_rows=False)
    text = tensors.to_proto(np.array([b"\xff", b"a"], object))
    found = json.loads(json_api.write_tensors({"y_bytes": text, "y": text}, as_rows=True))
    assert found["predictions"][1] == {"y_bytes": {"b64": "YQ=="}, "y": "a"}
    with pytest.raises(RequestError, match="no shape information"):
        json_api.write_tensors({"y": tensors.to_proto(np.float32(1))}, as_rows=True)
    with pytest.raises(RequestError, match="inconsistent batch"):
        json_api.write_tensors({"y": floats, "z": text}, as_rows=True)


def test_examples_have_one_type_a_feature():
    request = messages.Input()
    json_api.read_examples({"examples": [{"a": [1, 2], "b": 0.5, "c": ["x", b64(b"\0")]}]}, request)
    features = request.example_list.examples[0].features.feature
    assert features["a"].int64_list.value == [1, 2]
    assert features["b"].float_list.value == [0.5]
    assert features["c"].bytes_list.value == [b"x", b"\0"]
    for bad in ({"a": [1, 0.5]}, {"a": None}, {"a": [[1]]}, {"a": 2**63}, {"a": {"x": 1}}, 3):
        with pytest.raises(RequestError):
            json_api.read_examples({"examples": [bad]}, messages.Input())
