"""The features that a signature parses from serialized tf.Examples, and the check of each Example.

TensorFlow parses the Examples of a whole batch at once, and one wrong Example fails all of them. So
each request is checked alone, before it joins a batch.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from google.protobuf.message import DecodeError
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef

from tfpipe.protocol import tensors
from tfpipe.protocol.errors import invalid
from tfpipe.protocol.messages import Example, SignatureDef, types_pb2

_PARSE = "ParseExampleV2"  # the operation of `tf.io.parse_example`
_LISTS = {
    types_pb2.DT_STRING: "bytes_list",
    types_pb2.DT_FLOAT: "float_list",
    types_pb2.DT_INT64: "int64_list",
}


class FeatureSpec(NamedTuple):
    """A feature that a model parses.

    Attributes:
        key: its name.
        kind: the field that must hold its values, such as "bytes_list".
        size: the number of values; None for any.
        required: whether every Example must have it.
    """

    key: str
    kind: str
    size: int | None = None
    required: bool = False


def parsed_by(graph: MetaGraphDef, definition: SignatureDef) -> tuple[FeatureSpec, ...]:
    """Return the features that a signature parses; none if its graph does not tell."""
    found: list[FeatureSpec] = []
    for node, beside in _reached(graph, definition):
        if node.op == _PARSE:
            found += _specs(node, beside)
    return tuple(found)


def check(specs: Sequence[FeatureSpec], serialized: Iterable[bytes]) -> None:
    """Raise RequestError that names the first Example without a feature as specified."""
    for place, data in enumerate(serialized):
        try:
            features = Example.FromString(data).features.feature
        except DecodeError:
            keys = ", ".join(f"{each.key} ({each.kind})" for each in specs)
            raise invalid(f"input {place} is no serialized tf.Example with {keys}") from None
        for spec in specs:
            if error := _error(spec, features):
                raise invalid(f"Example {place}: feature {spec.key} {error}")


def _error(spec: FeatureSpec, features: Mapping) -> str:
    """Return what is wrong with a feature, or ""."""
    kind = features[spec.key].WhichOneof("kind") if spec.key in features else None
    if kind is None:
        there = ", ".join(sorted(features)) or "nothing"
        return f"({spec.kind}) is missing; there is {there}" if spec.required else ""
    if kind != spec.kind:
        return f"has a {kind}, and the model takes a {spec.kind}"
    count = len(getattr(features[spec.key], kind).value)
    if spec.size is not None and count != spec.size:
        return f"has {count} values, and the model takes {spec.size}"
    return ""


def _reached(
    graph: MetaGraphDef, definition: SignatureDef
) -> Iterator[tuple[NodeDef, Mapping[str, NodeDef]]]:
    """Yield each node that a signature may run, with the nodes beside it by name."""
    library = {each.signature.name: each for each in graph.graph_def.library.function}
    top = {node.name: node for node in graph.graph_def.node}
    names = [info.name for info in definition.outputs.values()]
    seen, functions = set(), []

    def called(node: NodeDef) -> list[str]:
        values = node.attr.values()
        return [v.func.name for v in values if v.HasField("func")] + [
            each.name for v in values for each in v.list.func
        ]

    while names:
        name = names.pop().lstrip("^").partition(":")[0]
        if name in seen or name not in top:
            continue
        seen.add(name)
        yield top[name], top
        names += top[name].input
        functions += called(top[name])
    while functions:
        name = functions.pop()
        if name in seen or name not in library:
            continue
        seen.add(name)
        nodes = {node.name: node for node in library[name].node_def}
        for node in nodes.values():
            yield node, nodes
            functions += called(node)


def _specs(node: NodeDef, beside: Mapping[str, NodeDef]) -> Iterator[FeatureSpec]:
    """Yield the features of a parsing operation whose arguments are constants."""
    constants = [_constant(beside.get(name.partition(":")[0])) for name in node.input[2:]]
    if any(each is None for each in constants[:3]):
        return
    (sparse, dense, ragged), defaults = constants[:3], constants[3:]
    attributes = node.attr
    for keys, kinds in (
        (sparse, attributes["sparse_types"].list.type),
        (ragged, attributes["ragged_value_types"].list.type),
    ):
        for key, kind in zip(keys, kinds, strict=True):
            yield FeatureSpec(key.decode(), _LISTS[kind])
    columns = (dense, attributes["Tdense"].list.type, attributes["dense_shapes"].list.shape)
    for key, kind, shape, default in zip(*columns, defaults, strict=True):
        sizes = [dim.size for dim in shape.dim]
        fixed = -1 not in sizes
        size = int(np.prod(sizes)) if fixed else None
        required = fixed and default is not None and not default.size
        yield FeatureSpec(key.decode(), _LISTS[kind], size, required)


def _constant(node: NodeDef | None) -> np.ndarray | None:
    if node is None or node.op != "Const":
        return None
    try:
        return tensors.from_proto(node.attr["value"].tensor)
    except ValueError:
        return None
