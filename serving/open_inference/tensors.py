"""Tensors of the Open Inference Protocol: raw bytes, typed contents and JSON.

Raw bytes are the values in row-major order, little-endian. A string is 4 bytes with its length, and
its bytes.
"""

import math
import struct
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tfpipe.protocol import messages, tensors
from tfpipe.protocol.errors import RequestError, invalid, unimplemented

_types = messages.types_pb2
_LENGTH = struct.Struct("<I")
LARGEST_SIZE = 2**63 - 1  # of a dimension; it is an int64


class _Datatype(NamedTuple):
    """A datatype of the protocol: TensorFlow's number, and the field of typed contents."""

    number: int
    field: str


DATATYPES = {
    "BOOL": _Datatype(_types.DT_BOOL, "bool_contents"),
    "INT8": _Datatype(_types.DT_INT8, "int_contents"),
    "INT16": _Datatype(_types.DT_INT16, "int_contents"),
    "INT32": _Datatype(_types.DT_INT32, "int_contents"),
    "INT64": _Datatype(_types.DT_INT64, "int64_contents"),
    "UINT8": _Datatype(_types.DT_UINT8, "uint_contents"),
    "UINT16": _Datatype(_types.DT_UINT16, "uint_contents"),
    "UINT32": _Datatype(_types.DT_UINT32, "uint_contents"),
    "UINT64": _Datatype(_types.DT_UINT64, "uint64_contents"),
    "FP16": _Datatype(_types.DT_HALF, ""),  # only raw
    "BF16": _Datatype(_types.DT_BFLOAT16, ""),
    "FP32": _Datatype(_types.DT_FLOAT, "fp32_contents"),
    "FP64": _Datatype(_types.DT_DOUBLE, "fp64_contents"),
    "BYTES": _Datatype(_types.DT_STRING, "bytes_contents"),
}
_NAMES = {datatype.number: name for name, datatype in DATATYPES.items()}

# The Python types of a JSON value, by the kind of NumPy's type.
_JSON_TYPES = {"b": (bool,), "i": (int,), "u": (int,), "f": (int, float)}


def name_of(data_type: int) -> str:
    """Return the datatype of a TensorFlow type; raises RequestError if the protocol has none."""
    if data_type not in _NAMES:
        name = _types.DataType.Name(data_type)
        raise unimplemented(f"the Open Inference Protocol has no datatype for {name}")
    return _NAMES[data_type]


def from_raw(name: str, datatype: str, shape: Sequence[int], raw: bytes) -> messages.TensorProto:
    """Return the tensor in raw bytes.

    Args:
        name: of the tensor, for messages.
        datatype: one of `DATATYPES`.
        shape: the size of each dimension.
        raw: its values.

    Raises:
        RequestError: the values do not fit the datatype and the shape.
    """
    proto = messages.TensorProto(dtype=_known(name, datatype).number)
    _check_shape(name, shape)
    proto.tensor_shape.SetInParent()  # a scalar has a shape without dimensions
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    if datatype == "BYTES":
        proto.string_val.extend(_split(name, raw))
        _check_count(name, len(proto.string_val), shape)
        return proto
    count = math.prod(shape)
    if len(raw) != count * _item_bytes(datatype):
        raise invalid(
            f"input {name} has {len(raw)} bytes, but {datatype} of shape {list(shape)} needs"
            f" {count * _item_bytes(datatype)}"
        )
    if datatype == "BOOL" and raw.strip(b"\0\1"):
        raise invalid(f"input {name} has bytes other than 0 and 1 in a BOOL tensor")
    proto.tensor_content = raw
    return proto


def from_contents(
    name: str, datatype: str, shape: Sequence[int], contents: Any
) -> messages.TensorProto:
    """Return the tensor in typed contents, an InferTensorContents; see `from_raw`."""
    field = _known(name, datatype).field
    if not field:
        raise invalid(f"input {name} is {datatype}, which only raw_input_contents can hold")
    for descriptor, _ in contents.ListFields():
        if descriptor.name != field:
            raise invalid(f"input {name} is {datatype}: fill {field}, not {descriptor.name}")
    return from_raw(name, datatype, shape, raw_of(name, datatype, shape, getattr(contents, field)))


def raw_of(name: str, datatype: str, shape: Sequence[int], values: Sequence[Any]) -> bytes:
    """Return Python values in row-major order as raw bytes; see `from_raw`."""
    _known(name, datatype)
    _check_shape(name, shape)
    _check_count(name, len(values), shape)
    if datatype == "BYTES":
        return _joined(values)
    if datatype == "BF16":
        raise invalid(f"input {name} is BF16, which only binary data can hold")
    return _numbers(name, datatype, values).tobytes()


