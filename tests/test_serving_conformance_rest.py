"""REST's answers and errors are TensorFlow Serving's, at the version that serving/.env names.

With TARGET=HOST:PORT of gRPC and REST=HOST:PORT another server is asked; see
test_serving_conformance.py. The expected texts are from util/json_tensor.cc, and from
http_rest_api_handler.cc, http_rest_api_util.cc and http_server.cc in model_servers.
"""

import base64
import gzip
import json
import math
import os
import re

import numpy as np
import pytest
from serving_demo import IMAGE, ask, day_probability, demo, png

MODEL = "/v1/models/demo"
PREDICT = f"{MODEL}:predict"


@pytest.fixture(scope="module")
def address():
    if "TARGET" in os.environ and not os.environ.get("REST"):
        pytest.skip("REST=HOST:PORT is needed beside TARGET")
    return os.environ.get("REST") or demo().rest_address


def b64(data):
    return {"b64": base64.b64encode(data).decode()}


def signature(name, **body):
    return {"signature_name": name, **body}


def echo(*values):
    return signature("echo", instances=list(values))


NIGHT, DAY = png(20), png(200)
P_NIGHT, P_DAY = (pytest.approx(day_probability(each), abs=1e-6) for each in (NIGHT, DAY))
TEXT = [["a", "é"], ["", "\N{PILE OF POO}"]]
COLUMNS = {"inputs": {"a": [1.5, 2], "b": [1, -1]}}
ROWS = {"instances": [{"a": 1.5, "b": 1}, {"a": 2, "b": -1}]}


# Requests to predict, and the answers.
ANSWERS = {
    "rows without names": (echo(1.5, 2), {"predictions": [1.5, 2]}),
    "rows with names": (echo({"x": 1.5}, {"x": 2}), {"predictions": [1.5, 2]}),
    "columns without names": (signature("echo", inputs=[1.5, 2]), {"outputs": [1.5, 2]}),
    "columns with names": (signature("echo", inputs={"x": [1.5]}), {"outputs": [1.5]}),
    "more columns than inputs": (signature("echo", inputs={"x": [1], "z": 3}), {"outputs": [1]}),
    "several outputs in rows": (
        signature("add", **ROWS),
        {"predictions": [{"sum": 2.5, "half": 0.75}, {"sum": 1, "half": 1}]},
    ),
    "several outputs in columns": (
        signature("add", **COLUMNS),
        {"outputs": {"sum": [2.5, 1], "half": [0.75, 1]}},
    ),
    "rows that are lists": (
        signature("pixels", instances=[[1, 255], [0, 7]]),
        {"predictions": [{"pixels": [1, 255], "rows": 256}, {"pixels": [0, 7], "rows": 7}]},
    ),
    "text": (signature("text", instances=TEXT), {"predictions": TEXT}),
    "the default signature": (
        {"instances": [b64(DAY)]},
        {
            "predictions": [
                {
                    "probabilities": [pytest.approx(1 - day_probability(DAY), abs=1e-6), P_DAY],
                    "class_index": 1,
                    "class_name": "day",
                    "probability": P_DAY,
                }
            ]
        },
    ),
    "other keys": ({**echo(1), "parameters": {"x": None}}, {"predictions": [1]}),
    "an integer that float32 rounds": (
        echo(16777217, 1435774380),
        {"predictions": [2**24, 1435774336]},
    ),
    "an integer of more than 64 bits": (echo(2**70), {"predictions": [2**70]}),
    "a number too large for float32": (echo(1e39, -1e39), {"predictions": [math.inf, -math.inf]}),
    "a number too small for float32": (echo(1e-300), {"predictions": [0]}),
    "infinity": (echo(math.inf, -math.inf), {"predictions": [math.inf, -math.inf]}),
    "short infinity": (
        rb'{"signature_name": "echo", "\"[Inf": "\\", "instances": [Inf, -Inf, Infinity]}',
        {"predictions": [math.inf, -math.inf, math.inf]},
    ),
    "base64 with line breaks": (
        signature("raw", instances=[[{"b64": "YWJj\nZGVm\r\n"}, {"b64": " YW\tJj "}]]),
        {"predictions": [[b64(b"abcdef"), b64(b"abc")]]},
    ),
    "base64 without padding": (
        signature("raw", instances=[[{"b64": "YWI"}, {"b64": "YQ"}, {"b64": ""}]]),
        {"predictions": [[b64(b"ab"), b64(b"a"), b64(b"")]]},
    ),
    "bytes that are no UTF-8": (
        b'{"signature_name": "raw", "instances": [["\xff\xc3"]]}',
        {"predictions": [[b64(b"\xff\xc3")]]},
    ),
    "escapes": (
        rb'{"signature_name": "text", "instances": [["\u00e9\ud83d\ude00\/\n\\ud800"]]}',
        {"predictions": [["é\N{GRINNING FACE}/\n\\ud800"]]},
    ),
    "a byte order mark": (
        b'\xef\xbb\xbf {"signature_name": "echo", "inputs": [1]}',
        {"outputs": [1]},
    ),
    "more after the object": (b'{"signature_name": "echo", "inputs": [1]} ]X', {"outputs": [1]}),
}


