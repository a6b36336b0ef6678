"""Cuts a model at inner layers, whose outputs become its feature maps; see `backbones`."""

import difflib
import pathlib
import re
from collections.abc import Sequence

import tensorflow as tf
import tf_keras

from tfpipe.core.errors import UserError

AT, AND = "@", "+"


def parse(text: str, *, where: str) -> tuple[str, ...]:
    """Split "layer+layer" into layers; raises UserError for an empty or repeated one."""
    layers = tuple(layer.strip() for layer in text.split(AND))
    if not all(layers) or len(set(layers)) < len(layers):
        raise UserError(
            f"{where}: {text!r} is not LAYER or LAYER{AND}LAYER, each once: name the layers"
            " that give feature maps"
        )
    return layers


def name(stem: str, layers: Sequence[str]) -> str:
    """Return the name of a cut, as "vgg16-block4_pool"; a valid scope name of TensorFlow."""
    joined = "-".join([pathlib.Path(stem).stem, *layers])
    return re.sub(r"[^A-Za-z0-9_.-]", "_", joined).lstrip("_-")


def end(
    model: tf_keras.Model,
    layers: Sequence[str],
    *,
    name: str,
    where: str,
    among: Sequence[str] | None = None,
) -> tf_keras.Model:
    """Return a model that ends at layers of another one and shares them.

    Args:
        model: from float [N, S, S, 3].
        layers: names; each gives an output [N, h, w, c], in this order.
        name: the new model's.
        where: the option with its value, for the beginning of a message.
        among: the names to choose from; None for all layers.

    Raises:
        UserError: there is no such layer, or it does not give one feature map.
    """
    among = [each.name for each in model.layers] if among is None else among
    for layer in layers:
        if layer not in among:
            near = difflib.get_close_matches(layer, among, n=3)
            hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
            raise UserError(
                f"{where}: the model has no layer {layer!r} to end at; {hint}its last layers are"
                f" {', '.join(among[-6:])}"
            )
    try:
        # The last node: a model used as a layer has its own node before it.
        outputs = [model.get_layer(layer).get_output_at(-1) for layer in layers]
        for layer, output in zip(layers, outputs, strict=True):
            shape = getattr(output, "shape", None)
            if shape is None or shape.rank != 4:
                raise UserError(
                    f"{where}: {layer!r} gives {_shapes(output)}, not a feature map [N, height,"
                    " width, channels]: cut it at an earlier layer"
                )
        ends = outputs[0] if len(outputs) == 1 else outputs
        return tf_keras.Model(model.inputs, ends, name=name)
    except (ValueError, RuntimeError, TypeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{where} cannot be cut there ({reason}): cut it at another layer"
        ) from None


def named_by_keras(layer: tf_keras.layers.Layer) -> bool:
    """Return whether a layer is named after its class, as conv2d_3.

    Keras numbers such layers per process, so the same layer has another name in the next model.
    """
    plain = re.sub(r"_\d+$", "", layer.name).replace("_", "")
    own = type(layer).__name__.lower()
    return plain in (own, own.removesuffix("layer")) or layer.name.startswith("tf.")


def _shapes(output: object) -> str:
    return ", ".join(str(tuple(tensor.shape)) for tensor in tf.nest.flatten(output))
