"""Checks the graph of an export before a server gets it."""

import pathlib
from collections.abc import Iterator

import tensorflow as tf
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from tfpipe.core.errors import UserError
from tfpipe.publish import SERVING_VERSION

# Operations that run Python, which a server lacks, or that access files of its machine.
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
# The first TensorFlow Serving that knows an operation: what `dir(tf.raw_ops)` of TensorFlow 2.19.1
# and 2.21.0 has and the one before lacks, 2.15.1 first; without the operations of TPUs. 2.16 to
# 2.18 and 2.20 may know some of them.
SINCE = {
    **dict.fromkeys(
        ("CheckPinned", "DatasetFingerprint", "GlobalIterId", "GlobalShuffleDataset",
         "IndexFlatMapDataset", "IteratorGetModelProto", "ListSnapshotChunksDataset",
         "WeightedFlatMapDataset"),
        (2, 19),
    ),
    **dict.fromkeys(("DecodeJxl", "DecodeWebP"), (2, 21)),
}  # fmt: skip
OLDEST = (2, 15)  # the oldest version that SINCE tells about
# A TensorFlow Serving without XLA refuses a function that insists on it.
_MUST_COMPILE = "_XlaMustCompile"


def faults(folder: pathlib.Path, serving_version: str = SERVING_VERSION) -> list[str]:
    """Return what a server would refuse or must not run.

    GraphDef's own `min_consumer` tells nothing here: TensorFlow has written 12 for years, and
    every 2.x reads it. So the operations are compared by their names. Their attributes are not; a
    SavedModel leaves out those with default values, so that older versions can read it.

    Args:
        folder: the SavedModel.
        serving_version: of the TensorFlow Serving, as "2.15.1".

    Returns:
        One sentence for each kind of fault, with the operation and a function that has it.

    Raises:
        UserError: `serving_version` is not a version, or older than `OLDEST`.
    """
    version = parse_version(serving_version)
    saved = SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    found: dict[str, str] = {}
    for where, node in _nodes(saved):
        if node.op in FORBIDDEN:
            found.setdefault(node.op, f"{node.op} in {where} {FORBIDDEN[node.op]}")
        elif not hasattr(tf.raw_ops, node.op):
            found.setdefault(node.op, f"{node.op} in {where} is no operation of TensorFlow")
        elif SINCE.get(node.op, version) > version:
            known = ".".join(map(str, SINCE[node.op]))
            found.setdefault(node.op, f"{node.op} in {where} needs TensorFlow Serving {known}")
        if node.attr[_MUST_COMPILE].b:
            found.setdefault(_MUST_COMPILE, f"{where} calls a function with jit_compile")
    for graph in saved.meta_graphs:
        for function in graph.graph_def.library.function:
            if function.attr[_MUST_COMPILE].b:
                name = function.signature.name
                found.setdefault(_MUST_COMPILE, f"{name} is a function with jit_compile")
    return list(found.values())


def parse_version(text: str) -> tuple[int, int]:
    """Return the first two numbers of a version such as "2.15.1"; raises UserError."""
    parts = text.split(".")
    if len(parts) < 2 or not all(part.isdecimal() for part in parts[:2]):
        raise UserError(f"`serving_version`: {text!r} is no version such as 2.15.1", status=2)
    version = int(parts[0]), int(parts[1])
    if version < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise UserError(
            f"`serving_version`: {text} is older than {oldest}, the oldest known one", status=2
        )
    return version


def check(folder: pathlib.Path, serving_version: str = SERVING_VERSION) -> None:
    """Raise UserError if `faults` finds one."""
    if found := faults(folder, serving_version):
        raise UserError(f"not exported: {'; '.join(found)}: take it out of the model")


def _nodes(saved: SavedModel) -> Iterator[tuple[str, tf.compat.v1.NodeDef]]:
    """Yield every node, and the name of the graph or function that it is in."""
    for graph in saved.meta_graphs:
        for node in graph.graph_def.node:
            yield "the graph", node
        for function in graph.graph_def.library.function:
            for node in function.node_def:
                yield function.signature.name, node
