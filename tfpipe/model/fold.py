"""Folds BatchNorm into the convolution before it, where all its numbers are constants.

    Conv2D(x, w), then BatchNorm:    scale / sqrt(variance + epsilon) * (conv - mean) + offset
    folded:                          Conv2D(x, w * factor) + (offset - mean * factor)

    with factor = scale / sqrt(variance + epsilon), one number for each channel

TensorFlow does so itself for an ordinary convolution, but not for a depthwise one, whose BatchNorm
then passes over all of its output once more; and in bfloat16 for none. A convolution with a bias
and an activation behind it runs as one operation.
"""

import collections

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef

_CONVOLUTIONS = ("Conv2D", "DepthwiseConv2dNative")
_NORMS = ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")

# What it is done for: in float16 a weight that is multiplied by a small factor would lose digits.
_TYPES = (tf.float32, tf.bfloat16)

# What a constant may lie behind: under mixed precision a convolution casts its weights.
_PASSES = ("Identity", "Cast")


def folded(graph: GraphDef) -> GraphDef:
    """Returns a graph that computes the same but for rounding.

    Args:
        graph: of float32 or with mixed bfloat16, in which what is constant is a Const of float32,
            perhaps behind an Identity or a Cast.

    Returns:
        It, with each BatchNorm in inference that follows a convolution folded into that, if nothing
        else needs the convolution's result. The names of results stay; nothing waits for constants.
    """
    nodes = {node.name: node for node in graph.node}
    inputs = collections.Counter(name for node in graph.node for name in node.input)
    users = collections.Counter()
    for name, count in inputs.items():
        users[_node_name(name)] += count
    changed: dict[str, list[NodeDef]] = {}
    for norm in graph.node:
        if norm.op not in _NORMS or norm.attr["is_training"].b:
            continue
        convolution = nodes.get(_node_name(norm.input[0]))
        if convolution is None or convolution.op not in _CONVOLUTIONS:
            continue
        plain = norm.attr["data_format"].s == convolution.attr["data_format"].s == b"NHWC"
        alone = users[convolution.name] == 1 and users[norm.name] == inputs[norm.name]
        found = [_constant(nodes, name) for name in (convolution.input[1], *norm.input[1:])]
        dtype = tf.dtypes.as_dtype(convolution.attr["T"].type)
        if not plain or not alone or dtype not in _TYPES or any(each is None for each in found):
            continue
        kernel, scale, offset, mean, variance = found
        factor = scale / np.sqrt(variance + norm.attr["epsilon"].f)
        shape = (1, 1, *kernel.shape[2:]) if convolution.op != "Conv2D" else factor.shape
        weights = _const(f"{norm.name}/weights", kernel * factor.reshape(shape), dtype)
        bias = _const(f"{norm.name}/bias", offset - mean * factor, dtype)
        scaled = NodeDef()
        scaled.CopyFrom(convolution)
        scaled.name, scaled.input[1] = f"{norm.name}/convolution", weights.name
        added = NodeDef(name=norm.name, op="BiasAdd", input=[scaled.name, bias.name])
        added.attr["T"].type = dtype.as_datatype_enum
        changed[norm.name] = [weights, bias, scaled, added]
        changed[convolution.name] = []
    result = GraphDef(library=graph.library, versions=graph.versions)
    for node in graph.node:
        result.node.extend(changed.get(node.name, [node]))
    for node in result.node:
        # Who waits for a weight to be read would keep it beside what became of it.
        node.input[:] = [
            name
            for name in node.input
            if not (name.startswith("^") and _source(nodes, name).op == "Const")
        ]
    return result


def _constant(nodes: dict[str, NodeDef], name: str) -> np.ndarray | None:
    """Returns the value of an input in float64; None if it is not constant, or not float32."""
    node = _source(nodes, name)
    if node.op != "Const" or node.attr["dtype"].type != tf.float32.as_datatype_enum:
        return None
    return tf.make_ndarray(node.attr["value"].tensor).astype(np.float64)


def _source(nodes: dict[str, NodeDef], name: str) -> NodeDef:
    """Returns where an input comes from, before what only passes it on."""
    node = nodes[_node_name(name)]
    while node.op in _PASSES:
        node = nodes[_node_name(node.input[0])]
    return node


def _const(name: str, value: np.ndarray, dtype: tf.DType) -> NodeDef:
    node = NodeDef(name=name, op="Const")
    node.attr["dtype"].type = dtype.as_datatype_enum
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value.astype(dtype.as_numpy_dtype)))
    return node


def _node_name(name: str) -> str:
    """Returns the node that an input is a result of, or waits for."""
    return name.removeprefix("^").split(":")[0]
