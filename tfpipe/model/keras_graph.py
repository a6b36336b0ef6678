"""The graph of a functional Keras model: its nodes, each a call of a layer."""

from typing import Any

import tensorflow as tf
import tf_keras


def nodes(model: tf_keras.Model) -> list[Any]:
    """Return a model's own nodes, in the order of its layers.

    A layer that other models share has nodes of their graphs, too; these are left out. A node has
    the attributes `layer`, `keras_inputs` (a list of tensors) and `outputs` (tensors, nested).
    """
    index = {id(layer): number for number, layer in enumerate(model.layers)}
    producers = {
        id(tensor): node
        for layer in model.layers
        for node in layer.inbound_nodes
        for tensor in tf.nest.flatten(node.outputs)
    }
    found: dict[int, Any] = {}
    tensors = list(model.outputs)
    while tensors:
        node = producers.get(id(tensors.pop()))  # None for the input of a sequential model
        if node is not None and id(node) not in found:
            found[id(node)] = node
            tensors += node.keras_inputs
    return sorted(found.values(), key=lambda node: index[id(node.layer)])
