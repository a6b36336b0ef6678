"""REST as TensorFlow Serving answers it, and the metrics beside it."""

import base64
import gzip
import json
import re
import tracemalloc
import zlib

import grpc
import numpy as np
import pytest
import serving_demo
from serving_demo import IMAGE, demo, embedded, png, publish

from serving import json_examples, json_request, json_response, request_body
from tfpipe.protocol import messages, tensors
from tfpipe.protocol.client import Client
from tfpipe.protocol.errors import RequestError
from tfpipe.protocol.transport import ServerError

PREDICT = "/v1/models/demo:predict"


def b64(data):
    return {"b64": base64.b64encode(data).decode()}


@pytest.fixture(scope="module")
def server():
    return demo()


def ask(server, method, path, body=None, **headers):
    """Returns the status and the JSON of an answer."""
    code, found, given = serving_demo.ask(server.rest_address, method, path, body, **headers)
    return code, json.loads(found) if "json" in given["Content-Type"] else found.decode()


def test_base64_may_have_the_alphabet_for_urls(server):
    data = bytes(range(250, 256)) * 3
    encoded = {"b64": base64.urlsafe_b64encode(data).decode()}
    assert encoded["b64"] != base64.b64encode(data).decode()
    body = {"signature_name": "raw", "instances": [[encoded]]}
    assert ask(server, "POST", PREDICT, body) == (200, {"predictions": [[b64(data)]]})


def test_an_empty_list_is_answered_with_one(server):
    code, found = ask(server, "POST", PREDICT, {"inputs": {"image_bytes": []}})
    assert code == 200
    assert found["outputs"] == {alias: [] for alias in found["outputs"]}
    info = messages.SignatureDef().inputs["x"]
    info.dtype = TYPES.DT_UINT8
    for size in (-1, 4, 4, 3):
        info.tensor_shape.dim.add(size=size)
    found, _ = json_request.read_tensors({"inputs": []}, {"x": info})
    assert tensors.from_proto(found["x"]).shape == (0, 4, 4, 3)


def test_scalars_go_in_columns_only(server):
    body = {"signature_name": "slow", "inputs": 2}
    assert ask(server, "POST", PREDICT, body) == (200, {"outputs": 512.0})


# What TensorFlow Serving answers otherwise; serving/README.md lists it.
REFUSED = [
    ('{"inputs": [1], "a": 1, "a": 2}', 'JSON Parse error: the key "a" is twice in one object'),
    (r'{"inputs": [1], "a": "\udc00"}', "JSON Parse error: The surrogate pair .* at offset: 22"),
    ("[" * 100_000, "JSON Parse error: .* nested too deeply"),
    ({"signature_name": "echo", "inputs": 10**400}, "JSON Parse error: Number too big .*"),
    ('{"inputs": %s}' % ("9" * 5000), "JSON Parse error: Number too big .*"),
    ({"inputs": [1] * 3, "signature_name": "\udc00"}, "JSON Parse error: The surrogate .*"),
    ({"signature_name": "pixels", "inputs": [[256]]}, "JSON Value: 256 .* expected type: uint8"),
    ({"signature_name": "pixels", "inputs": [[-1]]}, "JSON Value: -1 .* expected type: uint8"),
    ({"instances": [{"b64": " data:image/png;base64,AAAA"}]}, "Failed .* decode: .*`data:` URL.*"),
]


@pytest.mark.parametrize(("body", "message"), REFUSED)
def test_what_is_refused_here_only(server, body, message):
    code, found = ask(server, "POST", PREDICT, body)
    assert (code, list(found)) == (400, ["error"])
    assert re.fullmatch(message, found["error"]), found


def test_a_body_that_is_too_large(server):
    limit = "the body is larger than 1,048,576 bytes"
    for size in (2 << 20, 200 << 20):
        assert ask(server, "POST", PREDICT, b"x" * size) == (413, {"error": limit})
    parts = (b"x" * (1 << 16) for _ in range(17))  # without a length
    assert ask(server, "POST", PREDICT, parts) == (413, {"error": limit})


def test_a_bomb_is_not_unpacked(server):
    pack = zlib.compressobj(wbits=31)
    bomb = b"".join(pack.compress(bytes(1 << 20)) for _ in range(256)) + pack.flush()
    tracemalloc.start()
    with pytest.raises(request_body.BodyTooLargeError):
        request_body.gunzip(bomb, 1 << 20)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
    code, found = ask(server, "POST", PREDICT, bomb, Content_Encoding="gzip")
    assert (code, found["error"]) == (413, "the body is larger than 1,048,576 bytes unpacked")


def test_gzip_must_be_whole(server):
    whole = gzip.compress(json.dumps({"signature_name": "echo", "inputs": [1]}).encode())
    good = {"outputs": [1.0]}
    assert ask(server, "POST", PREDICT, whole, Content_Encoding="x-gzip") == (200, good)
    for body in (whole[:-1], whole[:9], whole + whole, whole + b"x", whole[:-8] + bytes(8)):
        code, found = ask(server, "POST", PREDICT, body, Content_Encoding="gzip")
        assert (code, found["error"][:31]) == (400, "the body cannot be read as gzip")


def test_a_name_and_a_label_may_be_encoded(tmp_path):
    base = publish(tmp_path / "demo", 3, signatures=["echo"])
    config = tmp_path / "models.config"
    config.write_text(
        f"""model_config_list {{ config {{
            name: "a/b:ü" base_path: "{base}" model_platform: "tensorflow"
            version_labels {{ key: "x y" value: 3 }} }} }}""",
        encoding="utf-8",
    )
    given = {"model_name": "", "model_config_file": str(config), "rest_api_port": -1}
    given |= {"allow_version_labels_for_unavailable_models": True}
    with embedded(None, **given) as server:
        name, body = "/v1/models/a%2fb%3A%C3%BC", {"signature_name": "echo", "inputs": [1]}
        for where in ("", "/versions/3", "/labels/x%20y"):
            answer = ask(server, "POST", f"{name}{where}:predict", body)
            assert answer == (200, {"outputs": [1.0]})
        assert ask(server, "GET", f"{name}/labels/x%20y/metadata")[0] == 200
        assert ask(server, "GET", name)[0] == 200
        assert ask(server, "GET", "/v1/models/a/b%3A%C3%BC")[0] == 400


