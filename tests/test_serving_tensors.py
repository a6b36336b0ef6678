import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tfpipe.protocol import tensors
from tfpipe.protocol.messages import TensorProto, types_pb2

FLOAT = types_pb2.DT_FLOAT
NUMBERS = {
    "half": np.array([[0.5, -2.0, 65504.0]], np.float16),
    "float": np.array([[1.5], [-3e38]], np.float32),
    "double": np.array([1e300, -0.0]),
    "int8": np.array([-128, 127], np.int8),
    "int16": np.array([-(2**15), 2**15 - 1], np.int16),
    "int32": np.array([-(2**31), 2**31 - 1], np.int32),
    "int64": np.array([-(2**63), 2**63 - 1], np.int64),
    "uint8": np.array([[0, 255]], np.uint8),
    "uint16": np.array([0, 65535], np.uint16),
    "uint32": np.array([0, 2**32 - 1], np.uint32),
    "uint64": np.array([1, 2**64 - 1], np.uint64),
    "bool": np.array([True, False, True]),
    "complex64": np.array([1 + 2j, -3j], np.complex64),
    "complex128": np.array([1e300 + 2j]),
    "empty": np.zeros((0, 3), np.float32),
    "scalar": np.array(7, np.int32),
}


@pytest.mark.parametrize("array", NUMBERS.values(), ids=NUMBERS)
def test_numbers_pass_both_ways_as_tensorflow_reads_and_writes_them(array):
    ours = tensors.to_proto(array)
    assert not ours.tensor_content  # typed fields, as TensorFlow Serving answers
    theirs = tf.make_tensor_proto(array)
    in_content = TensorProto(
        dtype=theirs.dtype, tensor_shape=theirs.tensor_shape, tensor_content=array.tobytes()
    )
    for read in (
        tf.make_ndarray(ours),
        tensors.from_proto(ours),
        tensors.from_proto(theirs),
        tensors.from_proto(in_content),
    ):
        assert read.dtype == array.dtype
        assert read.shape == array.shape
        np.testing.assert_array_equal(read, array)


def test_strings_keep_every_byte():
    proto = tensors.to_proto([[b"a\0", "ä"]])
    assert proto.string_val == [b"a\0", "ä".encode()]
    assert tf.make_ndarray(proto).tolist() == [[b"a\0", "ä".encode()]]
    read = tensors.from_proto(tf.make_tensor_proto([[b"\0\xff", b""]]))
    assert read.tolist() == [[b"\0\xff", b""]]
    assert tensors.from_proto(tensors.to_proto(b"one")).shape == ()


def test_bfloat16_is_read_as_float32():
    array = tf.constant([1.5, -3.0, 2.0**100], tf.bfloat16).numpy()
    written = tensors.to_proto(array)
    assert written.dtype == types_pb2.DT_BFLOAT16
    np.testing.assert_array_equal(tf.make_ndarray(written), array)
    for proto in (written, tf.make_tensor_proto(array)):
        read = tensors.from_proto(proto)
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, array.astype(np.float32))


@pytest.mark.parametrize(
    "fields",
    [
        {"dtype": FLOAT, "float_val": [1, 2]},
        {"dtype": FLOAT},
        {"dtype": types_pb2.DT_UINT8, "int_val": [7]},
        {"dtype": types_pb2.DT_HALF, "half_val": [0x3C00]},
        {"dtype": types_pb2.DT_COMPLEX64, "scomplex_val": [1, 2]},
        {"dtype": types_pb2.DT_COMPLEX64},
        {"dtype": types_pb2.DT_BOOL},
        {"dtype": types_pb2.DT_STRING, "string_val": [b"a", b"b"]},
        {"dtype": types_pb2.DT_STRING},
    ],
)
def test_the_last_value_fills_a_shape(fields):
    """As C++ clients compress a tensor; TensorFlow's kernel reads it in C++."""
    proto = TensorProto(tensor_shape={"dim": [{"size": 2}, {"size": 3}]}, **fields)
    found, dtype = tensors.from_proto(proto), tf.dtypes.as_dtype(proto.dtype)
    expected = tf.io.parse_tensor(proto.SerializeToString(), dtype).numpy()
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


MISFITS = {
    "no rows of a huge size": ([1 << 62, 1 << 62, 0], {"dtype": FLOAT}),
    "below zero": ([-1, -3], {"dtype": FLOAT, "float_val": [1, 2, 3]}),
    "too few": ([3], {"dtype": FLOAT, "tensor_content": bytes(8)}),
    "too many": ([1], {"dtype": FLOAT, "float_val": [1, 2]}),
    "one long string for many": (
        [1 << 20],
        {"dtype": types_pb2.DT_STRING, "string_val": [bytes(1000)]},
    ),
    "part of a value": ([1], {"dtype": FLOAT, "tensor_content": b"123"}),
    "unknown size": ([-1], {"dtype": FLOAT, "float_val": [1]}),
    "unsupported type": ([], {"dtype": types_pb2.DT_RESOURCE}),
    "no type": ([], {"float_val": [1]}),
    "four terabytes": ([1 << 40], {"dtype": FLOAT, "float_val": [1]}),
    "rank": ([1] * 99, {"dtype": FLOAT, "float_val": [1]}),
    "half a pair": ([1], {"dtype": types_pb2.DT_COMPLEX64, "scomplex_val": [1]}),
}


@pytest.mark.parametrize(("shape", "fields"), MISFITS.values(), ids=MISFITS)
def test_what_does_not_fit_is_refused(shape, fields):
    dims = [{"size": size} for size in shape]
    with pytest.raises(ValueError):  # noqa: PT011
        tensors.from_proto(TensorProto(tensor_shape={"dim": dims}, **fields))


@pytest.mark.parametrize("value", [[b"x", 1], [[1], [2, 3]], [object()], np.array(["2020"], "M8")])
def test_what_no_tensor_holds_is_refused(value):
    with pytest.raises(ValueError):  # noqa: PT011
        tensors.to_proto(value)


MESSAGES_FIRST = """
import sys
from serving import client
from tfpipe.protocol import messages
assert not [name for name in sys.modules if name.startswith("tensorflow.python")]
assert "tensorflow" not in sys.modules
import tensorflow as tf
import tf_keras
assert int(tf.constant(1) + 1) == 2
assert tf_keras.layers.Dense(2)(tf.ones([1, 3])).shape == (1, 2)
assert type(tf.make_tensor_proto(1)) is messages.TensorProto
"""


@pytest.mark.slow
def test_tensorflow_can_be_imported_after_the_messages():
    # This module imports it before them.
    subprocess.run([sys.executable, "-c", MESSAGES_FIRST], check=True)
