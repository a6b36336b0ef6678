"""The Open Inference Protocol, as NVIDIA's `tritonclient` and plain HTTP speak it."""

import base64
import http.client
import json
import struct

import grpc
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from serving_demo import IMAGE, PROBABILITY, demo, embedded, png

from serving.admission import AdmissionController
from serving.open_inference import infer_json
from serving.open_inference import messages as oip
from tfpipe.protocol.errors import RequestError

DAY = pytest.approx(PROBABILITY, abs=1e-6)
KINDS = {
    "BOOL": np.array([True, False, True]),
    "INT8": np.array([-128, 0, 127], np.int8),
    "INT16": np.array([-(2**15), 0, 2**15 - 1], np.int16),
    "INT32": np.array([-(2**31), 0, 2**31 - 1], np.int32),
    "INT64": np.array([-(2**63), 0, 2**63 - 1], np.int64),
    "UINT8": np.array([0, 1, 255], np.uint8),
    "UINT16": np.array([0, 1, 2**16 - 1], np.uint16),
    "UINT32": np.array([0, 1, 2**32 - 1], np.uint32),
    "UINT64": np.array([0, 1, 2**64 - 1], np.uint64),
    "FP16": np.array([0.1, -2.5, 65504], np.float16),
    "FP32": np.array([0.1, -2.5, np.finfo(np.float32).max], np.float32),
    "FP64": np.array([0.1, -2.5, np.finfo(np.float64).max], np.float64),
    "BYTES": np.array([b"", b"\xff\x00", "é".encode()], object),
}


class Echo(tf.Module):
    """Returns its input, by one signature for each type."""

    def signatures(self):
        kinds = {name: tf.as_dtype(array.dtype) for name, array in KINDS.items()}
        kinds |= {"BYTES": tf.string, "BF16": tf.bfloat16, "complex": tf.complex64}
        return {
            name: tf.function(lambda x: {"y": tf.identity(x)}).get_concrete_function(
                tf.TensorSpec([None], kind, "x")
            )
            for name, kind in kinds.items()
        }


@pytest.fixture(scope="module")
def server():
    return demo()


@pytest.fixture(scope="module")
def echo(tmp_path_factory):
    base = tmp_path_factory.mktemp("echo")
    module = Echo()
    module.functions = module.signatures()
    tf.saved_model.save(module, str(base / "3"), signatures=module.functions)
    with embedded(base, rest_api_port=-1, model_name="echo") as server:
        yield server


@pytest.fixture(params=["grpc", "http"])
def triton(request):
    """Returns a function from a server to tritonclient's module, and a client of that server."""
    module = pytest.importorskip(f"tritonclient.{request.param}")
    clients = []

    def connect(server):
        address = server.address if request.param == "grpc" else server.rest_address
        clients.append(module.InferenceServerClient(address))
        return module, clients[-1]

    yield connect
    for client in clients:
        client.close()


def tensor(module, name, array, datatype):
    found = module.InferInput(name, list(array.shape), datatype)
    found.set_data_from_numpy(array)
    return found


def images(module, *files):
    return [tensor(module, "image_bytes", np.array(files, object), "BYTES")]


def test_the_messages_are_those_of_another_implementation():
    service = pytest.importorskip("tritonclient.grpc.service_pb2").DESCRIPTOR
    assert {m.name for m in oip.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods} <= {
        m.name for m in service.services_by_name["GRPCInferenceService"].methods
    }

    def compare(ours, theirs):
        for field in ours.fields:
            other = theirs.fields_by_name[field.name]
            same = ("number", "type", "is_repeated", "has_presence")
            assert [getattr(field, key) for key in same] == [getattr(other, key) for key in same]
            assert bool(field.containing_oneof) == bool(other.containing_oneof)
            if field.message_type:
                assert field.message_type.full_name == other.message_type.full_name
        for nested in ours.nested_types:
            compare(nested, theirs.nested_types_by_name[nested.name])

    for name, message in oip.DESCRIPTOR.message_types_by_name.items():
        compare(message, service.message_types_by_name[name])


