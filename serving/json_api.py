"""Converts the JSON of TensorFlow Serving's REST API to messages and back.

Source: https://www.tensorflow.org/tfx/serving/api_rest. "instances" lists the rows of a batch,
"inputs" has whole tensors, {"b64": ...} is bytes, and NaN and Infinity are written as such.
"""

import base64
import binascii
import contextlib
import functools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfpipe.protocol import messages, tensors
from tfpipe.protocol.errors import invalid

INSTANCES, INPUTS = "instances", "inputs"
_B64 = "b64"
_BYTES = "_bytes"  # an output with this ending is written in base64
_STANDARD = str.maketrans("-_", "+/")  # from the alphabet for URLs
_DEEPEST = 32  # nested lists; a tensor has fewer dimensions

_types = messages.types_pb2


def parse(body: bytes) -> dict[str, Any]:
    """Return the JSON object in `body`; raises RequestError."""
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise invalid(f"JSON Parse error: {error}") from None
    if not isinstance(found, dict):
        raise invalid(f"JSON Value: {_shown(found)} Is not object")
    return found


def signature_of(body: Mapping[str, Any]) -> str:
    """Return the requested signature, "" for the default."""
    name = body.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid(
            f"JSON Value: {_shown(body)} not formatted correctly. 'signature_name' key must be a"
            " string value."
        )
    return name


def read_tensors(
    body: Mapping[str, Any], inputs: Mapping[str, Any]
) -> tuple[dict[str, messages.TensorProto], bool]:
    """Return the tensors of a predict request.

    Args:
        body: the JSON object.
        inputs: the TensorInfo of each input of the signature.

    Returns:
        The tensors by input, and whether they were given as rows ("instances").

    Raises:
        RequestError: they are missing, or do not fit the inputs.
    """
    if INSTANCES in body and INPUTS in body:
        raise invalid(
            f"JSON Value: {_shown(body)} Not formatted correctly expecting only one of"
            f" '{INPUTS}' or '{INSTANCES}' keys to exist "
        )
    if INSTANCES in body:
        return _rows(body[INSTANCES], inputs), True
    if INPUTS in body:
        return _columns(body[INPUTS], inputs), False
    raise invalid(f"Missing '{INPUTS}' or '{INSTANCES}' key")


def write_tensors(outputs: Mapping[str, messages.TensorProto], *, as_rows: bool) -> bytes:
    """Return the outputs of predict as JSON, as rows ("predictions") or tensors ("outputs").

    Raises:
        RequestError: rows are wanted, and the outputs do not all have the same number of rows.
    """
    arrays = {alias: tensors.from_proto(proto) for alias, proto in outputs.items()}
    values = {alias: _listed(alias, array) for alias, array in arrays.items()}
    if not as_rows:
        found = next(iter(values.values())) if len(values) == 1 else values
        return _dumped({"outputs": found})
    sizes = {}
    for alias, array in arrays.items():
        if array.ndim == 0:
            raise invalid(f"Tensor name: {alias} has no shape information ")
        sizes[alias] = len(array)
    if len(set(sizes.values())) > 1:
        raise invalid(f"Tensors have inconsistent batch sizes: {sizes}")
    if len(values) == 1:
        return _dumped({"predictions": next(iter(values.values()))})
    rows = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
    return _dumped({"predictions": rows})


def read_examples(body: Mapping[str, Any], into: messages.Input) -> None:
    """Read the examples of a classify or regress request; raises RequestError."""
    examples = body.get("examples")
    if examples is None:
        raise invalid(
            f"JSON Value: {_shown(body)} When method is classify, key 'examples' is expected and"
            " was not found"
        )
    if not isinstance(examples, list):
        raise invalid(f"JSON Value: {_shown(body)} Expecting 'examples' value to be an list/array")
    if not examples:
        raise invalid(f"JSON Value: {_shown(body)} 'examples' value is an empty array")
    if "context" in body:
        _fill_example(body["context"], into.example_list_with_context.context)
        found = into.example_list_with_context.examples
    else:
        found = into.example_list.examples
    for each in examples:
        _fill_example(each, found.add())


def write_result(result: messages.ClassificationResult | messages.RegressionResult) -> bytes:
    """Return the answer of classify or regress as JSON.

    An example has a list of [label, score] in the one, a number in the other.
    """
    if isinstance(result, messages.RegressionResult):
        return _dumped({"results": [_shortest(each.value) for each in result.regressions]})
    rows = [
        [[c.label, _shortest(c.score)] for c in each.classes] for each in result.classifications
    ]
    return _dumped({"results": rows})


