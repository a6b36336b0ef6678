"""What a caller gives a client to send, as arrays."""

from collections.abc import Mapping

import numpy as np

from tfpipe.core.errors import one_line
from tfpipe.protocol import messages, tensors
from tfpipe.protocol.transport import InputError


def read_inputs(inputs: Mapping[str, object]) -> dict[str, np.ndarray]:
    """Return an array for each input; text becomes bytes (UTF-8).

    Raises:
        InputError: a value is no array that a tensor can hold.
    """
    if not isinstance(inputs, Mapping):
        raise InputError(f"the inputs are {type(inputs).__name__}: give an array for each name")
    found = {}
    for alias, value in inputs.items():
        if not isinstance(alias, str):
            raise InputError(f"an input has the name {alias!r}, which is no text")
        try:
            found[alias] = _array(value)
        except (ValueError, TypeError, OverflowError) as error:
            raise InputError(f"input {alias!r} cannot be sent: {one_line(error)}") from None
    return found


def _array(value: object) -> np.ndarray:
    array = tensors.as_array(value)
    if tensors.data_type(array) != messages.types_pb2.DT_STRING:
        return array
    found = np.empty(array.shape, object)
    found.ravel()[:] = [_as_bytes(item) for item in array.ravel().tolist()]
    return found


def _as_bytes(item: object) -> bytes:
    if isinstance(item, bytes | bytearray | memoryview):
        return bytes(item)
    if isinstance(item, str):
        return item.encode()
    raise ValueError(f"it holds {type(item).__name__}, neither numbers nor bytes nor text")