def test_a_client_learns_what_is_served(server, triton):
    module, client = triton(server)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("demo")
    assert client.is_model_ready("demo", "7")
    assert not client.is_model_ready("demo", "8")
    assert not client.is_model_ready("cats")
    as_json = {"as_json": True} if module.__name__.endswith("grpc") else {}
    about = client.get_server_metadata(**as_json)
    assert about["name"] == "tfpipe"
    assert "binary_tensor_data" in about["extensions"]
    found = client.get_model_metadata("demo", **as_json)
    assert (found["name"], found["versions"]) == ("demo", ["7"])
    (given,) = found["inputs"]
    assert (given["name"], given["datatype"]) == ("image_bytes", "BYTES")
    assert [int(size) for size in given["shape"]] == [-1]
    outputs = {
        each["name"]: (each["datatype"], [int(s) for s in each["shape"]])
        for each in found["outputs"]
    }
    assert outputs["probabilities"] == ("FP32", [-1, 2])
    assert outputs["class_index"] == ("INT64", [-1])
    assert outputs["class_name"] == ("BYTES", [-1])


def test_images_are_classified(server, triton):
    module, client = triton(server)
    found = client.infer("demo", images(module, IMAGE, png(20)), request_id="a-7")
    assert found.as_numpy("class_name").tolist() == [b"day", b"night"]
    assert found.as_numpy("probability")[0] == DAY
    assert found.as_numpy("probabilities").shape == (2, 2)
    wanted = [module.InferRequestedOutput("probability")]
    found = client.infer("demo", images(module, IMAGE), model_version="7", outputs=wanted)
    assert found.as_numpy("probability").tolist() == [DAY]
    assert found.as_numpy("class_name") is None
    empty = [tensor(module, "image_bytes", np.array([], object), "BYTES")]
    assert client.infer("demo", empty).as_numpy("probabilities").shape == (0, 2)


def test_a_parameter_names_another_signature(server, triton):
    module, client = triton(server)
    inputs = [
        tensor(module, "b", np.array([2, -1], np.int32), "INT32"),
        tensor(module, "a", np.array([1.5, 0.1], np.float32), "FP32"),
    ]
    found = client.infer("demo", inputs, parameters={"signature_name": "add"})
    np.testing.assert_array_equal(found.as_numpy("sum"), np.float32([3.5, -0.9]))
    np.testing.assert_array_equal(found.as_numpy("half"), np.float32([0.75, 0.05]))
    steps = [tensor(module, "steps", np.array(2, np.int32), "INT32")]
    found = client.infer("demo", steps, parameters={"signature_name": "slow"})
    assert found.as_numpy("trace").tolist() == 512.0


@pytest.mark.parametrize("datatype", [*KINDS, "BF16"])
def test_every_datatype_arrives_as_it_was_sent(echo, triton, datatype):
    module, client = triton(echo)
    array = KINDS.get(datatype, np.array([0.1, -2.5, 3e38], ml_dtypes.bfloat16))
    sent = [tensor(module, "x", array, datatype)]
    found = client.infer("echo", sent, parameters={"signature_name": datatype}).as_numpy("y")
    assert found.dtype == array.dtype
    assert found.tolist() == array.tolist()


