"""A classifier in two parts at the place from which on a stage of training changes it.

    image --+-- frozen layers of backbone a --> boundary --+-- trained layers of a, pool --+
            +-- frozen layers of backbone b --> boundary --+-- trained layers of b, pool --+-- head

What crosses the boundary is the same in every epoch, as long as the image is, so it can be kept.
"""

import dataclasses
import itertools
from collections.abc import Callable

import tensorflow as tf
import tf_keras

from tfpipe.core.errors import UserError
from tfpipe.model.classifier import Classifier, Tower, as_list, join
from tfpipe.model.describe import blocks

HEAD, ALL = "head", "all"


@dataclasses.dataclass(frozen=True)
class Split:
    """The two parts; they share their layers with the classifier.

    Attributes:
        start: where the trained part begins, as asked for.
        firsts: the index of each tower's first trained layer; the number of its layers if none.
        frozen: float [N, S, S, 3], RGB in 0..255, to the tensors of the boundary, a list.
        trained: these tensors to logits.
        backbone: what of the backbones is trained; empty if only the head is.
        any_frozen: whether a backbone has a frozen layer with weights.
    """

    start: str
    firsts: tuple[int, ...]
    frozen: tf_keras.Model
    trained: tf_keras.Model
    backbone: list[tf.Variable]
    any_frozen: bool

    @property
    def parameters(self) -> int:
        """How many numbers are trained."""
        return sum(int(v.shape.num_elements()) for v in self.trained.trainable_variables)

    def boundary(self, images: tf.Tensor) -> list[tf.Tensor]:
        """Returns what the frozen layers make of images [N, S, S, 3], RGB in 0..255, of any dtype.

        They run as in inference: no dropout, and BatchNorm keeps its statistics.
        """
        return as_list(self.frozen(tf.cast(images, tf.float32), training=False))


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
            batches of other images would change what the layers after them were trained on. Those
            of the head are trained where all backbones are frozen, too.

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
            if isinstance(layer, tf_keras.layers.BatchNormalization) and not batch_norm:
                layer.trainable = False
        any_frozen |= any(layer.weights for layer in layers[:first])
        trained_backbone += tower.backbone.trainable_variables
        prepared = tower.prepare(classifier.model.inputs[0])
        tensors = _through(tower, 0, first)([prepared])
        boundary = [tf_keras.Input(each.shape[1:], dtype=each.dtype) for each in tensors]
        crossing += tensors
        inputs += boundary
        vectors += _through(tower, first, len(layers))(boundary)
    for layer in _nested(classifier.head):
        if isinstance(layer, tf_keras.layers.BatchNormalization) and trained_backbone:
            layer.trainable = batch_norm
    return Split(
        start,
        tuple(firsts),
        tf_keras.Model(classifier.model.inputs, crossing, name="frozen"),
        tf_keras.Model(inputs, classifier.head(join(vectors)), name="trained"),
        trained_backbone,
        any_frozen,
    )


def check(classifier: Classifier, start: str) -> None:
    """Raises UserError if a classifier cannot be split there; see `split`."""
    _firsts(classifier, start)


def between(classifier: Classifier, early: Split, late: Split) -> tf_keras.Model:
    """Returns the way from the boundary of one split to that of another, as in inference.

    Args:
        classifier: that both are of.
        early: whose boundary lies before the other's in every backbone, or at the same place.
        late: the other.
    """
    inputs, crossing = [], []
    boundary = iter(early.frozen.outputs)
    for tower, first, last in zip(classifier.towers, early.firsts, late.firsts, strict=True):
        count = len(_crossing(tower.backbone, first))
        shapes = itertools.islice(boundary, count)
        own = [tf_keras.Input(each.shape[1:], dtype=each.dtype) for each in shapes]
        inputs += own
        crossing += _through(tower, first, last)(own)
    return tf_keras.Model(inputs, crossing, name="between")


def _through(tower: Tower, first: int, last: int) -> Callable[[list[tf.Tensor]], list[tf.Tensor]]:
    """Returns the way from a tower's boundary before the layer `first` to that before `last`.

    Behind the last layer of the backbone it is the vectors that cross: they are the smallest.
    """
    backbone = tower.backbone
    end = len(backbone.layers)
    if first == last:
        return list
    model = tf_keras.Model(_crossing(backbone, first), _crossing(backbone, last))

    def run(tensors: list[tf.Tensor]) -> list[tf.Tensor]:
        found = as_list(model(tensors))
        return tower.pool(found) if last == end else found

    return run


def _crossing(backbone: tf_keras.Model, first: int) -> list[tf.Tensor]:
    """Returns the tensors that layers from the index `first` on take from those before it.

    These are the backbone's inputs for the first layer, and its outputs behind the last one.
    """
    if first == 0:
        return list(backbone.inputs)
    if first == len(backbone.layers):
        return list(backbone.outputs)
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


def _find(backbone: tf_keras.Model, place: str) -> int | None:
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


def _nested(model: tf_keras.Model) -> list[tf_keras.layers.Layer]:
    """Returns all layers, also those within layers."""
    return [each for each in model.submodules if isinstance(each, tf_keras.layers.Layer)]
