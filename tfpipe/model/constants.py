"""Functions of a model whose weights no longer change: compiled with the weights as constants.

    weights read from variables:  Conv2D, then BatchNorm, then ReLU
    constants:                    Conv2D of scaled weights with a bias and ReLU in one

TensorFlow folds only what is constant, and oneDNN arranges constant weights once and for all. What
TensorFlow does not fold, `tfpipe.model.fold` does.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import convert_to_constants

from tfpipe.core.errors import UserError
from tfpipe.model.fold import folded

# A graph is a protobuf message, which ends at 2 GB; what does not fit stays in variables.
_MOST_BYTES = 10**9


def with_constant_weights(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Compiles a function with the weights that it has when it is first called.

    Args:
        function: of a tensor or a list of them to the same. It is compiled anew for other shapes
            or types, by then with the weights of then.

    Returns:
        A function of the same. In the scope of a tf.distribute strategy it goes on reading the
        variables, which are on several devices.
    """
    compiled = tf.function(function, autograph=False)
    made: dict[tuple, Callable[[Any], Any]] = {}

    def call(values: Any) -> Any:
        key = tuple((each.dtype, *each.shape) for each in tf.nest.flatten(values))
        if key not in made:
            specs = tf.nest.map_structure(tf.TensorSpec.from_tensor, values)
            made[key] = _constant(compiled.get_concrete_function(specs))
        return made[key](values)

    return compiled if tf.distribute.has_strategy() else call


def frozen(function: Callable[[Any], Any], specs: Any) -> Callable[[Any], Any]:
    """Compiles a function once, with the weights of now, for tensors of any batch size.

    Args:
        function: of a tensor or a list of them to the same.
        specs: the `tf.TensorSpec` of each.

    Raises:
        UserError: the weights do not fit into a graph.
    """
    traced = tf.function(function, autograph=False).get_concrete_function(specs)
    if (size := _bytes(traced)) > _MOST_BYTES:
        raise UserError(
            f"--optimize=freeze: the weights take {size / 1e9:.1f} GB, and a graph holds at most"
            f" {_MOST_BYTES / 1e9:g} GB of them: export with --optimize=none"
        )
    return _constant(traced)


def _bytes(traced: Callable[[Any], Any]) -> int:
    return sum(v.shape.num_elements() * v.dtype.size for v in traced.graph.variables)


def _constant(traced: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Returns a traced function with constants in place of its variables, if they fit."""
    if _bytes(traced) > _MOST_BYTES:
        return traced
    # All of TensorFlow's convert_variables_to_constants_v2 but its end, which copies the graph
    # into a function node by node, in Python, and takes longer than the rest.
    converter = convert_to_constants._FunctionConverterDataInEager(
        traced, lower_control_flow=True, aggressive_inlining=False
    )
    graph, _ = convert_to_constants._replace_variables_by_constants(converter)
    own = traced.inputs[: len(traced.inputs) - len(traced.captured_inputs)]
    inputs, outputs = ([each.name for each in ends] for ends in (own, traced.outputs))
    needed = [each.op.name for each in traced.outputs]  # not the weights that were folded
    graph = tf.compat.v1.graph_util.extract_sub_graph(folded(graph), needed)

    def call(values: Any) -> Any:
        given = dict(zip(inputs, tf.nest.flatten(values), strict=True))
        flat = tf.graph_util.import_graph_def(graph, given, outputs, name="")
        return tf.nest.pack_sequence_as(traced.structured_outputs, flat)

    return tf.function(call, autograph=False)
