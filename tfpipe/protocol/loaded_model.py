"""One version of a model in memory."""

import contextlib
import gc
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef, TensorInfo
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from tfpipe.core import float32
from tfpipe.protocol import example_features, tensors, tflite_model
from tfpipe.protocol.errors import from_runtime, invalid, precondition
from tfpipe.protocol.example_features import FeatureSpec
from tfpipe.protocol.messages import DEFAULT_SIGNATURE, SignatureDef, TensorProto, types_pb2

SERVE = "serve"  # the tag of the graph that is served

Arrays = Mapping[str, np.ndarray]
Function = Callable[[Arrays], Arrays]

# Up to this version of a GraphDef, a Placeholder without a shape may take any
# (tensorflow/core/ops/array_ops.cc).
_LAST_WITHOUT_SHAPES = 21

# The runtime's names of types that NumPy names differently.
_RUNTIME_NAMES = {"float32": "float", "float64": "double"}


class LoadedModel:
    """A SavedModel or a TFLite model, ready to answer requests.

    A SavedModel may be of TensorFlow 1 or 2, from any program.

    Safe to use from several threads.

    Attributes:
        version: the number of its folder.
        path: its folder.
        signatures: every SignatureDef in the file, by name.
    """

    def __init__(
        self,
        path: pathlib.Path,
        version: int,
        wrap: Callable[[Function], Function] = lambda function: function,
        *,
        prefer_tflite: bool = False,
    ):
        """Load the model in the folder `path`.

        Args:
            path: the folder.
            version: its number.
            wrap: applied to the function of each signature whose tensors all have a free first
                dimension; the server joins requests there. A TFLite model has none.
            prefer_tflite: load `model.tflite` if the folder has one.

        Raises:
            RequestError: it cannot be loaded; the message says why.
        """
        float32.exact()
        self.version, self.path = version, path
        self._functions: dict[str, Function] = {}
        self._batched: set[str] = set()
        self._features: dict[str, tuple[FeatureSpec, ...]] = {}
        self._model = None
        # Whether dimensions of size 1 at the end of a shape may be missing: clients of TensorFlow 1
        # and of TFLite rely on that, and their graphs need no checks of their own.
        self._takes_fewer_dimensions = True
        tflite_file = path / tflite_model.FILE
        try:
            if prefer_tflite and tflite_file.is_file():
                self.signatures, self._functions = tflite_model.load(tflite_file)
                return
            graph = _read_graph(path)
            self._takes_fewer_dimensions = not graph.HasField("object_graph_def")
            # Copies: a part keeps the whole message in memory, weights included.
            self.signatures = {
                key: SignatureDef.FromString(each.SerializeToString())
                for key, each in graph.signature_def.items()
            }
            for key, each in self.signatures.items():
                if _takes_strings(each):
                    self._features[key] = example_features.parsed_by(graph, each)
            # Its signatures do not keep the model alive, nor with it the variables.
            with _loadable(path, graph) as folder:
                self._model = tf.saved_model.load(str(folder), tags=[SERVE])
            for key, definition in self.signatures.items():
                if key in self._model.signatures:
                    function = _function(self._model.signatures[key], definition)
                    batched = _has_free_rows(definition)
                    self._functions[key] = wrap(function) if batched else function
                    self._batched |= {key} if batched else set()
        except Exception as error:  # a damaged file can raise nearly anything
            raise precondition(f"cannot load {path}: {from_runtime(error).message}") from error

    def close(self) -> None:
        """Free the memory. Nothing can be run after that."""
        self._functions, self._model = {}, None
        gc.collect()  # a graph and its functions refer to each other

    def run(
        self,
        signature: str,
        inputs: Mapping[str, TensorProto | np.ndarray],
        output_filter: Iterable[str] = (),
    ) -> dict[str, np.ndarray]:
        """Run one signature; an empty batch is answered without it.

        Args:
            signature: its name; empty means `serving_default`.
            inputs: a tensor for each input without a default value.
            output_filter: the outputs to return; empty means all.

        Returns:
            An array for each output; strings are bytes in arrays of objects.

        Raises:
            RequestError: the inputs do not fit the signature, or an op refused them.
        """
        key = signature or DEFAULT_SIGNATURE
        if key not in self._functions:
            raise precondition(f'Serving signature key "{key}" not found.')
        definition = self.signatures[key]
        arrays = _read_inputs(definition, inputs)
        wanted = _check_outputs(definition, list(output_filter))
        if key in self._batched and not all(array.ndim for array in arrays.values()):
            raise invalid("Batching Run() input tensors must have at least one dimension")
        for alias, array in arrays.items():
            _check_shape(alias, array.shape, definition.inputs[alias], self._takes_fewer_dimensions)
        if specs := self._features.get(key):
            (serialized,) = arrays.values()
            example_features.check(specs, map(tf.compat.as_bytes, serialized.ravel()))
        try:
            if key in self._batched and not any(len(array) for array in arrays.values()):
                outputs = _empty(definition.outputs)
            else:
                outputs = self._functions[key](arrays)
            return {alias: tensors.as_array(outputs[alias]) for alias in wanted}
        except Exception as error:
            raise from_runtime(error) from error

    def check_replaces(self, other: "LoadedModel") -> None:
        """Check that clients of `other` can use this model.

        Raises:
            RequestError: a signature of `other` is missing, has other inputs, or lacks an output.
        """
        for key in other._functions:
            old, new = other.signatures[key], self.signatures.get(key, SignatureDef())
            outputs = _types(new.outputs)
            if _types(old.inputs) != _types(new.inputs) or any(
                outputs.get(alias) != kind for alias, kind in _types(old.outputs).items()
            ):
                raise precondition(
                    f'signature "{key}" is missing or differs from that of version {other.version};'
                    " to serve it all the same, remove that version's folder, or start the server"
                    " with --norefuse_signature_changes"
                )

    def run_empty(self) -> None:
        """Run each signature with an empty batch, which builds what the first request needs."""
        for key, function in self._functions.items():
            try:
                function(_empty(self.signatures[key].inputs))
            except (tf.errors.OpError, ValueError, TypeError):
                continue  # the model may refuse an empty batch, and is built by now


