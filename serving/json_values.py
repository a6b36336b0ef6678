"""Single values of the REST API: the types of tensors that JSON can hold, and bytes in base64."""

import base64
import binascii
from typing import Any

import numpy as np

from serving import json_api
from tfpipe.protocol import messages
from tfpipe.protocol.errors import invalid

_types = messages.types_pb2

# The types of TensorFlow Serving's REST API, in requests and in answers.
TYPES = {
    _types.DT_STRING: np.dtype(object),
    _types.DT_BOOL: np.dtype(bool),
    _types.DT_FLOAT: np.dtype(np.float32),
    _types.DT_DOUBLE: np.dtype(np.float64),
    _types.DT_INT8: np.dtype(np.int8),
    _types.DT_INT16: np.dtype(np.int16),
    _types.DT_INT32: np.dtype(np.int32),
    _types.DT_INT64: np.dtype(np.int64),
    _types.DT_UINT8: np.dtype(np.uint8),
    _types.DT_UINT32: np.dtype(np.uint32),
    _types.DT_UINT64: np.dtype(np.uint64),
}
# The smallest and the largest value of each integer type.
BOUNDS = {
    dtype: (int(np.iinfo(kind).min), int(np.iinfo(kind).max))
    for dtype, kind in TYPES.items()
    if kind.kind in "iu"
}
REALS = (_types.DT_FLOAT, _types.DT_DOUBLE)

_B64 = "b64"
_STANDARD = bytes.maketrans(b"-_", b"+/")  # from the alphabet for URLs


def dtype_name(dtype: int) -> str:
    """Return TensorFlow's name of a type, such as "float" or "string"."""
    return _types.DataType.Name(dtype).removeprefix("DT_").lower()


def real(value: float) -> float:
    """Return a number as float; raises RequestError if it is too big."""
    try:
        return float(value)
    except OverflowError:
        raise invalid("JSON Parse error: Number too big to be stored in double.") from None


def is_base64(value: Any) -> bool:
    """Return whether a value is an object whose only key is "b64", with a string."""
    return isinstance(value, dict) and value.keys() == {_B64} and isinstance(value[_B64], str)


def decode_base64(value: dict) -> bytes:
    """Return the bytes of {"b64": "..."}. White space counts for nothing, padding may be missing.

    The alphabet for URLs is read too, which TensorFlow Serving refuses.

    Raises:
        RequestError: it is not such an object, or not base64.
    """
    if not is_base64(value):
        raise json_api.unexpected(value, "not formatted correctly for base64 data")
    text = value[_B64]
    try:
        plain = b"".join(text.encode("ascii").split()).translate(_STANDARD)
        padding = b"" if plain.endswith(b"=") else b"=" * (-len(plain) % 4)
        return base64.b64decode(plain + padding, validate=True)
    except (binascii.Error, ValueError):
        is_url = text.lstrip()[:5].lower() == "data:"
        hint = ": it is a `data:` URL; send only what follows its comma" if is_url else ""
        raise invalid(f"Unable to base64 decode{hint}") from None


def encode_base64(value: bytes) -> dict[str, str]:
    """Return {"b64": "..."}."""
    return {_B64: base64.b64encode(value).decode()}
