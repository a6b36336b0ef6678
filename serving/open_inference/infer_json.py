"""ModelInfer's JSON, with the extension for binary data.

Source: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md

    POST /v2/models/demo/infer HTTP/1.1
    Inference-Header-Content-Length: 142         length of the JSON; without it all is JSON
    Content-Length: 5380

    {"inputs": [{"name": "image_bytes", "datatype": "BYTES", "shape": [1],
                 "parameters": {"binary_data_size": 5238}}]}(5238 bytes)
"""

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from google.protobuf.message import Message

from serving import json_api
from serving.open_inference import messages as oip
from serving.open_inference import tensors
from serving.open_inference.tensors import LARGEST_SIZE
from tfpipe.protocol.errors import invalid

HEADER_LENGTH = "Inference-Header-Content-Length"

_SIZE, _BINARY, _ALL_BINARY = "binary_data_size", "binary_data", "binary_data_output"
# As in MLServer: strings are base64.
_CONTENT_TYPE, _BASE64 = "content_type", "base64"


def read_request(body: bytes, header_length: str | None) -> tuple[Message, Callable[[str], bool]]:
    """Return the ModelInferRequest in a body.

    Args:
        body: the JSON, and then the binary data.
        header_length: bytes of the JSON; None if there is no binary data.

    Returns:
        The request, with raw contents and without the model; and a function that says whether an
        output is wanted as binary data.

    Raises:
        RequestError: the body has not this form.
    """
    given, binary = _split(body, header_length)
    request = oip.ModelInferRequest(id=_field(given, "id", str, ""))
    parameters = _copy_parameters(given, request)
    for each in _objects(given, "inputs"):
        tensor = request.inputs.add(
            name=_field(each, "name", str), datatype=_field(each, "datatype", str)
        )
        tensor.shape.extend(_shape(each, tensor.name))
        raw, binary = _raw(each, _copy_parameters(each, tensor), tensor, binary)
        request.raw_input_contents.append(raw)
    if binary:
        raise invalid(f"{len(binary):,} bytes of binary data belong to no input")
    everything = bool(parameters.get(_ALL_BINARY, False))
    is_binary = {}
    for each in _objects(given, "outputs", []):
        output = request.outputs.add(name=_field(each, "name", str))
        is_binary[output.name] = _copy_parameters(each, output).get(_BINARY, everything)
    return request, lambda name: bool(is_binary.get(name, everything))


def write_response(response: Message, is_binary: Callable[[str], bool]) -> tuple[bytes, int | None]:
    """Return a ModelInferResponse as a body, and the bytes of its JSON if binary data follows.

    Args:
        response: with raw contents.
        is_binary: says whether an output is wanted as binary data.
    """
    outputs: list[dict[str, Any]] = []
    binary = b""
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        shown: dict[str, Any] = {
            "name": output.name,
            "datatype": output.datatype,
            "shape": [*output.shape],
        }
        if is_binary(output.name):
            shown["parameters"] = {_SIZE: len(raw)}
            binary += raw
        else:
            shown |= _as_json(tensors.to_array(output.name, output.datatype, output.shape, raw))
        outputs.append(shown)
    found = {"model_name": response.model_name, "model_version": response.model_version}
    if response.id:
        found["id"] = response.id
    text = json.dumps(found | {"outputs": outputs}).encode()
    has_binary = any(_SIZE in each.get("parameters", ()) for each in outputs)
    return text + binary, len(text) if has_binary else None


def _split(body: bytes, header_length: str | None) -> tuple[dict[str, Any], bytes]:
    if header_length is None:
        return json_api.parse(body), b""
    if not header_length.isdecimal() or int(header_length) > len(body):
        raise invalid(
            f"{HEADER_LENGTH} is {header_length:.20}: give the length of the JSON, at most the"
            f" body's {len(body):,} bytes"
        )
    return json_api.parse(body[: int(header_length)]), body[int(header_length) :]


def _field(given: Mapping[str, Any], key: str, kind: type, default: Any = None) -> Any:
    """Return the value of a key; raises RequestError if it is missing or of another type."""
    value = given.get(key, default)
    if isinstance(value, kind):
        return value
    name = {str: "a string", list: "a list", dict: "an object"}[kind]
    raise invalid(f"{key} must be {name}" if key in given else f"{key} is missing")


def _objects(given: Mapping[str, Any], key: str, default: Any = None) -> list[dict[str, Any]]:
    found = _field(given, key, list, default)
    if not all(isinstance(each, dict) for each in found):
        raise invalid(f"{key} must be a list of objects")
    return found


def _copy_parameters(given: Mapping[str, Any], into: Message) -> dict[str, Any]:
    """Copy those parameters into a message that its fields can hold; return all of them."""
    parameters = _field(given, "parameters", dict, {})
    for name, value in parameters.items():
        parameter = into.parameters[name]
        if isinstance(value, bool):
            parameter.bool_param = value
        elif isinstance(value, str):
            parameter.string_param = value
    return parameters


def _shape(given: Mapping[str, Any], name: str) -> list[int]:
    found = _field(given, "shape", list)
    if all(type(size) is int and 0 <= size <= LARGEST_SIZE for size in found):
        return found
    raise invalid(f"the shape of input {name} must be a list of sizes")


def _raw(
    given: Mapping[str, Any], parameters: Mapping[str, Any], tensor: Message, binary: bytes
) -> tuple[bytes, bytes]:
    """Return the values of an input, and the binary data that follow it."""
    if _SIZE in parameters:
        size = parameters[_SIZE]
        if type(size) is not int or not 0 <= size <= len(binary):
            raise invalid(
                f"input {tensor.name}: {_SIZE} is {size!r:.20}, and {len(binary):,} bytes are left"
            )
        if "data" in given:
            raise invalid(f"input {tensor.name} has both data and {_SIZE}")
        return binary[:size], binary[size:]
    if "data" not in given:
        raise invalid(f"input {tensor.name} has neither data nor {_SIZE}")
    values = tensors.flatten(tensor.name, tensor.shape, given["data"])
    if tensor.datatype == "BYTES":
        is_base64 = parameters.get(_CONTENT_TYPE) == _BASE64
        values = [_string(tensor.name, value, is_base64=is_base64) for value in values]
    return tensors.raw_of(tensor.name, tensor.datatype, tensor.shape, values), binary


def _string(name: str, value: Any, *, is_base64: bool) -> bytes:
    if not isinstance(value, str):
        raise invalid(f"input {name}: {value!r:.40} is no value of BYTES; give strings")
    if not is_base64:
        return value.encode("utf-8", "surrogatepass")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise invalid(f"input {name} is no base64, which its {_CONTENT_TYPE} says") from None


def _as_json(array: np.ndarray) -> dict[str, Any]:
    """Return the values as `data`, and the parameters that say how to read them."""
    values = array.ravel().tolist()
    if array.dtype == object:
        try:
            return {"data": [value.decode() for value in values]}
        except UnicodeDecodeError:
            encoded = [base64.b64encode(value).decode() for value in values]
            return {"data": encoded, "parameters": {_CONTENT_TYPE: _BASE64}}
    if array.dtype.kind == "f" and array.dtype.itemsize < 8:
        values = [float(str(value)) for value in array.ravel()]  # 0.2, not 0.20000000298
    return {"data": values}