@pytest.mark.parametrize(("body", "expected"), ANSWERS.values(), ids=ANSWERS)
def test_predict(address, body, expected):
    status, found, headers = ask(address, "POST", PREDICT, body)
    assert (status, headers["Content-Type"]) == (200, "application/json"), found
    assert json.loads(found, parse_float=float32) == expected


def float32(text):
    return float(np.float32(text))


def test_nan_is_written_as_such(address):
    status, found, _ = ask(address, "POST", PREDICT, echo(math.nan, 1, math.inf, -math.inf))
    assert status == 200
    numbers = re.search(rb"\[(.*?)\]", found, re.DOTALL)[1]
    assert [each.strip() for each in numbers.split(b",")] == [
        b"NaN",
        b"1.0",
        b"Infinity",
        b"-Infinity",
    ]


def test_an_answer_has_the_digits_of_float32(address):
    values = np.random.default_rng(0).standard_normal(99).astype(np.float32) * 1e-3
    found = json.loads(ask(address, "POST", PREDICT, echo(*map(float, values)))[1])
    np.testing.assert_array_equal(np.array(found["predictions"], np.float32), values)


@pytest.mark.parametrize("where", ["", "/versions/7", "/versions/007"])
def test_classify_and_regress(address, where):
    path = f"/V1/MODELS/demo{where}"  # the case counts in the name and the method
    examples = [{"image/encoded": b64(DAY)}, {"image/encoded": [b64(NIGHT)]}]
    body = signature("by_class", examples=examples)
    status, found, _ = ask(address, "POST", f"{path}:classify", body)
    assert status == 200, found
    day, night = json.loads(found)["results"]
    assert day == [["night", pytest.approx(1 - day_probability(DAY), abs=1e-6)], ["day", P_DAY]]
    assert night[1] == ["day", P_NIGHT]
    body = signature("by_value", context=examples[0], examples=[{}, examples[1], {"other": 2**64}])
    status, found, _ = ask(address, "POST", f"{path}:regress", body)
    assert (status, json.loads(found)) == (200, {"results": [P_DAY, P_NIGHT, P_DAY]})


@pytest.mark.parametrize("where", ["", "/versions/7", "/labels/any", "/METADATA"])
def test_status(address, where):
    status, found, headers = ask(address, "GET", MODEL + where)
    assert (status, headers["Content-Type"]) == (200, "application/json")
    ok = {"error_code": "OK", "error_message": ""}
    state = {"version": "7", "state": "AVAILABLE", "status": ok}
    assert json.loads(found) == {"model_version_status": [state]}


@pytest.mark.parametrize("where", ["", "/versions/7"])
def test_metadata(address, where):
    status, found, headers = ask(address, "GET", f"{MODEL}{where}/metadata")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    found = json.loads(found)
    assert found["model_spec"] == {"name": "demo", "signature_name": "", "version": "7"}
    assert found["metadata"]["signature_def"]["signature_def"]["echo"]["inputs"] == {
        "x": {
            "dtype": "DT_FLOAT",
            "tensor_shape": {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False},
            "name": "echo_x:0",
        }
    }


def test_gzip(address):
    body = gzip.compress(json.dumps(echo(1.5)).encode())
    given = {"Content_Encoding": "gzip", "Accept_Encoding": "gzip, br"}
    status, found, headers = ask(address, "POST", PREDICT, body, **given)
    assert (status, json.loads(found)) == (200, {"predictions": [1.5]})
    assert "Content-Encoding" not in headers  # answers are never compressed
    assert ask(address, "POST", PREDICT, b"x" * 99, Content_Encoding="gzip")[0] == 400
    plain = json.dumps(echo(1.5))
    assert ask(address, "POST", PREDICT, plain, Content_Encoding="utf-8")[0] == 200