def write_error(message: str) -> bytes:
    """Return the JSON of an error."""
    return json.dumps({"error": message}).encode()


def _rows(instances: Any, inputs: Mapping[str, Any]) -> dict[str, messages.TensorProto]:
    if not isinstance(instances, list):
        raise invalid(
            f"JSON Value: {_shown(instances)} Excepting '{INSTANCES}' to be an list/array"
        )
    if not instances:
        raise invalid(f"No values in '{INSTANCES}' array")
    named = _is_named(instances[0])
    if not named and len(inputs) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors"
            " required as per tensorinfo_map"
        )
    columns: dict[str, list] = {alias: [] for alias in inputs}
    for place, each in enumerate(instances):
        if _is_named(each) != named:
            what = "object but got list" if named else "value/list but got object"
            raise invalid(f"Expecting {what} at item {place} of input list")
        if named and each.keys() != inputs.keys():
            raise invalid(
                f"Failed to process element: {place} of 'instances' list. JSON object:"
                f" {_shown(each)} keys must be equal to: {','.join(sorted(inputs))}"
            )
        for alias, column in columns.items():
            column.append(each[alias] if named else each)
    return {alias: _tensor(column, inputs[alias]) for alias, column in columns.items()}


def _columns(given: Any, inputs: Mapping[str, Any]) -> dict[str, messages.TensorProto]:
    if not _is_named(given):
        if len(inputs) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors"
                " required as per tensorinfo_map"
            )
        return {alias: _tensor(given, info) for alias, info in inputs.items()}
    for alias in inputs:
        if alias not in given:
            raise invalid(f"Missing named input: {alias} in 'inputs' object.")
    return {alias: _tensor(given[alias], info) for alias, info in inputs.items()}


def _is_named(value: Any) -> bool:
    """Return whether a value is an object of tensors by name, rather than a tensor."""
    return isinstance(value, dict) and not _is_b64(value)


