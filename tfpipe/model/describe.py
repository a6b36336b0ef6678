"""Describes a classifier in a table: the blocks of its backbones, the pooling and the head."""

import re

import tf_keras

from tfpipe.core import terminal
from tfpipe.model import cut
from tfpipe.model.classifier import Classifier, Prepare

# A block's name ends with the first number that ends a word: block1_conv1, conv_pw_1_bn,
# block2a_expand, convnext_tiny_stage_0_block_1.
_BLOCK = re.compile(r"(.*?\d+[a-z]?)(?=[_/.-]|$)")


def show(classifier: Classifier, trained: dict[str, int]) -> None:
    """Print the classifier's parts, its parameters and those that each stage trains."""
    rows = []
    for layer in classifier.features.layers:
        if isinstance(layer, tf_keras.layers.InputLayer | Prepare):
            continue
        if not isinstance(layer, tf_keras.Model):
            rows.append(_row(layer.name, [layer], layer.output_shape))
        else:
            side = layer.input_shape[1]
            rows.append(_row(f"{layer.name} at {side} x {side}", _own(layer), layer.output_shape))
            rows += [
                _row(f"  {name}", members, members[-1].output_shape)
                for name, members in blocks(layer).items()
            ]
    rows += [_row(layer.name, [layer], layer.output_shape) for layer in _own(classifier.head)]
    terminal.show_table("model", ["part", "layers", "parameters", "output"], rows)
    counts = {"total": classifier.model.count_params()} | trained
    rows = [[name, f"{count:,}"] for name, count in counts.items()]
    terminal.show_table("parameters", ["", "parameters"], rows)


def blocks(model: tf_keras.Model) -> dict[str, list[tf_keras.layers.Layer]]:
    """Group a model's layers, without its input, by the block in their names.

    Layers with Keras's automatic names (conv2d_3) belong to the block before them. If a merge layer
    has the name of a block, as InceptionV3's `mixed0`, it ends that block, and they belong to it.
    Layers after that end belong to a later block, as `mixed9_1` to `mixed10`.
    """
    grouped: dict[str, list[tf_keras.layers.Layer]] = {}
    unnamed: list[tf_keras.layers.Layer] = []
    ended = set()
    last = None
    for layer in _own(model):
        name = _block(layer.name)
        if name in ended or cut.named_by_keras(layer):
            unnamed.append(layer)
            continue
        is_end = isinstance(layer, tf_keras.layers.Concatenate | tf_keras.layers.Add)
        if is_end and layer.name == name:
            ended.add(name)
        owner = name if last is None or (is_end and name not in grouped) else last
        if unnamed:
            grouped.setdefault(owner, []).extend(unnamed)
            unnamed = []
        grouped.setdefault(name, []).append(layer)
        last = name
    if unnamed:
        grouped.setdefault(last or model.name, []).extend(unnamed)
    return grouped


def _block(name: str) -> str:
    match = _BLOCK.match(name)
    return match[1] if match else re.split("[_/]", name)[0]


def _own(model: tf_keras.Model) -> list[tf_keras.layers.Layer]:
    return [each for each in model.layers if not isinstance(each, tf_keras.layers.InputLayer)]


def _row(name: str, layers: list[tf_keras.layers.Layer], output: tuple) -> list[object]:
    shapes = output if isinstance(output, list) else [output]
    count = sum(layer.count_params() for layer in layers)
    sides = ", ".join(" x ".join(map(str, shape[1:])) for shape in shapes)
    return [name, len(layers), f"{count:,}", sides]