def failed(place, what, key="", code="INVALID_ARGUMENT"):
    key = f" key: {key}" if key else ""
    return f"Failed to process element: {place}{key} of 'instances' list. Error: {code}: {what}"


DOCUMENT = '{\n    "signature_name": "echo",\n    %s\n}'
NUMBER = "JSON Value: %s Type: %s is not of expected type: float"
NOT_FOUND = "Servable not found for request: Latest(%s)"
LARGEST = 2**63

# Bodies of predict, and the error with status 400.
PREDICT_MISTAKES = [
    (b"", "JSON Parse error: The document is empty"),
    (b" \n", "JSON Parse error: The document is empty. at offset: 2"),
    (b"instances = [1, 2]", "JSON Parse error: Invalid value. at offset: 0"),
    (b"{", "JSON Parse error: Missing a name for object member. at offset: 1"),
    (b'{"a"}', "JSON Parse error: Missing a colon after a name of object member. at offset: 4"),
    (b'{"a": 1', "JSON Parse error: Missing a comma or '}' after an object member. at offset: 7"),
    (b'{"a": 1,}', "JSON Parse error: Missing a name for object member. at offset: 8"),
    (
        b'{"a": [1 2]}',
        "JSON Parse error: Missing a comma or ']' after an array element. at offset: 9",
    ),
    (b'{"a": [1, ]}', "JSON Parse error: Invalid value. at offset: 10"),
    ('{"é": [1. ]}'.encode(), "JSON Parse error: Miss fraction part in number. at offset: 10"),
    (b'{"a": 1e }', "JSON Parse error: Miss exponent in number. at offset: 8"),
    (b'{"a": "b', "JSON Parse error: Missing a closing quotation mark in string. at offset: 8"),
    (rb'{"a": "\x"}', "JSON Parse error: Invalid escape character in string. at offset: 7"),
    (
        rb'{"a": "\u00g0"}',
        "JSON Parse error: Incorrect hex digit after \\u escape in string. at offset: 7",
    ),
    (
        rb'{"a": "b\ud800"}',
        "JSON Parse error: The surrogate pair in string is invalid. at offset: 8",
    ),
    (b'{"a": 1e400}', re.compile("JSON Parse error: Number too big to be stored in double.*")),
    ([1], "JSON Value: [1] Is not object"),
    ({}, "Missing 'inputs' or 'instances' key"),
    ({"signature_name": "x"}, 'Serving signature name: "x" not found in signature def'),
    (
        {"signature_name": 1},
        'JSON Value: {\n    "signature_name": 1\n} not formatted correctly.'
        " 'signature_name' key must be a string value.",
    ),
    (
        signature("echo", instances=[1], inputs=[1]),
        f"JSON Value: {DOCUMENT} Not formatted correctly expecting only one of 'inputs' or"
        " 'instances' keys to exist " % '"instances": [1],\n    "inputs": [1]',
    ),
    (
        signature("echo", instances={"x": [1, None]}),
        f"JSON Value: {DOCUMENT} Expecting 'instances' to be an list/array"
        % '"instances": {\n        "x": [1, null]\n    }',
    ),
    (
        signature("echo", instances=[]),
        f"JSON Value: {DOCUMENT} No values in 'instances' array" % '"instances": []',
    ),
    (echo(1, "2"), failed(1, NUMBER % ('"2"', "String"))),
    (echo({"x": True}), failed(0, NUMBER % ("true", "True"), "x")),
    (echo(None), failed(0, NUMBER % ("null", "Null"))),
    (
        signature("echo", inputs=[1, {"b64": "AA=="}]),
        NUMBER % ('{\n    "b64": "AA=="\n}', "Object"),
    ),
    (signature("echo", inputs=["x" * 300]), NUMBER % (f'"{"x" * 300}"', "String")),
    (echo([1, 2], [1]), failed(1, "Expecting tensor size: 2 but got: 1")),
    (echo([[1, 2]], [[1], [2]]), failed(1, "Expecting shape [1,2] but got: [2,1]")),
    (
        echo([[1, 2], [3]]),
        failed(0, "Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
    ),
    (echo([1, [2]]), failed(0, "Encountered list at unexpected level: 1 expected < 1")),
    (
        echo([[1], 2]),
        failed(
            0, "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2"
        ),
    ),
    (echo({"z": 1}), failed(0, "JSON object: does not have named input: z", "z")),
    (
        signature("add", instances=[{"a": 1}]),
        "Failed to process element: 0 of 'instances' list. JSON object: {\n    \"a\": 1\n} keys"
        " must be equal to: a,b",
    ),
    (echo({"x": 1}, 2), "Expecting object but got list at item 1 of input list"),
    (echo(1, {"x": 2}), "Expecting value/list but got object at item 1 of input list"),
    (
        signature("add", instances=[1]),
        "instances is a plain list, but expecting list of objects as multiple input tensors"
        " required as per tensorinfo_map",
    ),
    (
        signature("add", inputs=[1]),
        "inputs is a plain value/list, but expecting an object as multiple input tensors required"
        " as per tensorinfo_map",
    ),
    (signature("add", inputs={"a": [1]}), "Missing named input: b in 'inputs' object."),
    (
        signature("add", inputs={"a": [1], "b": [1.0]}),
        "JSON Value: 1.0 Type: Number is not of expected type: int32",
    ),
    (
        signature("add", inputs={"a": [1], "b": [2**31]}),
        "JSON Value: 2147483648 Type: Number is not of expected type: int32",
    ),
    (
        signature("raw", inputs=[[{"b64": 3}]]),
        'JSON Value: {\n    "b64": 3\n} not formatted correctly for base64 data',
    ),
    (signature("raw", inputs=[[{"b64": "YQ=a"}]]), "Unable to base64 decode"),
    (signature("raw", inputs=[[{"b64": "YWJjZ"}]]), "Unable to base64 decode"),
    ({"instances": [{"b64": "?"}]}, failed(0, "Unable to base64 decode")),
    (
        {"instances": [{"b64": "data:image/png;base64,AAAA"}]},
        re.compile(re.escape(failed(0, "Unable to base64 decode")) + ".*"),
    ),
    (
        signature("from_half", instances=[1]),
        failed(0, "Conversion of JSON Value: 1 to type: half", code="UNIMPLEMENTED"),
    ),
    (signature("to_half", instances=[1]), "Failed to write JSON value for tensor type: half"),
    ({"instances": [b64(IMAGE[:30])]}, re.compile(r"Invalid PNG\..*")),
    (signature("slow", instances=[2]), re.compile(".*")),  # a scalar has no rows
]


@pytest.mark.parametrize(("body", "message"), PREDICT_MISTAKES)
def test_mistakes_in_predict(address, body, message):
    check_error(ask(address, "POST", PREDICT, body), 400, message)


def check_error(answer, status, message):
    found_status, body, headers = answer
    assert (found_status, headers["Content-Type"]) == (status, "application/json"), body
    (found,) = json.loads(body).items()
    assert found[0] == "error"
    if isinstance(message, re.Pattern):
        assert message.fullmatch(found[1]), found[1]
    else:
        assert found[1] == message


def examples(*given, **more):
    return {"examples": list(given), **more}


FEATURE = "Feature: a has element with unexpected JSON type: "
KIND = "Unexpected element type in feature: a expecting type: "

# Other requests: method, path, body, status, error.
MISTAKES = [
    (
        "POST",
        ":predict",
        signature("from_half", inputs=[1]),
        501,
        "Conversion of JSON Value: 1 to type: half",
    ),
    (
        "POST",
        ":classify",
        {},
        400,
        "JSON Value: {} When method is classify, key 'examples' is expected and was not found",
    ),
    (
        "POST",
        ":regress",
        {"examples": 3},
        400,
        "JSON Value: {\n    \"examples\": 3\n} Expecting 'examples' value to be an list/array",
    ),
    (
        "POST",
        ":regress",
        examples(),
        400,
        "JSON Value: {\n    \"examples\": []\n} 'examples' value is an empty array",
    ),
    ("POST", ":regress", examples(3), 400, "Example must be JSON object but got JSON Number"),
    (
        "POST",
        ":regress",
        examples({}, context=[]),
        400,
        "Example must be JSON object but got JSON Array",
    ),
    ("POST", ":regress", examples({"a": None}), 400, FEATURE + "Null"),
    ("POST", ":regress", examples({"a": [[1]]}), 400, FEATURE + "Array"),
    ("POST", ":regress", examples({"a": {"x": 1}}), 400, FEATURE + "Object"),
    ("POST", ":regress", examples({"a": [True, 0.5]}), 400, KIND + "int64"),
    ("POST", ":regress", examples({"a": [2**64, 1]}), 400, KIND + "float"),
    ("POST", ":regress", examples({"a": ["x", 1]}), 400, KIND + "bytes"),
    ("POST", ":regress", examples({"a": {"b64": "?"}}), 400, "Unable to base64 decode"),
    (
        "POST",
        ":regress",
        examples({"a": 2**63}),
        400,
        "Feature: a has uint64_t element. Only int64_t is supported.",
    ),
    (
        "POST",
        ":classify",
        examples({}, signature_name="x"),
        400,
        "No signature was found with the name: x",
    ),
    ("POST", "x:predict", echo(1), 404, NOT_FOUND % "demox"),
    ("POST", "%2Fx%3Ay:predict", echo(1), 404, NOT_FOUND % "demo/x:y"),
    ("POST", "%zz:predict", echo(1), 404, NOT_FOUND % "demo%zz"),
    ("POST", "+x:predict", echo(1), 404, NOT_FOUND % "demo+x"),
    (
        "POST",
        "/versions/8:predict",
        echo(1),
        404,
        "Servable not found for request: Specific(demo, 8)",
    ),
    (
        "POST",
        f"/versions/{LARGEST}:predict",
        {},
        400,
        f"Failed to convert version: {LARGEST} to numeric.",
    ),
    (
        "POST",
        f"/versions/{'9' * 5000}:predict",
        {},
        400,
        re.compile("Failed to convert version: 9+.*"),
    ),
    ("POST", "/labels/a%2Fb:predict", echo(1), 400, "Unrecognized servable version label: a/b"),
    ("POST", "x:predict", b"", 400, "JSON Parse error: The document is empty"),
    ("POST", "x:classify", examples({}), 404, NOT_FOUND % "demox"),
    ("GET", "x", None, 404, "Could not find any versions of model demox"),
    ("GET", "?x=1", None, 404, "Could not find any versions of model demo?x=1"),
    ("GET", "/versions/8", None, 404, "Could not find version 8 of model demo"),
    ("GET", "x/metadata", None, 404, NOT_FOUND % "demox"),
    ("GET", "/versions/8/metadata", None, 404, "Servable not found for request: Specific(demo, 8)"),
]


@pytest.mark.parametrize(("method", "where", "body", "status", "message"), MISTAKES)
def test_mistakes(address, method, where, body, status, message):
    check_error(ask(address, method, MODEL + where, body), status, message)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", f"{MODEL}:explode"),
        ("POST", f"{MODEL}:Predict"),
        ("POST", f"{MODEL}:predict/"),
        ("POST", f"{MODEL}:predict?x=1"),
        ("POST", MODEL),
        ("POST", f"{MODEL}/metadata"),
        ("POST", f"{MODEL}/version/7:predict"),
        ("POST", f"{MODEL}/versions/new:predict"),
        ("POST", f"{MODEL}/versions/-7:predict"),
        ("POST", f"{MODEL}/versions/7/labels/x:predict"),
        ("POST", "/v1/models/a/b:predict"),
        ("POST", "/v1/"),
        ("GET", f"{MODEL}:predict"),
        ("GET", f"{MODEL}/"),
        ("GET", f"{MODEL}/x"),
        ("GET", "/v1/foo"),
        ("DELETE", MODEL),
        ("PUT", f"{MODEL}:predict"),
        ("PATCH", "/v1/models"),
    ],
)
def test_other_paths_are_malformed(address, method, path):
    check_error(ask(address, method, path), 400, f"Malformed request: {method} {path}")


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/versions/7", "/v1/models/labels/a"])
def test_all_models_are_not_listed(address, path):
    check_error(ask(address, "GET", path), 400, "Missing model name in request.")


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v10/models/demo", "/v1%2Fmodels/demo", "/index.html"]
)
def test_unknown_paths_are_not_found(address, path):
    for method in ("GET", "POST", "DELETE", "OPTIONS"):
        assert ask(address, method, path)[0] == 404


def test_other_methods(address):
    assert ask(address, "HEAD", MODEL)[:2] == (400, b"")
    assert ask(address, "OPTIONS", PREDICT)[:2] == (400, b"")
    status, found, headers = ask(address, "OPTIONS", PREDICT, Origin="https://x.org")
    assert (status, found) == (200, b"")
    assert "Access-Control-Allow-Origin" not in headers  # without its flag
    assert ask(address, "TRACE", MODEL)[0] == 501
    assert ask(address, "TRACE", "/index.html")[0] == 501