def _is_b64(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {_B64} and isinstance(value[_B64], str)


def _tensor(value: Any, info: Any) -> messages.TensorProto:
    kind = _numpy_type(info.dtype)
    shape = _shape(value)
    leaves: list[Any] = []
    _flatten(value, shape, 0, kind, leaves)
    if value == []:  # no rows of the input's shape
        shape += [abs(dim.size) for dim in info.tensor_shape.dim[1:]]
    return tensors.to_proto(np.fromiter(leaves, kind, len(leaves)).reshape(shape))


def _numpy_type(dtype: int) -> np.dtype:
    """Return the type of an array of these values; raises RequestError if JSON has no such."""
    with contextlib.suppress(ValueError):
        found = np.dtype(object) if dtype == _types.DT_STRING else tensors.numpy_type(dtype)
        if found.kind != "c":
            return found
    raise invalid(f"Conversion of JSON Value to type: {_types.DataType.Name(dtype)}")


def _shape(value: Any) -> list[int]:
    shape: list[int] = []
    while isinstance(value, list):
        shape.append(len(value))
        if len(shape) > _DEEPEST:
            raise invalid(f"Encountered list at unexpected level: {_DEEPEST}")
        value = value[0] if value else None
    return shape


def _flatten(value: Any, shape: Sequence[int], level: int, kind: np.dtype, into: list) -> None:
    if not isinstance(value, list):
        if level != len(shape):
            raise invalid(
                f"JSON Value: {_shown(value)} found at incorrect level: {level + 1} in the JSON"
                f" DOM. Expected at level: {len(shape)}"
            )
        into.append(_leaf(value, kind))
        return
    if level >= len(shape):
        raise invalid(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise invalid(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size:"
            f" {shape[level]}"
        )
    for each in value:
        _flatten(each, shape, level + 1, kind, into)


def _leaf(value: Any, kind: np.dtype) -> Any:
    """Return a value in its type; raises RequestError if it does not fit."""
    if kind.kind == "O" and isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if kind.kind == "O" and isinstance(value, dict):
        return _bytes(value)
    if isinstance(value, bool):
        if kind.kind == "b":
            return value
    elif kind.kind == "f" and isinstance(value, int | float):
        return _decimal(value, kind)
    elif kind.kind in "iu" and isinstance(value, int):
        bounds = np.iinfo(kind)
        if bounds.min <= value <= bounds.max:
            return value
    raise invalid(
        f"JSON Value: {_shown(value)} Type: {_kind(value)} is not of expected type: {_name(kind)}"
    )


def _decimal(value: float, kind: np.dtype) -> float:
    bounds = np.finfo(kind)
    largest = 2 ** (bounds.nmant + 1) - 1 if isinstance(value, int) else float(bounds.max)
    if isinstance(value, float) and not math.isfinite(value):
        return value
    if abs(value) > largest:
        raise invalid(
            f"Cannot convert JSON value: {_shown(value)} to {_name(kind)} without loss of"
            " precision."
        )
    return float(value)


def _name(kind: np.dtype) -> str:
    """Return the protocol's name of a type, such as "float" or "string"."""
    return _types.DataType.Name(tensors.data_type(np.empty(0, kind)))[3:].lower()


def _bytes(value: dict) -> bytes:
    if not _is_b64(value):
        raise invalid(f"JSON Value: {_shown(value)} not formatted correctly for base64 data")
    text = "".join(value[_B64].split())  # MIME and `base64` break lines
    try:
        # Some clients omit the padding, some use the URL alphabet.
        plain = text.translate(_STANDARD)
        padding = "" if plain.endswith("=") else "=" * (-len(plain) % 4)
        return base64.b64decode(plain + padding, validate=True)
    except (binascii.Error, ValueError):
        is_url = text[:5].lower() == "data:"
        hint = ": it is a `data:` URL; send only what follows its comma" if is_url else ""
        raise invalid(f"Unable to base64 decode{hint}") from None


def _fill_example(value: Any, example: Any) -> None:
    if not isinstance(value, dict):
        raise invalid(f"Example must be JSON object but got JSON {_kind(value)}")
    for name, content in value.items():
        feature = example.features.feature[name]
        for each in content if isinstance(content, list) else [content]:
            _add_value(each, name, feature)


def _add_value(value: Any, name: str, feature: Any) -> None:
    if isinstance(value, bool):
        kind, found = "int64_list", int(value)
    elif isinstance(value, int):
        kind, found = "int64_list", value
        if not -(2**63) <= value < 2**63:
            raise invalid(f"Feature: {name} has uint64 element. Only int64 is supported.")
    elif isinstance(value, float):
        kind, found = "float_list", _decimal(value, np.dtype(np.float32))
    elif isinstance(value, str):
        kind, found = "bytes_list", value.encode("utf-8", "surrogatepass")
    elif _is_b64(value):
        kind, found = "bytes_list", _bytes(value)
    else:
        raise invalid(f"Feature: {name} has element with unexpected JSON type: {_kind(value)}")
    before = feature.WhichOneof("kind")
    if before not in (None, kind):
        raise invalid(
            f"Unexpected element type in feature: {name} expecting type:"
            f" {before.removesuffix('_list')}"
        )
    getattr(feature, kind).value.append(found)


def _listed(alias: str, array: np.ndarray) -> Any:
    """Return an array as nested lists of JSON types."""
    if array.dtype.kind == "c":
        raise invalid(f"{alias} is complex, which JSON cannot express")
    if array.dtype == object:
        convert = _base64 if alias.endswith(_BYTES) else _text
    elif array.dtype.kind == "f" and array.dtype.itemsize < 8:
        convert = functools.partial(_shortest, kind=array.dtype.type)
    else:
        return array.tolist()
    return np.asarray(np.frompyfunc(convert, 1, 1)(array), object).tolist()


def _base64(value: bytes) -> dict[str, str]:
    return {_B64: base64.b64encode(value).decode()}


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _shortest(value: float, kind: type[np.floating] = np.float32) -> float:
    """Return the shortest decimal of a value of `kind`: 0.2, not 0.20000000298."""
    return float(str(kind(value)))


def _dumped(value: dict) -> bytes:
    return json.dumps(value, indent=4, ensure_ascii=False).encode("utf-8", "replace")


def _shown(value: Any) -> str:
    """Return JSON for an error message, cut after 200 characters."""
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 200 else text[:200] + "..."


def _kind(value: Any) -> str:
    names = {dict: "Object", list: "Array", str: "String", type(None): "Null"}
    if isinstance(value, bool):
        return str(value)
    return names.get(type(value), "Number")
