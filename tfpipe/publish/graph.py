"""What a served graph must not hold."""

import pathlib
from collections.abc import Iterator

import tensorflow as tf
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow.python.framework import op_def_registry

from tfpipe.core.errors import UserError

# Operations that run Python, which a server has not, or that read and write files of its machine.
FORBIDDEN = {
    "EagerPyFunc": "runs Python",
    "PyFunc": "runs Python",
    "PyFuncStateless": "runs Python",
    "MatchingFiles": "looks for files",
    "ReadFile": "reads a file",
    "WriteFile": "writes a file",
    "FixedLengthRecordDataset": "reads a file",
    "FixedLengthRecordDatasetV2": "reads a file",
    "TFRecordDataset": "reads a file",
    "TFRecordDatasetV2": "reads a file",
    "TextLineDataset": "reads a file",
    "SaveDataset": "writes a file",
    "SaveDatasetV2": "writes a file",
    "LoadDataset": "reads a file",
    "PrintV2": "writes to the server's output",
}
# A TensorFlow Serving that was built without XLA refuses a function that insists on it.
_MUST_COMPILE = "_XlaMustCompile"


def faults(folder: pathlib.Path) -> list[str]:
    """Lists what in a SavedModel a server would refuse or should not run; empty if all is well.

    Args:
        folder: of the SavedModel.

    Returns:
        One sentence for each kind of fault, which names the operation and a function it is in.
    """
    saved = SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    found: dict[str, str] = {}
    for where, node in _nodes(saved):
        if node.op in FORBIDDEN:
            found.setdefault(node.op, f"{node.op} in {where} {FORBIDDEN[node.op]}")
        elif op_def_registry.get(node.op) is None:
            found.setdefault(node.op, f"{node.op} in {where} is no operation of TensorFlow's")
        if node.attr[_MUST_COMPILE].b:
            found.setdefault(_MUST_COMPILE, f"{where} calls a function with jit_compile")
    for graph in saved.meta_graphs:
        for function in graph.graph_def.library.function:
            if function.attr[_MUST_COMPILE].b:
                name = function.signature.name
                found.setdefault(_MUST_COMPILE, f"{name} is a function with jit_compile")
    return list(found.values())


def check(folder: pathlib.Path) -> None:
    """Raises UserError if `faults` finds one."""
    if found := faults(folder):
        raise UserError(f"not exported: {'; '.join(found)}: take it out of the model")


def _nodes(saved: SavedModel) -> Iterator[tuple[str, tf.compat.v1.NodeDef]]:
    """Yields every node, and the name of the graph or the function that it is in."""
    for graph in saved.meta_graphs:
        for node in graph.graph_def.node:
            yield "the graph", node
        for function in graph.graph_def.library.function:
            for node in function.node_def:
                yield function.signature.name, node
