"""Reads the JSON of a predict request: which signature, and the tensors of its inputs.

Source: https://www.tensorflow.org/tfx/serving/api_rest. "instances" lists the rows of a batch,
"inputs" has whole tensors. Errors have TensorFlow Serving's texts (util/json_tensor.cc).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from serving import json_api, json_values
from tfpipe.protocol import messages, tensors
from tfpipe.protocol.errors import RequestError, invalid, unimplemented

INSTANCES, INPUTS = "instances", "inputs"
_types = messages.types_pb2
_DEEPEST = 30  # nested lists; NumPy's arrays have up to 64 dimensions


def signature_of(body: Mapping[str, Any]) -> str:
    """Return the requested signature, "" for the default."""
    name = body.get("signature_name", "")
    if not isinstance(name, str):
        raise json_api.unexpected(
            body, "not formatted correctly. 'signature_name' key must be a string value."
        )
    return json_api.plain_text(name)


def read_tensors(
    body: Mapping[str, Any], inputs: Mapping[str, Any]
) -> tuple[dict[str, messages.TensorProto], bool]:
    """Return the tensors of a predict request.

    Args:
        body: the JSON object.
        inputs: the TensorInfo of each input of the signature, one or more.

    Returns:
        The tensors by input, and whether they were given as rows ("instances").

    Raises:
        RequestError: they are missing, or do not fit the inputs.
    """
    if INSTANCES in body and INPUTS in body:
        raise json_api.unexpected(
            body,
            f"Not formatted correctly expecting only one of '{INPUTS}' or '{INSTANCES}' keys"
            " to exist ",
        )
    if INPUTS in body:
        return _columns(body[INPUTS], inputs), False
    if INSTANCES not in body:
        raise invalid(f"Missing '{INPUTS}' or '{INSTANCES}' key")
    if not isinstance(body[INSTANCES], list):
        raise json_api.unexpected(body, f"Expecting '{INSTANCES}' to be an list/array")
    if not body[INSTANCES]:
        raise json_api.unexpected(body, f"No values in '{INSTANCES}' array")
    return _rows(body[INSTANCES], inputs), True


class _Column:
    """The values of one input, collected row by row."""

    def __init__(self, dtype: int):
        self._dtype = dtype
        self._leaves: list[Any] = []
        self._shape: list[int] | None = None
        self._size = 0

    def add(self, value: Any) -> None:
        """Add a row; raises RequestError if it does not fit its type or the first row."""
        shape, before = _shape(value), len(self._leaves)
        _flatten(value, shape, 0, self._dtype, self._leaves)
        size = len(self._leaves) - before
        if self._shape is None:
            self._shape, self._size = shape, size
        elif size != self._size:
            raise invalid(f"Expecting tensor size: {self._size} but got: {size}")
        elif shape != self._shape:
            raise invalid(f"Expecting shape {_listing(self._shape)} but got: {_listing(shape)}")

    def tensor(self, rows: int) -> messages.TensorProto:
        """Return all rows as one tensor."""
        return _tensor(self._leaves, [rows, *(self._shape or ())], self._dtype)


def _rows(instances: Sequence[Any], inputs: Mapping[str, Any]) -> dict[str, messages.TensorProto]:
    named = _is_named(instances[0])
    if not named and len(inputs) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors"
            " required as per tensorinfo_map"
        )
    columns = {alias: _Column(info.dtype) for alias, info in inputs.items()}
    for place, each in enumerate(instances):
        if _is_named(each) != named:
            what = "object but got list" if named else "value/list but got object"
            raise invalid(f"Expecting {what} at item {place} of input list")
        for alias, value in each.items() if named else ((next(iter(inputs)), each),):
            try:
                if alias not in columns:
                    raise invalid(f"JSON object: does not have named input: {alias}")
                columns[alias].add(value)
            except RequestError as error:
                key = f" key: {alias}" if named else ""
                raise invalid(
                    f"Failed to process element: {place}{key} of '{INSTANCES}' list. Error:"
                    f" {error.code.name}: {error.message}"
                ) from None
        if named and each.keys() != inputs.keys():
            raise invalid(
                f"Failed to process element: {place} of '{INSTANCES}' list. JSON object:"
                f" {json_api.shown(each)} keys must be equal to: {','.join(sorted(inputs))}"
            )
    return {alias: column.tensor(len(instances)) for alias, column in columns.items()}


def _columns(given: Any, inputs: Mapping[str, Any]) -> dict[str, messages.TensorProto]:
    if not _is_named(given):
        if len(inputs) > 1:
            raise invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors"
                " required as per tensorinfo_map"
            )
        given = dict.fromkeys(inputs, given)
    found = {}
    for alias, info in inputs.items():
        if alias not in given:
            raise invalid(f"Missing named input: {alias} in '{INPUTS}' object.")
        shape, leaves = _shape(given[alias]), []
        _flatten(given[alias], shape, 0, info.dtype, leaves)
        if shape == [0]:  # no rows of the input's shape
            shape += [abs(dim.size) for dim in info.tensor_shape.dim[1:]]
        found[alias] = _tensor(leaves, shape, info.dtype)
    return found


def _is_named(value: Any) -> bool:
    """Return whether a value is an object of tensors by name, rather than a tensor."""
    return isinstance(value, dict) and not json_values.is_base64(value)


def _tensor(leaves: Sequence[Any], shape: Sequence[int], dtype: int) -> messages.TensorProto:
    if dtype not in json_values.TYPES:
        raise _unsupported(leaves, dtype)
    kind = json_values.TYPES[dtype]
    wide = np.dtype(np.float64) if kind == np.float32 else kind
    with np.errstate(over="ignore"):  # 1e39 is infinity as float32
        array = np.fromiter(leaves, wide, len(leaves)).astype(kind, copy=False)
    return tensors.to_proto(array.reshape(shape))


def _shape(value: Any) -> list[int]:
    shape: list[int] = []
    while isinstance(value, list):
        shape.append(len(value))
        if len(shape) > _DEEPEST:
            raise invalid(f"Encountered list at unexpected level: {_DEEPEST}")
        value = value[0] if value else None
    return shape


def _flatten(value: Any, shape: Sequence[int], level: int, dtype: int, into: list) -> None:
    if not isinstance(value, list):
        if level != len(shape):
            raise json_api.unexpected(
                value,
                f"found at incorrect level: {level + 1} in the JSON DOM. Expected at level:"
                f" {len(shape)}",
            )
        into.append(_leaf(value, dtype))
        return
    if level >= len(shape):
        raise invalid(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
    if len(value) != shape[level]:
        raise invalid(
            f"Encountered list at unexpected size: {len(value)} at level: {level} expected size:"
            f" {shape[level]}"
        )
    for each in value:
        _flatten(each, shape, level + 1, dtype, into)


def _leaf(value: Any, dtype: int) -> Any:
    """Return a value in its type; raises RequestError if it does not fit."""
    kind = type(value)
    if dtype in json_values.BOUNDS:
        low, high = json_values.BOUNDS[dtype]
        if kind is int and low <= value <= high:
            return value
    elif dtype in json_values.REALS:
        if kind is int or kind is float:
            return json_values.real(value)
    elif dtype == _types.DT_STRING:
        if kind is dict:
            return json_values.decode_base64(value)
        if kind is str:
            return value.encode(errors=json_api.RAW)
    elif dtype == _types.DT_BOOL:
        if kind is bool:
            return value
    elif kind is not dict:
        raise _unsupported(value, dtype)
    name = json_values.dtype_name(dtype)
    raise json_api.unexpected(
        value, f"Type: {json_api.type_name(value)} is not of expected type: {name}"
    )


def _unsupported(value: Any, dtype: int) -> RequestError:
    shown, name = json_api.shown(value), json_values.dtype_name(dtype)
    return unimplemented(f"Conversion of JSON Value: {shown} to type: {name}")


def _listing(shape: Iterable[int]) -> str:
    return f"[{','.join(map(str, shape))}]"