@pytest.mark.parametrize(
    ("model", "version", "change", "words"),
    [
        ("cats", "", {}, "Servable not found"),
        ("demo", "8", {}, "Servable not found"),
        ("demo", "canary", {}, "label: canary"),
        ("demo", "", {"name": "image"}, "image_bytes"),
        ("demo", "", {"datatype": "FP32", "array": np.float32([1])}, "string"),
        ("demo", "", {"array": np.array([[IMAGE]], object)}, "shape"),
        ("demo", "", {"array": np.array([b"no image"], object)}, "Unknown image"),
        ("demo", "", {"parameters": {"signature_name": "none"}}, "none"),
        ("demo", "", {"sequence_id": 5}, "sequence_"),
        ("demo", "", {"outputs": ["a", "a"]}, "output"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(server, triton, model, version, change, words):
    utils = pytest.importorskip("tritonclient.utils")
    module, client = triton(server)
    change = dict(change)
    array = change.pop("array", np.array([IMAGE], object))
    sent = tensor(module, change.pop("name", "image_bytes"), array, change.pop("datatype", "BYTES"))
    if "outputs" in change:
        change["outputs"] = [module.InferRequestedOutput(name) for name in change["outputs"]]
    with pytest.raises(utils.InferenceServerException) as caught:
        client.infer(model, [sent], model_version=version, **change)
    assert words.lower() in caught.value.message().lower()
    assert "\n" not in caught.value.message()
    assert client.infer("demo", images(module, IMAGE)).as_numpy("probability").tolist() == [DAY]


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_grpc_requests_may_be_compressed(server, algorithm):
    module = pytest.importorskip("tritonclient.grpc")
    with module.InferenceServerClient(server.address) as client:
        found = client.infer("demo", images(module, IMAGE), compression_algorithm=algorithm)
    assert found.as_numpy("probability").tolist() == [DAY]


def infer(server, request):
    with grpc.insecure_channel(server.address) as channel:
        method = channel.unary_unary(
            f"/{oip.SERVICE}/ModelInfer",
            request_serializer=oip.ModelInferRequest.SerializeToString,
            response_deserializer=oip.ModelInferResponse.FromString,
        )
        return method(request, timeout=20)


FIELDS = {
    "BOOL": "bool_contents",
    "INT64": "int64_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
} | dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents")
FIELDS |= dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents")


def typed(datatype, values, field="", shape=None):
    request = oip.ModelInferRequest(model_name="echo")
    request.parameters["signature_name"].string_param = datatype
    given = request.inputs.add(name="x", datatype=datatype, shape=shape or [len(values)])
    getattr(given.contents, field or FIELDS[datatype]).extend(values)
    return request


@pytest.mark.parametrize("datatype", FIELDS)
def test_typed_contents_are_answered_with_typed_contents(echo, datatype):
    values = KINDS[datatype].tolist()
    response = infer(echo, typed(datatype, values))
    assert not response.raw_output_contents
    (output,) = response.outputs
    assert (output.name, output.datatype, [*output.shape]) == ("y", datatype, [3])
    assert [*getattr(output.contents, FIELDS[datatype])] == values
    assert (response.model_name, response.model_version) == ("echo", "3")


def both(datatype="FP32"):
    request = typed(datatype, [1.0])
    request.raw_input_contents.append(b"1234")
    return request


def twice():
    request = typed("FP32", [1.0])
    request.inputs.append(request.inputs[0])
    return request


def raw(datatype, data, shape, parts=1):
    request = typed("FP32", [])
    request.parameters["signature_name"].string_param = datatype
    request.inputs[0].datatype = datatype
    request.inputs[0].ClearField("contents")
    request.inputs[0].shape[:] = shape
    request.raw_input_contents.extend([data] * parts)
    return request


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (typed("INT8", [1, 300]), "300 is no value of INT8"),
        (typed("UINT8", [256]), "256 is no value of UINT8"),
        (typed("FP32", [1.0], shape=[2]), "1 values"),
        (typed("FP32", [1.0, 2.0], shape=[1]), "2 values"),
        (typed("FP32", [1.0], shape=[-1]), "give the size"),
        (typed("FP32", [1], "int_contents"), "fill fp32_contents, not int_contents"),
        (typed("FP16", [1.0], "fp32_contents"), "raw_input_contents"),
        (typed("FP99", [1.0], "fp32_contents"), "FP99"),
        (both(), "both"),
        (twice(), "twice"),
        (raw("FP32", b"12345", [1]), "5 bytes"),
        (raw("FP32", b"1234", [2]), "needs 8"),
        (raw("FP32", b"1234", [1], parts=2), "2 parts for 1 inputs"),
        (raw("BOOL", b"\2", [1]), "other than 0 and 1"),
        (raw("BYTES", b"\1\0", [1]), "end within a string"),
        (raw("BYTES", b"\xff\xff\xff\xff.", [1]), "end within a string"),
        (raw("BYTES", b"\1\0\0\0a", [2]), "1 values"),
        (raw("FP32", b"", [0, 2**62]), "tensor parsing error"),
        (raw("FP32", b"1234", [1] * 300), "INVALID"),
    ],
)
def test_contents_that_do_not_fit_are_refused(echo, request_, words):
    with pytest.raises(grpc.RpcError) as caught:
        infer(echo, request_)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert words in f"INVALID {caught.value.details()}"
    assert infer(echo, typed("FP32", [2.0])).outputs[0].contents.fp32_contents == [2.0]


def ask(server, method, path, body=None, **headers):
    connection = http.client.HTTPConnection(server.rest_address, timeout=30)
    data = json.dumps(body) if isinstance(body, dict | list) else body
    connection.request(method, path, data, {k.replace("_", "-"): v for k, v in headers.items()})
    response = connection.getresponse()
    text = response.read()
    connection.close()
    return response, json.loads(
        text[: int(response.getheader("Inference-Header-Content-Length", len(text)))]
    )


def given(**change):
    data = base64.b64encode(IMAGE).decode()
    found = {"name": "image_bytes", "datatype": "BYTES", "shape": [1], "data": [data]}
    found["parameters"] = {"content_type": "base64"}
    return {key: value for key, value in (found | change).items() if value is not None}


def test_json_alone_is_enough(server):
    body = {"id": "7", "inputs": [given()], "outputs": [{"name": "probability"}]}
    response, found = ask(server, "POST", "/v2/models/demo/versions/7/infer", body)
    assert response.status == 200, found
    assert response.getheader("Inference-Header-Content-Length") is None
    assert (found["id"], found["model_name"], found["model_version"]) == ("7", "demo", "7")
    (output,) = found["outputs"]
    assert output == {"name": "probability", "datatype": "FP32", "shape": [1], "data": [DAY]}


@pytest.mark.parametrize("datatype", KINDS)
def test_every_datatype_in_json(echo, datatype):
    array = KINDS[datatype]
    values = array.tolist()
    if datatype == "BYTES":
        values = ["", "é", "\u0000"]
    shape = [3]
    sent = {"name": "x", "datatype": datatype, "shape": shape, "data": values}
    body = {"parameters": {"signature_name": datatype}, "inputs": [sent]}
    response, found = ask(echo, "POST", "/v2/models/echo/infer", body)
    assert response.status == 200, found
    (output,) = found["outputs"]
    assert (output["datatype"], output["shape"]) == (datatype, shape)
    expected = values if datatype == "BYTES" else array.tolist()
    assert np.array(output["data"], array.dtype).tolist() == expected


def read(shape, data, datatype="INT32"):
    sent = {"name": "x", "datatype": datatype, "shape": shape, "data": data}
    request, _ = infer_json.read_request(json.dumps({"inputs": [sent]}).encode(), None)
    return np.frombuffer(request.raw_input_contents[0], np.int32).tolist()


def test_rows_may_be_nested_as_the_shape_says():
    for shape in ([2, 3], [3, 2], [6], [1, 6, 1], [2, 1, 3]):
        nested = np.arange(6).reshape(shape).tolist()
        assert read(shape, nested) == read(shape, [0, 1, 2, 3, 4, 5]) == [0, 1, 2, 3, 4, 5]
    assert read([], [7]) == [7]
    assert read([2, 0], [[], []]) == []


@pytest.mark.parametrize(
    ("shape", "data"),
    [
        ([2, 3], [[0, 1], [2, 3], [4, 5]]),
        ([4], [[0, 1], [2, 3]]),
        ([2, 2], [[0, 1], [2]]),
        ([3], [[0, 1], 2]),
        ([2, 2], [[0, 1], 2]),
        ([1], [[[0]]]),
        ([], [[0]]),
        ([2, 2], [[0, 1], [[2], [3]]]),
    ],
)
def test_another_nesting_is_refused(shape, data):
    with pytest.raises(RequestError, match="input x"):
        read(shape, data)


def test_strings_that_are_no_text_are_base64_and_say_so(echo):
    head = {"parameters": {"signature_name": "BYTES"}}
    sent = {"name": "x", "datatype": "BYTES", "shape": [1], "data": ["/wA="]}
    sent["parameters"] = {"content_type": "base64"}
    _, found = ask(echo, "POST", "/v2/models/echo/infer", head | {"inputs": [sent]})
    (output,) = found["outputs"]
    assert output["data"] == ["/wA="]
    assert output["parameters"] == {"content_type": "base64"}


def test_binary_data_follow_the_json(echo):
    strings = b"".join(struct.pack("<I", len(each)) + each for each in (b"ab", b""))
    sent = {"name": "x", "datatype": "BYTES", "shape": [2]}
    sent["parameters"] = {"binary_data_size": len(strings)}
    body = {"parameters": {"signature_name": "BYTES", "binary_data_output": True}, "inputs": [sent]}
    head = json.dumps(body).encode()
    connection = http.client.HTTPConnection(echo.rest_address, timeout=30)
    headers = {"Inference-Header-Content-Length": str(len(head))}
    connection.request("POST", "/v2/models/echo/infer", head + strings, headers)
    response = connection.getresponse()
    text = response.read()
    size = int(response.getheader("Inference-Header-Content-Length"))
    assert text[size:] == strings
    assert json.loads(text[:size])["outputs"][0]["parameters"] == {"binary_data_size": len(strings)}
    connection.close()


BINARY = {"binary_data_size": 9}


@pytest.mark.parametrize(
    ("body", "headers", "words"),
    [
        (b"", {}, "JSON"),
        (b"[]", {}, "object"),
        (b"[" * 100_000, {}, "JSON"),
        ({}, {}, "inputs is missing"),
        ({"inputs": {}}, {}, "inputs must be a list"),
        ({"inputs": [1]}, {}, "list of objects"),
        ({"id": 5, "inputs": []}, {}, "id must be a string"),
        ({"inputs": []}, {}, "input size does not match"),
        ({"inputs": [given(), given()]}, {}, "twice"),
        ({"inputs": [given(name=None)]}, {}, "name is missing"),
        ({"inputs": [given(datatype=7)]}, {}, "datatype must be a string"),
        ({"inputs": [given(datatype="TEXT")]}, {}, "TEXT"),
        ({"inputs": [given(shape=[1.0])]}, {}, "list of sizes"),
        ({"inputs": [given(shape=[True])]}, {}, "list of sizes"),
        ({"inputs": [given(shape=[2**70])]}, {}, "list of sizes"),
        ({"inputs": [given(shape=[2])]}, {}, "1 values"),
        ({"inputs": [given(data=None)]}, {}, "neither data nor"),
        ({"inputs": [given(data="text")]}, {}, "must be a list"),
        ({"inputs": [given(data=[5])]}, {}, "give strings"),
        ({"inputs": [given(data=["?"])]}, {}, "no base64"),
        ({"inputs": [given(parameters=7)]}, {}, "parameters must be an object"),
        ({"inputs": [given(parameters=BINARY)]}, {}, "0 bytes are left"),
        ({"inputs": [given(parameters={"shared_memory_region": "x"})]}, {}, "shared_memory"),
        ({"inputs": [given()], "parameters": {"signature_name": 7}}, {}, "must be a string"),
        ({"inputs": [given()]}, {"Inference-Header-Content-Length": "x"}, "length of the JSON"),
        ({"inputs": [given()]}, {"Inference-Header-Content-Length": "99999"}, "length of the JSON"),
        (b'{"inputs": []}abc', {"Inference-Header-Content-Length": "14"}, "belong to no input"),
    ],
)
def test_a_wrong_body_is_told_what_is_wrong(server, body, headers, words):
    connection = http.client.HTTPConnection(server.rest_address, timeout=30)
    data = body if isinstance(body, bytes) else json.dumps(body)
    connection.request("POST", "/v2/models/demo/infer", data, headers)
    response = connection.getresponse()
    found = json.loads(response.read())
    connection.close()
    assert response.status in (400, 501), found
    assert words in found["error"]


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        ("INT8", 128),
        ("INT32", 1.0),
        ("INT32", True),
        ("UINT64", -1),
        ("UINT64", 2**64),
        ("BOOL", 1),
        ("FP16", 1e5),
        ("FP32", 1e39),
        ("FP32", "1"),
        ("FP32", True),
        ("FP64", 10**400),
        ("FP32", None),
        ("BF16", 1.0),
    ],
)
def test_a_number_that_its_type_cannot_hold_is_refused(echo, datatype, value):
    sent = {"name": "x", "datatype": datatype, "shape": [1], "data": [value]}
    body = {"parameters": {"signature_name": datatype}, "inputs": [sent]}
    response, found = ask(echo, "POST", "/v2/models/echo/infer", body)
    assert response.status == 400
    assert datatype in found["error"]


