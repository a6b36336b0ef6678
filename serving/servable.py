"""One version of a model, loaded: what a request runs."""

import contextlib
import copy
import pathlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import grpc
import numpy as np
import tensorflow as tf

from serving import batching, saved_model, tensors
from serving.batching import Way
from serving.config import Batching
from serving.errors import RequestError, from_runtime, invalid
from serving.protocol import (
    DEFAULT_SIGNATURE,
    SignatureDef,
    TensorProto,
    types_pb2,
)
from serving.session import Session

# What the runtime of TensorFlow calls the types that NumPy calls otherwise.
_RUNTIME_NAMES = {"float32": "float", "float64": "double"}


class Servable:
    """A SavedModel in memory, in a session of its own, as TensorFlow Serving has it.

    Safe to use from several threads.

    Attributes:
        version: the number of its folder.
        path: its folder.
        signatures: every SignatureDef in `saved_model.pb`, by name.
    """

    def __init__(
        self,
        path: pathlib.Path,
        version: int,
        joined: Batching | None = None,
        *,
        gently: bool = False,
    ):
        """Loads the SavedModel in the folder `path`.

        Args:
            path: the folder.
            version: its number.
            joined: how requests are joined into batches; None runs each alone.
            gently: whether TensorFlow does its part in the background, beside other versions that
                clients wait for.

        Raises:
            RequestError: it cannot be loaded; the message says why.
        """
        self.version, self.path = version, path
        self._joined = joined
        self._session = None
        self._functions: dict[str, Callable[..., Sequence[np.ndarray]]] = {}
        self._running, self._lock = 0, threading.Lock()
        try:
            loader, meta_graph = saved_model.read(path)
            # Copies, as a part of a message keeps all of it in memory, the weights too.
            self.signatures = {
                key: copy.deepcopy(each) for key, each in meta_graph.signature_def.items()
            }
            served = {
                key: definition
                for key, definition in self.signatures.items()
                if not key.startswith("__")  # what TensorFlow keeps for itself
            }
            computations = {
                key: saved_model.computation(definition, meta_graph.graph_def)
                for key, definition in served.items()
            }
            graph = tf.Graph()
            # A graph of nothing but calls, as TensorFlow 2 writes it, has nothing to optimize.
            config = batching.config(optimize=None in computations.values())
            self._session = Session(graph=graph, config=config)
            self._session.in_background = gently
            with graph.as_default():
                saved_model.import_functions(meta_graph.graph_def, graph)
                loader.load(self._session, [saved_model.SERVE])
            built = {}
            for key, computation in computations.items():  # which two names may share
                known = computation or key
                if known not in built:
                    built[known] = self._function(served[key])
                self._functions[key] = built[known]
            self._session.in_background = False
        except Exception as error:  # a damaged file can make the loader raise nearly anything
            self.close()
            raise RequestError(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"cannot load {path}: {from_runtime(error).message}",
            ) from error

    def close(self) -> None:
        """Frees the memory; nothing can be run after that."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def run(
        self,
        signature: str,
        inputs: Mapping[str, TensorProto | np.ndarray],
        output_filter: Iterable[str] = (),
    ) -> dict[str, np.ndarray]:
        """Runs one signature.

        Args:
            signature: its name; empty means `serving_default`.
            inputs: a tensor for each input that has no default value.
            output_filter: the outputs to return; empty means all.

        Returns:
            An array for each output; strings are bytes in arrays of objects.

        Raises:
            RequestError: the inputs do not fit the signature, or an op refused them.
        """
        key = signature or DEFAULT_SIGNATURE
        if key not in self._functions:
            raise RequestError(
                grpc.StatusCode.FAILED_PRECONDITION, f'Serving signature key "{key}" not found.'
            )
        definition = self.signatures[key]
        feeds = _read_inputs(definition, inputs)
        wanted = _check_outputs(definition, list(output_filter))
        _check_types(definition, feeds)
        try:
            outputs = self._functions[key](*(array for _, array in feeds.values()))
            found = dict(zip(sorted(definition.outputs), outputs, strict=True))
            return {alias: tensors.as_array(found[alias]) for alias in wanted}
        except Exception as error:
            raise from_runtime(error) from error

    def check_replaces(self, other: "Servable") -> None:
        """Raises RequestError if clients of `other` would not be understood.

        Every signature of `other` must be there, with the same inputs and at least its outputs, of
        the same types.
        """
        for key in other._functions:
            old, new = other.signatures[key], self.signatures.get(key, SignatureDef())
            outputs = _types(new.outputs)
            if _types(old.inputs) != _types(new.inputs) or any(
                outputs.get(alias) != kind for alias, kind in _types(old.outputs).items()
            ):
                raise RequestError(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    f'signature "{key}" is missing or differs from that of version {other.version};'
                    " to serve it all the same, restart the server",
                )

    def run_empty(self) -> None:
        """Runs each signature with an empty batch, which builds what the first request needs."""
        for key, definition in self.signatures.items():
            if key not in self._functions:
                continue
            try:
                self._functions[key](*_empty(definition))
            except tf.errors.OpError:  # a model may refuse an empty batch; it is built by now
                continue

    def _function(self, definition: SignatureDef) -> Callable[..., Sequence[np.ndarray]]:
        """Returns a function from a signature's inputs to its outputs, by name in order."""
        graph = self._session.graph
        inputs, outputs = (
            [graph.get_tensor_by_name(infos[alias].name) for alias in sorted(infos)]
            for infos in (definition.inputs, definition.outputs)
        )
        found = self._joined and batching.batched(graph, definition, self._joined)
        if not found:
            return self._session.function(inputs, outputs)
        outputs = [found.outputs[alias] for alias in sorted(definition.outputs)]
        call = self._session.function([found.way, *inputs], outputs)
        with contextlib.suppress(tf.errors.OpError):  # as it does; else the warm-up will tell
            call(Way.BUILT, *_empty(definition))
        most = 0 if self._joined.allowed_batch_sizes else self._joined.max_execution_batch_size

        def run(*arrays: np.ndarray) -> Sequence[np.ndarray]:
            (size, *others) = set(map(len, arrays))
            with self._entered() as first:
                # The kernel answers an empty request itself, with other shapes than the model's.
                alone = not others and (not size or (first and size <= most))
                return call(Way.ALONE if alone else Way.JOINED, *arrays)

        return run

    @contextlib.contextmanager
    def _entered(self) -> Iterator[bool]:
        """Counts a request while it runs; yields whether no other one does."""
        with self._lock:
            self._running += 1
            first = self._running == 1
        try:
            yield first
        finally:
            with self._lock:
                self._running -= 1