def test_pages_of_other_origins_may_ask_with_a_flag(tmp_path):
    base = publish(tmp_path / "demo", 1, signatures=["echo"])
    options = {"rest_api_port": -1, "rest_api_enable_cors_support": True}
    with embedded(base, **options) as server:
        for method, path, body, status in (
            ("OPTIONS", PREDICT, None, 200),
            ("POST", PREDICT, {"signature_name": "echo", "inputs": [1]}, 200),
            ("POST", PREDICT, "", 400),
            ("GET", "/v1/models/demo", None, 200),
        ):
            found = serving_demo.ask(
                server.rest_address, method, path, body, Origin="https://x.org"
            )
            assert found[0] == status
            headers = {name: found[2][name] for name in found[2] if name.startswith("access")}
            assert headers == {
                "access-control-allow-origin": "*",
                "access-control-allow-methods": "POST, GET",
                "access-control-allow-headers": "Content-Type",
            }


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
    return json_request.read_tensors({"inputs": value}, {"x": info})[0]["x"]


@pytest.mark.parametrize(
    ("value", "dtype", "expected"),
    [
        (1, TYPES.DT_FLOAT, np.float32(1)),
        ([0.1, float("nan")], TYPES.DT_FLOAT, np.array([0.1, np.nan], np.float32)),
        ([[1], [2]], TYPES.DT_INT64, np.array([[1], [2]])),
        (2**24 + 1, TYPES.DT_FLOAT, np.float32(2**24)),
        (2**24 + 1, TYPES.DT_DOUBLE, np.float64(2**24 + 1)),
        ([1e39, -1e39, 1e-50], TYPES.DT_FLOAT, np.array([np.inf, -np.inf, 0], np.float32)),
        ([2**64 - 1], TYPES.DT_UINT64, np.array([2**64 - 1], np.uint64)),
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
        (-129, TYPES.DT_INT8),
        (2**15, TYPES.DT_INT16),
        (1.0, TYPES.DT_INT32),
        (True, TYPES.DT_INT32),
        (2**63, TYPES.DT_INT64),
        (-1, TYPES.DT_UINT32),
        (2**64, TYPES.DT_UINT64),
        ("1", TYPES.DT_FLOAT),
        (True, TYPES.DT_DOUBLE),
        (10**400, TYPES.DT_DOUBLE),
        (1, TYPES.DT_BOOL),
        (None, TYPES.DT_STRING),
        (1, TYPES.DT_STRING),
    ],
)
def test_values_that_do_not_fit_are_refused(value, dtype):
    with pytest.raises(RequestError) as caught:
        read([value], dtype)
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("name", ["half", "bfloat16", "uint16", "complex64", "qint8", "resource"])
@pytest.mark.parametrize("value", [[1], [], "x", None])
def test_types_that_the_rest_api_lacks(name, value):
    with pytest.raises(RequestError, match=f"to type: {name}$") as caught:
        read(value, TYPES.DataType.Value(f"DT_{name.upper()}"))
    assert caught.value.code is grpc.StatusCode.UNIMPLEMENTED


def test_deep_nesting_is_refused():
    with pytest.raises(RequestError, match="unexpected level"):
        read(json.loads("[" * 40 + "1" + "]" * 40), TYPES.DT_FLOAT)


def test_outputs_become_values():
    floats = tensors.to_proto(np.array([0.2, np.nan, np.inf], np.float32))
    assert (
        json.loads(json_response.write_tensors({"y": floats}, as_rows=True))["predictions"][0]
        == 0.2
    )
    assert b"NaN" in json_response.write_tensors({"y": floats}, as_rows=False)
    assert b"Infinity" in json_response.write_tensors({"y": floats}, as_rows=False)
    text = tensors.to_proto(np.array([b"\xff", b"a"], object))
    found = json.loads(json_response.write_tensors({"y_bytes": text, "y": text}, as_rows=True))
    assert found["predictions"][1] == {"y_bytes": {"b64": "YQ=="}, "y": "a"}
    with pytest.raises(RequestError, match="no shape information"):
        json_response.write_tensors({"y": tensors.to_proto(np.float32(1))}, as_rows=True)
    half = tensors.to_proto(np.ones(3, np.float16))
    with pytest.raises(RequestError, match="tensor type: half"):
        json_response.write_tensors({"y": half}, as_rows=False)
    with pytest.raises(RequestError, match="inconsistent batch"):
        json_response.write_tensors({"y": floats, "z": text}, as_rows=True)


def test_examples_have_one_type_a_feature():
    request = messages.Input()
    json_examples.read_examples(
        {"examples": [{"a": [1, 2], "b": 0.5, "c": ["x", b64(b"\0")]}]}, request
    )
    features = request.example_list.examples[0].features.feature
    assert features["a"].int64_list.value == [1, 2]
    assert features["b"].float_list.value == [0.5]
    assert features["c"].bytes_list.value == [b"x", b"\0"]
    for bad in ({"a": [1, 0.5]}, {"a": None}, {"a": [[1]]}, {"a": 2**63}, {"a": {"x": 1}}, 3):
        with pytest.raises(RequestError):
            json_examples.read_examples({"examples": [bad]}, messages.Input())