def test_the_largest_float_may_be_written_short(echo):
    sent = {"name": "x", "datatype": "FP32", "shape": [1], "data": [3.4028235e38]}
    body = {"parameters": {"signature_name": "FP32"}, "inputs": [sent]}
    _, found = ask(echo, "POST", "/v2/models/echo/infer", body)
    assert np.float32(found["outputs"][0]["data"][0]) == np.finfo(np.float32).max


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2", 200),
        ("GET", "/v2/", 200),
        ("GET", "/v2/health/live", 200),
        ("GET", "/v2/health/ready", 200),
        ("HEAD", "/v2/health/ready", 200),
        ("GET", "/v2/models/demo", 200),
        ("GET", "/v2/models/demo/versions/7", 200),
        ("GET", "/v2/models/demo/versions/7/ready", 200),
        ("GET", "/v2/models/demo/versions/8/ready", 404),
        ("GET", "/v2/models/a%2Fb/ready", 404),
        ("GET", "/v2/models/cats", 404),
        ("GET", "/v2/models/demo/versions/99999999999999999999", 400),
        ("GET", "/v2/models", 404),
        ("GET", "/v2/health", 404),
        ("GET", "/v2/models/demo/infer", 405),
        ("POST", "/v2/models/demo", 405),
        ("POST", "/v2/repository/index", 405),
        ("DELETE", "/v2/models/demo", 405),
    ],
)
def test_each_path_has_its_status(server, method, path, status):
    connection = http.client.HTTPConnection(server.rest_address, timeout=30)
    connection.request(method, path)
    response = connection.getresponse()
    text = response.read()
    connection.close()
    assert response.status == status, text
    if method in ("GET", "POST"):
        assert ("error" in json.loads(text)) == (status >= 400 and "ready" not in path)


