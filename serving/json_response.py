"""Writes the answers of the REST API as JSON.

NaN and Infinity are written as such, as TensorFlow Serving does. That is no JSON, so an export has
finite outputs for every image.
"""

import functools
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from serving import json_values
from tfpipe.protocol import messages, tensors
from tfpipe.protocol.errors import invalid

_BYTES = "_bytes"  # an output with this ending is written in base64
_INDENT = "    "


def write_tensors(outputs: Mapping[str, messages.TensorProto], *, as_rows: bool) -> bytes:
    """Return the outputs of predict as JSON, as rows ("predictions") or tensors ("outputs").

    Raises:
        RequestError: rows are wanted, and the outputs do not all have the same number of rows; or
            JSON has no such type.
    """
    if as_rows:
        _check_rows(outputs)
    values = {alias: _listed(alias, proto) for alias, proto in outputs.items()}
    (first, *others) = values.values()
    if not as_rows:
        return _answer("outputs", _object(values, 1) if others else _dumps(first))
    if not others or not first:
        return _answer("predictions", _dumps(first))
    rows = (dict(zip(values, row, strict=True)) for row in zip(first, *others, strict=True))
    items = ",\n".join(f"{_INDENT * 2}{_object(row, 2)}" for row in rows)
    return _answer("predictions", f"[\n{items}\n{_INDENT}]")


def write_result(result: messages.ClassificationResult | messages.RegressionResult) -> bytes:
    """Return the answer of classify or regress as JSON.

    An example has a list of [label, score] in the one, a number in the other.
    """
    if isinstance(result, messages.RegressionResult):
        return _answer("results", _dumps([_shortest(each.value) for each in result.regressions]))
    rows = [
        [[c.label, _shortest(c.score)] for c in each.classes] for each in result.classifications
    ]
    return _answer("results", _dumps(rows))


def write_error(message: str) -> bytes:
    """Return the JSON of an error."""
    return _answer("error", _dumps(message))


def _check_rows(outputs: Mapping[str, messages.TensorProto]) -> None:
    """Raise RequestError unless all outputs have the same number of rows."""
    rows = None
    for alias, proto in outputs.items():
        if not proto.tensor_shape.dim:
            raise invalid(f"Tensor name: {alias} has no shape information ")
        size = proto.tensor_shape.dim[0].size
        if rows not in (None, size):
            raise invalid(
                f"Tensor name: {alias} has inconsistent batch size: {size} expecting: {rows}"
            )
        rows = size


def _listed(alias: str, proto: messages.TensorProto) -> Any:
    """Return a tensor as nested lists of JSON types."""
    if proto.dtype not in json_values.TYPES:
        name = json_values.dtype_name(proto.dtype)
        raise invalid(f"Failed to write JSON value for tensor type: {name}")
    array = tensors.from_proto(proto)
    if array.dtype == object:
        convert = json_values.encode_base64 if alias.endswith(_BYTES) else _text
    elif array.dtype == np.float32:
        convert = _shortest
    else:
        return array.tolist()
    return np.asarray(np.frompyfunc(convert, 1, 1)(array), object).tolist()


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _shortest(value: float) -> float:
    """Return the shortest decimal of a float32: 0.2, not 0.20000000298."""
    return float(str(np.float32(value)))


def _answer(key: str, value: str) -> bytes:
    return f'{{\n{_INDENT}"{key}": {value}\n}}'.encode(errors="replace")


def _object(values: Mapping[str, Any], depth: int) -> str:
    """Return an object with a line for each key, `depth` objects deep."""
    start = _INDENT * (depth + 1)
    lines = ",\n".join(f"{start}{_dumps(key)}: {_dumps(each)}" for key, each in values.items())
    return f"{{\n{lines}\n{_INDENT * depth}}}"


_dumps = functools.partial(json.dumps, ensure_ascii=False)
