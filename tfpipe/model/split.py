"""A classifier in two parts at the place from which on a stage of training changes it.

    image --+-- frozen layers of backbone a --> boundary --+-- trained layers of a, pool --+
            +-- frozen layers of backbone b --> boundary --+-- trained layers of b, pool --+-- head

What crosses the boundary is the same in every epoch, as long as the image is, so it can be kept.
"""

import dataclasses

import tensorflow as tf

from tfpipe.errors import UserError
from tfpipe.model.classifier import Classifier, Tower, as_list, join
from tfpipe.model.describe import blocks

HEAD, ALL = "head", "all"


@dataclasses.dataclass(frozen=True)
class Split:
    """The two parts; they share their layers with the classifier.

    Attributes:
        start: where the trained part begins, as asked for.
        frozen: float [N, S, S, 3], RGB in 0..255, to the tensors of the boundary, a list.
        trained: these tensors to logits.
        backbone: what of the backbones is trained; empty if only the head is.
        any_frozen: whether a backbone has a frozen layer with weights.
    """

    start: str
    frozen: tf.keras.Model
    trained: tf.keras.Model
    backbone: list[tf.Variable]
    any_frozen: bool

    @property
    def parameters(self) -> int:
        """How many numbers are trained."""
        return sum(int(v.shape.num_elements()) for v in self.trained.trainable_variables)


def split(classifier: Classifier, start: str, *, batch_norm: bool = False) -> Split:
    """Splits a classifier, and makes exactly the layers behind the boundary trainable.

    Args:
        classifier: its layers' `trainable` is set.
        start: "head", "all", or a layer or block of a backbone, as "block13"; for one of several
            backbones "xception/block13"; several of these joined by "+". A backbone that none of
            them names is frozen. A block begins with the first of its layers in the order of the
            backbone's.
        batch_norm: whether BatchNorm layers behind the boundary are trained too. By default they
            keep their statistics, scales and shifts, and run as in inference: statistics of small
            batches of other images would change what the layers after them were trained on.

    Raises:
        UserError: a backbone has no such layer or block.
    """
    firsts = _firsts(classifier, start)
    classifier.model.trainable = True
    inputs, vectors, crossing, trained_backbone = [], [], [], []
    any_frozen = False
    for tower, first in zip(classifier.towers, firsts, strict=True):
        layers = tower.backbone.layers
        for index, layer in enumerate(layers):
            layer.trainable = index >= first
        for layer in _nested(tower.backbone):
            if isinstance(layer, tf.keras.layers.BatchNormalization) and not batch_norm:
                layer.trainable = False
        any_frozen |= any(layer.weights for layer in layers[:first])
        trained_backbone += tower.backbone.trainable_variables
        prepared = tower.prepare(classifier.model.inputs[0])
        tensors, rest = _cut(tower, prepared, first)
        boundary = [tf.keras.Input(each.shape[1:], dtype=each.dtype) for each in tensors]
        crossing += tensors
        inputs += boundary
        vectors += rest(boundary)
    return Split(
        start,
        tf.keras.Model(classifier.model.inputs, crossing, name="frozen"),
        tf.keras.Model(inputs, classifier.head(join(vectors)), name="trained"),
        trained_backbone,
        any_frozen,
    )


def _cut(tower: Tower, prepared: tf.Tensor, first: int) -> tuple:
    """Returns the tensors at a tower's boundary, and the way from them to its vectors."""
    backbone = tower.backbone
    if first == len(backbone.layers):
        return tower.pool(as_list(backbone(prepared))), list
    if first == 0:
        return [prepared], lambda tensors: tower.pool(as_list(backbone(tensors[0])))
    tensors = _crossing(backbone, first)
    before = tf.keras.Model(backbone.inputs, tensors)
    after = tf.keras.Model(tensors, backbone.outputs)
    return as_list(before(prepared)), lambda tensors: tower.pool(as_list(after(tensors)))


def _crossing(backbone: tf.keras.Model, first: int) -> list[tf.Tensor]:
    """Returns the tensors that layers from the index `first` on take from those before it."""
    late = {id(layer) for layer in backbone.layers[first:]}
    found = {}
    for depth in sorted(backbone._nodes_by_depth, reverse=True):
        for node in backbone._nodes_by_depth[depth]:
            if id(node.layer) in late:
                for tensor in node.keras_inputs:
                    if id(tensor._keras_history.layer) not in late:
                        found[id(tensor)] = tensor
    return list(found.values())


def _firsts(classifier: Classifier, start: str) -> list[int]:
    """Returns the index of each tower's first trained layer; the number of its layers if none."""
    towers = classifier.towers
    none = [len(tower.backbone.layers) for tower in towers]
    if start == HEAD:
        return none
    if start == ALL:
        return [0] * len(towers)
    firsts = list(none)
    for part in start.split("+"):
        owner, slash, place = part.partition("/")
        named = slash and any(tower.name == owner for tower in towers)
        if not named:
            owner, place = "", part
        matched = False
        for index, tower in enumerate(towers):
            found = _find(tower.backbone, place) if owner in ("", tower.name) else None
            if found is not None:
                firsts[index] = min(firsts[index], found)
                matched = True
        if not matched:
            raise UserError(_unknown(part, [t for t in towers if owner in ("", t.name)]))
    return firsts


def _find(backbone: tf.keras.Model, place: str) -> int | None:
    """Returns the index of a layer, or of a block's first layer; None if there is none."""
    names = [layer.name for layer in backbone.layers]
    if place in names:
        return names.index(place)
    members = {id(layer) for layer in blocks(backbone).get(place, [])}
    return next((i for i, layer in enumerate(backbone.layers) if id(layer) in members), None)


def _unknown(place: str, towers: list[Tower]) -> str:
    known = "; ".join(f"{t.name} has {', '.join(blocks(t.backbone))}" for t in towers)
    return (
        f"--stages: from={place} is no layer or block of the backbones; give head, all, a layer, or"
        f" a block: {known}"
    )


def _nested(model: tf.keras.Model) -> list[tf.keras.layers.Layer]:
    """Returns all layers, also those within layers."""
    return [each for each in model.submodules if isinstance(each, tf.keras.layers.Layer)]