def test_a_signature_without_a_datatype_is_told(echo):
    response, found = ask(echo, "GET", "/v2/models/echo")
    assert response.status == 501
    assert "no signature serving_default" in found["error"]
    sent = {"name": "x", "datatype": "FP32", "shape": [1], "data": [1.0]}
    body = {"parameters": {"signature_name": "complex"}, "inputs": [sent]}
    assert ask(echo, "POST", "/v2/models/echo/infer", body)[0].status == 400


def test_admission_is_shared_and_health_is_answered_all_the_same(server, monkeypatch):
    monkeypatch.setattr(AdmissionController, "full", True)
    response, found = ask(server, "POST", "/v2/models/demo/infer", {"inputs": [given()]})
    assert (response.status, "try again later" in found["error"]) == (503, True)
    request = oip.ModelInferRequest(model_name="demo")
    with pytest.raises(grpc.RpcError) as caught:
        infer(server, request)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert ask(server, "GET", "/v2/health/live")[0].status == 200
    with grpc.insecure_channel(server.address) as channel:
        method = channel.unary_unary(
            f"/{oip.SERVICE}/ServerLive",
            request_serializer=oip.ServerLiveRequest.SerializeToString,
            response_deserializer=oip.ServerLiveResponse.FromString,
        )
        assert method(oip.ServerLiveRequest(), timeout=20).live


