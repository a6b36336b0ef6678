"""Functions of a model whose weights no longer change: compiled with the weights as constants.

    weights read from variables:  Conv2D, then BatchNorm, then ReLU
    constants:                    Conv2D of scaled weights with a bias and ReLU in one

TensorFlow folds only what is constant, and oneDNN arranges constant weights once and for all. What
TensorFlow does not fold, `tfpipe.model.fold` does.
"""

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from tfpipe.errors import UserError
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
    compiled = tf.function(function)
    made: dict[tuple, Callable[[Any], Any]] = {}

    def call(values: Any) -> Any:
        key = tuple((each.dtype, *each.shape) for each in tf.nest.flatten(values))
        if key not in made:
            specs = tf.nest.map_structure(tf.TensorSpec.from_tensor, values)
            # In a function of its own: called eagerly, a pruned one writes its arguments into an
            # error, all their numbers, that it then drops.
            constant = _constant(compiled.get_concrete_function(specs))
            made[key] = tf.function(constant, autograph=False)
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
    traced = tf.function(function).get_concrete_function(specs)
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
    constant = convert_variables_to_constants_v2(traced)
    graph = folded(constant.graph.as_graph_def())
    load = functools.partial(tf.graph_util.import_graph_def, graph, name="")
    ends = ([each.name for each in tensors] for tensors in (constant.inputs, constant.outputs))
    flat = tf.compat.v1.wrap_function(load, []).prune(*ends)  # of the tensors, to a list
    return lambda values: tf.nest.pack_sequence_as(
        traced.structured_outputs, flat(*tf.nest.flatten(values))
    )
