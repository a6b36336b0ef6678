"""Converts NumPy arrays to TensorProto and back, without TensorFlow."""

import math
from typing import NamedTuple

import numpy as np

from tfpipe.protocol.messages import TensorProto, types_pb2

# The largest array that a few values may fill.
MAX_FILLED_BYTES = 64 << 20


class _Layout(NamedTuple):
    """How a TensorProto stores the values of one data type.

    Attributes:
        field: the repeated field that holds them.
        unit: type of one element of that field. A half is stored as an integer with the same bits,
            a complex number as two floats.
        dtype: type of one value, also in `tensor_content` (little-endian).
    """

    field: str
    unit: np.dtype
    dtype: np.dtype


def _layout(field: str, unit: str, dtype: str | None = None) -> _Layout:
    return _Layout(field, np.dtype(unit), np.dtype(dtype or unit))


_LAYOUTS = {
    types_pb2.DT_FLOAT: _layout("float_val", "<f4"),
    types_pb2.DT_DOUBLE: _layout("double_val", "<f8"),
    types_pb2.DT_HALF: _layout("half_val", "<u2", "<f2"),
    # NumPy has no bfloat16: widened after reading.
    types_pb2.DT_BFLOAT16: _layout("half_val", "<u2"),
    types_pb2.DT_INT8: _layout("int_val", "i1"),
    types_pb2.DT_INT16: _layout("int_val", "<i2"),
    types_pb2.DT_INT32: _layout("int_val", "<i4"),
    types_pb2.DT_INT64: _layout("int64_val", "<i8"),
    types_pb2.DT_UINT8: _layout("int_val", "u1"),
    types_pb2.DT_UINT16: _layout("int_val", "<u2"),
    types_pb2.DT_UINT32: _layout("uint32_val", "<u4"),
    types_pb2.DT_UINT64: _layout("uint64_val", "<u8"),
    types_pb2.DT_BOOL: _layout("bool_val", "?"),
    types_pb2.DT_COMPLEX64: _layout("scomplex_val", "<f4", "<c8"),
    types_pb2.DT_COMPLEX128: _layout("dcomplex_val", "<f8", "<c16"),
}
_DATA_TYPES = {
    layout.dtype: data_type
    for data_type, layout in _LAYOUTS.items()
    if data_type != types_pb2.DT_BFLOAT16
}


def as_array(value: object) -> np.ndarray:
    """Return an array of numbers, bytes or text.

    Bytes and text become objects: NumPy's own string types drop trailing zeros and pad every
    string to the longest.
    """
    leaf = value
    while isinstance(leaf, list | tuple) and leaf:
        leaf = leaf[0]
    return np.asarray(value, dtype=object if isinstance(leaf, bytes | str) else None)


def data_type(array: np.ndarray) -> int:
    """Return the DataType of an array; bytes and text are DT_STRING.

    Raises:
        ValueError: a TensorProto cannot hold values of this dtype.
    """
    if array.dtype.kind in "OSU":
        return types_pb2.DT_STRING
    if array.dtype in _DATA_TYPES:
        return _DATA_TYPES[array.dtype]
    if array.dtype.name == "bfloat16":  # from ml_dtypes, which TensorFlow uses
        return types_pb2.DT_BFLOAT16
    raise ValueError(f"no tensor can hold values of dtype {array.dtype}")


def numpy_type(data_type: int) -> np.dtype:
    """Return the dtype of a numeric DataType; raises ValueError for any other."""
    if data_type not in _LAYOUTS:
        raise ValueError(f"data type {data_type} is not supported")
    if data_type == types_pb2.DT_BFLOAT16:
        return np.dtype(np.float32)
    return _LAYOUTS[data_type].dtype


def to_proto(value: object) -> TensorProto:
    """Return a new tensor with the values of an array; see `write`."""
    proto = TensorProto()
    write(proto, value)
    return proto


def write(proto: TensorProto, value: object) -> None:
    """Write an array into an empty tensor, in the form of TensorFlow Serving's answers.

    Args:
        proto: an empty tensor. One typed field is filled (`float_val`, `string_val`, ...), never
            `tensor_content`.
        value: numbers, booleans, bytes or text (sent as UTF-8) of any shape.

    Raises:
        ValueError: a TensorProto cannot hold these values.
    """
    array = as_array(value)
    proto.dtype = data_type(array)
    proto.tensor_shape.SetInParent()  # a scalar has a shape without dimensions
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    if proto.dtype == types_pb2.DT_STRING:
        proto.string_val.extend(map(_as_bytes, array.ravel().tolist()))
    else:
        layout = _LAYOUTS[proto.dtype]
        getattr(proto, layout.field).extend(array.ravel().view(layout.unit).tolist())


def from_proto(proto: TensorProto) -> np.ndarray:
    """Return the values of a tensor, from `tensor_content` or a typed field.

    Returns:
        An array of the tensor's shape. Strings are bytes in an array of objects, and bfloat16
        becomes float32.

    Raises:
        ValueError: the data type is not supported, the shape is not fully known, or it does not
            match the number of values. In a typed field the last value may stand for all that
            follow, up to `MAX_FILLED_BYTES`, as in `tf.make_tensor_proto(2.0, shape=[2, 3])`; no
            values are zeros or empty strings, which C++ clients leave out.
    """
    shape = [dim.size for dim in proto.tensor_shape.dim]
    if proto.tensor_shape.unknown_rank or min(shape, default=0) < 0:
        raise ValueError("a tensor that is sent needs a known shape")
    layout = _LAYOUTS.get(proto.dtype)
    if layout:
        values = _numbers(proto, layout)
    elif proto.dtype == types_pb2.DT_STRING:
        values = np.fromiter(proto.string_val, object, len(proto.string_val))
    else:
        raise ValueError(f"data type {proto.dtype} is not supported")
    size = math.prod(shape)
    if values.size == size:
        return values.reshape(shape)
    default = values.dtype.type() if layout else b""
    last = values[-1] if values.size else default
    each = values.itemsize + (0 if layout else len(last))
    if not proto.tensor_content and values.size < size <= MAX_FILLED_BYTES // each:
        filled = np.full(size, last, values.dtype)
        filled[: values.size] = values
        return filled.reshape(shape)
    raise ValueError(f"{values.size} values for shape {shape}")


def _numbers(proto: TensorProto, layout: _Layout) -> np.ndarray:
    if proto.tensor_content:
        values = np.frombuffer(proto.tensor_content, layout.dtype)
    else:
        # These fields have 32 bits for each value; the type may use fewer.
        wide = np.int32 if layout.field in ("int_val", "half_val") else layout.unit
        field = getattr(proto, layout.field)
        units = np.fromiter(field, wide, len(field))  # in half the time of np.array
        values = units.astype(layout.unit, copy=False).view(layout.dtype)
    if proto.dtype == types_pb2.DT_BFLOAT16:  # the upper half of a float32
        return (values.astype("<u4") << 16).view("<f4")
    return values


def _as_bytes(item: object) -> bytes:
    if isinstance(item, str):
        return item.encode()
    if isinstance(item, bytes):
        return item
    raise ValueError(f"a string tensor holds bytes or text, not {type(item).__name__}")