def test_a_body_above_the_limit_is_413(server):
    body = {"inputs": [given(data=["A" * (2 << 20)])]}
    response, found = ask(server, "POST", "/v2/models/demo/infer", body)
    assert (response.status, "larger than" in found["error"]) == (413, True)


def test_requests_are_counted_with_the_others(server):
    def count():
        connection = http.client.HTTPConnection(server.rest_address, timeout=30)
        connection.request("GET", "/monitoring/prometheus/metrics")
        lines = connection.getresponse().read().decode().splitlines()
        connection.close()
        return sum(
            float(line.split()[-1])
            for line in lines
            if line.startswith(":tensorflow:serving:request_count{") and '"demo"' in line
        )

    before = count()
    assert ask(server, "POST", "/v2/models/demo/infer", {"inputs": [given()]})[0].status == 200
    assert ask(server, "POST", "/v2/models/demo/infer", {"inputs": []})[0].status == 400
    assert count() == before + 2


def draw_request(rng, good):
    """Returns a request that is wrong in some way, as bytes or as JSON."""
    if rng.random() < 0.2:  # some bytes of a good message are changed
        data = bytearray(good)
        for place in rng.integers(0, len(data), rng.integers(1, 6)):
            data[place] = rng.integers(256)
        return bytes(data)
    request = oip.ModelInferRequest(model_name="echo")
    request.parameters["signature_name"].string_param = str(rng.choice([*KINDS, "BF16", "none"]))
    for _ in range(rng.integers(0, 3)):
        tensor = request.inputs.add(name=str(rng.choice(["x", "x", "z"])))
        tensor.datatype = str(rng.choice([*KINDS, "BF16", "", "fp32"]))
        tensor.shape.extend(rng.choice([0, 1, 3, 3, -1, 2**40], rng.integers(0, 4)).tolist())
        if rng.random() < 0.5:
            tensor.contents.int_contents.extend(rng.integers(-300, 300, 3).tolist())
        else:
            request.raw_input_contents.append(rng.bytes(rng.integers(0, 30)))
    return request.SerializeToString()


@pytest.mark.slow
def test_wrong_requests_hurt_nobody(echo):
    rng = np.random.default_rng(0)
    good = typed("FP32", [1.0, 2.0]).SerializeToString()
    codes = set()
    with grpc.insecure_channel(echo.address) as channel:
        method = channel.unary_unary(f"/{oip.SERVICE}/ModelInfer")
        for _ in range(3000):
            try:
                method(draw_request(rng, good), timeout=20)
            except grpc.RpcError as error:
                codes.add(error.code())
            assert method(good, timeout=20)
    expected = {"INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "UNIMPLEMENTED"}
    assert {code.name for code in codes} <= expected
    assert grpc.StatusCode.INVALID_ARGUMENT in codes