def to_array(name: str, datatype: str, shape: Sequence[int], raw: bytes) -> np.ndarray:
    """Return the array in raw bytes; BF16 becomes float32, and strings are bytes in objects."""
    return tensors.from_proto(from_raw(name, datatype, shape, raw))


def flatten(name: str, shape: Sequence[int], data: Any) -> list[Any]:
    """Return the values of JSON's `data` in row-major order.

    Args:
        name: of the tensor, for messages.
        shape: the size of each dimension.
        data: a flat list, or lists that are nested as the shape says.

    Raises:
        RequestError: it is neither; another nesting would be read in another order.
    """
    if not isinstance(data, list):
        raise invalid(f"input {name}: `data` must be a list")
    if not any(isinstance(value, list) for value in data):
        return data
    level = [data]
    for size in shape:
        if not all(isinstance(each, list) and len(each) == size for each in level):
            raise invalid(
                f"input {name}: the lists of `data` have not the shape {list(shape)}; nest them so,"
                " or give one flat list"
            )
        level = [value for each in level for value in each]
    return level


def to_raw(proto: messages.TensorProto) -> bytes:
    """Return the values of a tensor as raw bytes."""
    array = tensors.from_proto(proto)
    if proto.dtype == _types.DT_STRING:
        return _joined(array.ravel().tolist())
    if proto.dtype == _types.DT_BFLOAT16:  # widened to float32: the upper half is the value
        return (array.view("<u4") >> 16).astype("<u2").tobytes()
    return array.tobytes()


def fill_contents(proto: messages.TensorProto, contents: Any) -> None:
    """Write the values of a tensor into an InferTensorContents; not for FP16 and BF16."""
    field = DATATYPES[name_of(proto.dtype)].field
    getattr(contents, field).extend(tensors.from_proto(proto).ravel().tolist())


def _known(name: str, datatype: str) -> _Datatype:
    if datatype not in DATATYPES:
        raise invalid(
            f"input {name} has the datatype {datatype!r}; there are {', '.join(DATATYPES)}"
        )
    return DATATYPES[datatype]


def _check_shape(name: str, shape: Sequence[int]) -> None:
    if min(shape, default=0) < 0:
        raise invalid(f"input {name} has shape {list(shape)}: give the size of each dimension")


def _check_count(name: str, found: int, shape: Sequence[int]) -> None:
    if found != math.prod(shape):
        raise invalid(
            f"input {name} has {found} values, but shape {list(shape)} needs {math.prod(shape)}"
        )


def _item_bytes(datatype: str) -> int:
    if datatype == "BF16":  # NumPy has no such type
        return 2
    return tensors.numpy_type(DATATYPES[datatype].number).itemsize


def _numbers(name: str, datatype: str, values: Sequence[Any]) -> np.ndarray:
    """Return the values in the type of `datatype`; raises RequestError for one that does not fit.

    A number is never rounded to an integer, nor a boolean taken for a number.
    """
    kind = tensors.numpy_type(DATATYPES[datatype].number)
    for value in values:
        if type(value) not in _JSON_TYPES[kind.kind]:
            raise _misfit(name, datatype, f"{value!r:.40}")
    try:
        wide = np.fromiter(values, np.float64 if kind.kind == "f" else kind, len(values))
        with np.errstate(over="ignore"):
            found = wide.astype(kind)
        if not (np.isinf(found) & np.isfinite(wide)).any():
            return found
    except OverflowError:
        pass
    raise _misfit(name, datatype, f"one of {min(values)!r:.40} to {max(values)!r:.40}")


def _misfit(name: str, datatype: str, shown: str) -> RequestError:
    return invalid(f"input {name}: {shown} is no value of {datatype}")


def _joined(values: Iterable[bytes]) -> bytes:
    return b"".join(part for value in values for part in (_LENGTH.pack(len(value)), value))


def _split(name: str, raw: bytes) -> list[bytes]:
    found, start = [], 0
    while start < len(raw):
        end = start + _LENGTH.size
        if end <= len(raw):
            end += _LENGTH.unpack_from(raw, start)[0]
        if end > len(raw) or end < start + _LENGTH.size:
            raise invalid(
                f"input {name}: the raw bytes of a BYTES tensor end within a string; each string"
                " begins with its length in 4 bytes"
            )
        found.append(raw[start + _LENGTH.size : end])
        start = end
    return found