def _read_graph(path: pathlib.Path) -> MetaGraphDef:
    """Return the graph tagged `serve`.

    Raises:
        ValueError: there is none.
        OSError: the file cannot be read.
    """
    binary, text = path / "saved_model.pb", path / "saved_model.pbtxt"
    saved = SavedModel()
    try:
        if binary.is_file():
            saved.ParseFromString(binary.read_bytes())
        elif text.is_file():
            text_format.Parse(text.read_text(encoding="utf-8"), saved)
        else:
            raise OSError(f"SavedModel file does not exist at: {binary}")
    except (DecodeError, text_format.ParseError, UnicodeDecodeError):
        raise ValueError("saved_model.pb is damaged") from None
    for graph in saved.meta_graphs:
        if set(graph.meta_info_def.tags) == {SERVE}:
            return graph
    raise ValueError(f"saved_model.pb holds no graph that is tagged `{SERVE}`")


@contextlib.contextmanager
def _loadable(path: pathlib.Path, graph: MetaGraphDef) -> Iterator[pathlib.Path]:
    """Yield a folder from which `tf.saved_model.load` can load a graph.

    It is `path`, but for graphs before TensorFlow 1.1: there a Placeholder of any shape looks like
    a scalar, as does a tensor of a signature, and loading fails. The folder then has a graph that
    says so.
    """
    if graph.graph_def.versions.producer > _LAST_WITHOUT_SHAPES:
        yield path
        return
    changed = SavedModel(saved_model_schema_version=1)
    changed.meta_graphs.add().CopyFrom(graph)
    for node in changed.meta_graphs[0].graph_def.node:
        if node.op == "Placeholder" and not node.attr["shape"].shape.dim:
            node.attr["shape"].shape.unknown_rank = True
    for definition in changed.meta_graphs[0].signature_def.values():
        for info in (*definition.inputs.values(), *definition.outputs.values()):
            if not info.HasField("tensor_shape"):
                info.tensor_shape.unknown_rank = True
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for each in ("variables", "assets"):
            (folder / each).symlink_to((path / each).resolve())
        (folder / "saved_model.pb").write_bytes(changed.SerializeToString())
        yield folder


def _function(signature: Callable, definition: SignatureDef) -> Function:
    """Return a function from arrays to arrays that calls a signature of a loaded model."""
    types = {alias: tf.as_dtype(info.dtype) for alias, info in definition.inputs.items()}

    def run(inputs: Arrays) -> Arrays:
        given = {alias: tf.constant(array, types[alias]) for alias, array in inputs.items()}
        return {alias: np.asarray(each.numpy()) for alias, each in signature(**given).items()}

    return run


def _takes_strings(definition: SignatureDef) -> bool:
    """Return whether a signature has one input, of strings."""
    return [info.dtype for info in definition.inputs.values()] == [types_pb2.DT_STRING]


