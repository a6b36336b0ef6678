"""TFLite models, run by LiteRT's interpreter.

TensorFlow Serving takes `model.tflite` from a version's folder with `--prefer_tflite_model`
(tensorflow_serving/servables/tensorflow/tflite_session.cc).
"""

import pathlib
import threading
import warnings
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf
from flatbuffers import flexbuffers, number_types
from flatbuffers.table import Table

from tfpipe.core.cores import cores
from tfpipe.protocol.messages import DEFAULT_SIGNATURE, SignatureDef

FILE = "model.tflite"

Arrays = Mapping[str, np.ndarray]

# Where the tables of a file keep their fields (tensorflow/lite/schema/schema.fbs).
_MODEL_BUFFERS, _MODEL_METADATA = 12, 16
_METADATA_NAME, _METADATA_BUFFER = 4, 6
_BUFFER_DATA = 4
# The entry of the metadata with a map from names to SignatureDefs.
_SIGNATURES = b"signature_defs_metadata"


def load(
    path: pathlib.Path,
) -> tuple[dict[str, SignatureDef], dict[str, Callable[[Arrays], dict[str, np.ndarray]]]]:
    """Return the signatures of a TFLite model and their functions, safe to use from threads.

    A model without signatures has one, `serving_default`, of all its inputs and outputs. The first
    dimension of a tensor is free: the interpreter adapts to each request.

    Raises:
        ValueError: the file is damaged, or a signature names a tensor that is not there.
    """
    data = path.read_bytes()
    interpreter = _Interpreter(data)
    signatures = _signatures(data) or {DEFAULT_SIGNATURE: interpreter.whole()}
    for definition in signatures.values():
        for infos, known in (
            (definition.inputs, interpreter.inputs),
            (definition.outputs, interpreter.outputs),
        ):
            for alias, info in infos.items():
                info.name = _known_name(info.name, known, alias)
                if info.tensor_shape.dim:
                    info.tensor_shape.dim[0].size = -1
    return signatures, {key: interpreter.function(each) for key, each in signatures.items()}


class _Interpreter:
    """LiteRT's interpreter, one call at a time; it computes on all cores.

    Attributes:
        inputs: the index of each input tensor, by name.
        outputs: the index of each output tensor, by name.
    """

    def __init__(self, data: bytes):
        self._data, self._lock = data, threading.Lock()
        self._start()
        self.inputs = {each["name"]: each["index"] for each in self._run.get_input_details()}
        self.outputs = {each["name"]: each["index"] for each in self._run.get_output_details()}

    def whole(self) -> SignatureDef:
        """Return a signature with all tensors, named without the `:0` of TensorFlow."""
        found = SignatureDef(method_name="tensorflow/serving/predict")
        for infos, details in (
            (found.inputs, self._run.get_input_details()),
            (found.outputs, self._run.get_output_details()),
        ):
            for each in details:
                info = infos[each["name"].partition(":")[0]]
                info.name = each["name"]
                info.dtype = tf.as_dtype(each["dtype"]).as_datatype_enum
                for size in each["shape_signature"]:
                    info.tensor_shape.dim.add(size=size)
        return found

    def function(self, definition: SignatureDef) -> Callable[[Arrays], dict[str, np.ndarray]]:
        """Return a function from arrays to arrays that runs a signature.

        It raises ValueError if the model cannot take the shapes.
        """
        inputs = {alias: self.inputs[info.name] for alias, info in definition.inputs.items()}
        outputs = {alias: self.outputs[info.name] for alias, info in definition.outputs.items()}

        def run(arrays: Arrays) -> dict[str, np.ndarray]:
            with self._lock:
                try:
                    return self._call(
                        {inputs[alias]: array for alias, array in arrays.items()}, outputs
                    )
                except (RuntimeError, ValueError) as error:
                    self._start()  # one whose allocation failed is of no more use
                    raise ValueError(str(error)) from None

        return run

    def _start(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # LiteRT has a package of its own as well
            self._run = tf.lite.Interpreter(model_content=self._data, num_threads=cores())
        self._run.allocate_tensors()

    def _call(self, arrays: dict[int, np.ndarray], outputs: dict[str, int]) -> dict:
        shapes = {each["index"]: each["shape"].tolist() for each in self._run.get_input_details()}
        if changed := {i for i, array in arrays.items() if list(array.shape) != shapes[i]}:
            for index in changed:
                self._run.resize_tensor_input(index, arrays[index].shape)
            self._run.allocate_tensors()
        for index, array in arrays.items():
            self._run.set_tensor(index, array)
        self._run.invoke()
        return {alias: self._run.get_tensor(index) for alias, index in outputs.items()}


def _known_name(name: str, known: Mapping[str, int], alias: str) -> str:
    """Return the name of a tensor; early converters left out the `:0`."""
    for each in (name, name.partition(":")[0]):
        if each in known:
            return each
    raise ValueError(f"the signature's tensor {alias} ({name}) is not in the model")


def _signatures(data: bytes) -> dict[str, SignatureDef]:
    """Return the signatures that the converter wrote into the file's metadata."""
    root = Table(data, int.from_bytes(data[:4], "little"))
    buffers = _tables(root, _MODEL_BUFFERS)
    for entry in _tables(root, _MODEL_METADATA):
        if _bytes(entry, _METADATA_NAME) == _SIGNATURES:
            place = entry.Offset(_METADATA_BUFFER) + entry.Pos
            index = entry.Get(number_types.Uint32Flags, place)
            found = flexbuffers.GetRoot(_bytes(buffers[index], _BUFFER_DATA)).AsMap
            return {
                key.AsKey: SignatureDef.FromString(value.AsStringBytes)
                for key, value in zip(found.Keys, found.Values, strict=True)
            }
    return {}


def _tables(table: Table, field: int) -> list[Table]:
    offset = table.Offset(field)
    if not offset:
        return []
    start = table.Vector(offset)
    places = range(start, start + 4 * table.VectorLen(offset), 4)
    return [Table(table.Bytes, table.Indirect(place)) for place in places]


def _bytes(table: Table, field: int) -> bytes:
    offset = table.Offset(field)
    start = table.Vector(offset)
    return bytes(table.Bytes[start : start + table.VectorLen(offset)])