def _read_inputs(
    definition: SignatureDef, inputs: Mapping[str, TensorProto | np.ndarray]
) -> dict[str, tuple[int, np.ndarray]]:
    """Returns type and array of each input, by name in order, with TensorFlow Serving's checks."""
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
    feeds = {}
    for alias in sorted(known):
        value = inputs[alias] if alias in inputs else definition.defaults[alias]
        try:
            if isinstance(value, TensorProto):
                kind, array = value.dtype, tensors.from_proto(value)
            else:
                kind, array = tensors.data_type(value), value
        except ValueError:
            raise invalid(f"tensor parsing error: {alias}") from None
        if kind == types_pb2.DT_BFLOAT16:  # which NumPy has not by itself
            array = array.astype(tf.bfloat16.as_numpy_dtype)
        feeds[alias] = kind, array
    if sent - known:
        raise invalid(
            f"Inputs contains invalid name. Used request inputs: {','.join(sorted(sent & known))},"
            f" request input: {','.join(sorted(sent))}"
        )
    return feeds


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


def _check_types(definition: SignatureDef, feeds: Mapping[str, tuple[int, np.ndarray]]) -> None:
    for index, (alias, (sent, _)) in enumerate(feeds.items()):
        expected = definition.inputs[alias].dtype
        if sent != expected:
            raise invalid(
                f"Expects arg[{index}] to be {_type_name(expected)} but {_type_name(sent)} is"
                " provided"
            )


def _types(infos: Mapping) -> dict[str, int]:
    return {alias: info.dtype for alias, info in infos.items()}


def _names(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"


def _type_name(data_type: int) -> str:
    name = tf.as_dtype(data_type).name
    return _RUNTIME_NAMES.get(name, name)


def _empty(definition: SignatureDef) -> list[np.ndarray]:
    """Returns inputs that fit, by name in order: an unknown first dimension is 0, others are 1."""
    found = []
    for _, info in sorted(definition.inputs.items()):
        sizes = [dim.size for dim in info.tensor_shape.dim]
        shape = [size if size >= 0 else int(place > 0) for place, size in enumerate(sizes)]
        found.append(np.zeros(shape, tf.as_dtype(info.dtype).as_numpy_dtype))
    return found