def _has_free_rows(definition: SignatureDef) -> bool:
    infos = [*definition.inputs.values(), *definition.outputs.values()]
    shapes = [info.tensor_shape for info in infos]
    return bool(definition.inputs) and all(
        not shape.unknown_rank and shape.dim and shape.dim[0].size == -1 for shape in shapes
    )


def _read_inputs(
    definition: SignatureDef, inputs: Mapping[str, TensorProto | np.ndarray]
) -> dict[str, np.ndarray]:
    """Return the array of each input, after TensorFlow Serving's checks in their order."""
    sent, known, defaults = set(inputs), set(definition.inputs), set(definition.defaults)
    if len(sent) > len(known) or (len(sent) < len(known) and not defaults):
        raise invalid(
            f"input size does not match signature: {len(sent)}!={len(known)}"
            f" len({_names(sent)}) != len({_names(known)}). Sent extra: {_names(sent - known)}."
            f" Missing but required: {_names(known - sent)}."
        )
    for alias in sorted(known - sent - defaults):
        raise invalid(
            f"Signature input alias: {alias}(feed name: {definition.inputs[alias].name}) not found"
            " in request and no default value provided. Inputs expected to be in the request"
            f" {_names(sent)}, or default input alias set: {','.join(sorted(defaults))}"
        )
    types, arrays = {}, {}
    for alias in sorted(known):
        value = inputs[alias] if alias in inputs else definition.defaults[alias]
        try:
            if isinstance(value, TensorProto):
                types[alias], arrays[alias] = value.dtype, tensors.from_proto(value)
            else:
                types[alias], arrays[alias] = tensors.data_type(value), value
        except ValueError:
            raise invalid(f"tensor parsing error: {alias}") from None
    if sent - known:
        raise invalid(
            f"Inputs contains invalid name. Used request inputs: {','.join(sorted(sent & known))},"
            f" request input: {','.join(sorted(sent))}"
        )
    for index, (alias, kind) in enumerate(types.items()):
        expected = definition.inputs[alias].dtype
        if kind != expected:
            raise invalid(
                f"Expects arg[{index}] to be {_type_name(expected)} but {_type_name(kind)} is"
                " provided"
            )
        if kind == types_pb2.DT_BFLOAT16:  # NumPy itself has no such type
            arrays[alias] = arrays[alias].astype(tf.bfloat16.as_numpy_dtype)
    return arrays


def _check_shape(
    alias: str, shape: tuple[int, ...], info: TensorInfo, takes_fewer_dimensions: bool
) -> None:
    """Raise RequestError if a tensor has another rank or another size than the signature."""
    sizes = [dim.size for dim in info.tensor_shape.dim]
    while takes_fewer_dimensions and len(shape) < len(sizes) and sizes[-1] == 1:
        sizes.pop()
    unknown = info.tensor_shape.unknown_rank or not info.HasField("tensor_shape")
    if unknown or (
        len(shape) == len(sizes)
        and all(size in (-1, have) for size, have in zip(sizes, shape, strict=True))
    ):
        return
    takes = ", ".join("?" if dim.size == -1 else str(dim.size) for dim in info.tensor_shape.dim)
    raise invalid(f"input {alias} has shape {list(shape)}, but the signature takes [{takes}]")


def _check_outputs(definition: SignatureDef, wanted: list[str]) -> list[str]:
    seen = set()
    for alias in wanted:
        if alias not in definition.outputs:
            raise invalid(
                f"output tensor alias not found in signature: {alias} Outputs expected to be in"
                f" the set {_names(definition.outputs)}."
            )
        if alias in seen:
            raise invalid(f"duplicate output tensor alias: {alias}")
        seen.add(alias)
    return wanted or sorted(definition.outputs)


def _types(infos: Mapping) -> dict[str, int]:
    return {alias: info.dtype for alias, info in infos.items()}


def _names(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"


def _type_name(data_type: int) -> str:
    name = tf.as_dtype(data_type).name
    return _RUNTIME_NAMES.get(name, name)


def _empty(infos: Mapping) -> dict[str, np.ndarray]:
    """Return tensors that fit: an unknown first dimension is 0, other unknown ones are 1."""
    found = {}
    for alias, info in infos.items():
        sizes = [dim.size for dim in info.tensor_shape.dim]
        shape = [size if size >= 0 else int(place > 0) for place, size in enumerate(sizes)]
        found[alias] = np.zeros(shape, tf.as_dtype(info.dtype).as_numpy_dtype)
    return found
