"""Partitions a classifier where a stage of training begins: a frozen and a trained part.

    image --+-- frozen layers of backbone a --> boundary --+-- trained layers of a, pool --+
            +-- frozen layers of backbone b --> boundary --+-- trained layers of b, pool --+-- head

The tensors at the boundary depend only on the image, so they can be cached across epochs.
"""

import dataclasses
import itertools
from collections.abc import Callable

import tensorflow as tf
import tf_keras

from tfpipe.core.errors import UserError
from tfpipe.model import keras_graph
from tfpipe.model.classifier import Backbone, Classifier, as_list, join
from tfpipe.model.describe import blocks

HEAD, ALL = "head", "all"


@dataclasses.dataclass(frozen=True)
class Partition:
    """The two parts; they share their layers with the classifier."""

    start: str  # where the trained part begins, as given to `partition`
    firsts: tuple[int, ...]  # index of each backbone's first trained layer; its length if none
    frozen: tf_keras.Model  # float [N, S, S, 3], RGB in 0..255, to a list: the boundary
    trained: tf_keras.Model  # these tensors to logits: the head of `features`
    features: tf_keras.Model  # these tensors to [N, F], what the head takes
    # Trained variables of the backbones, and the trained blocks between each and the head.
    backbone: list[tuple[tf.Variable, int]]
    any_frozen: bool  # whether a backbone has a frozen layer with weights

    @property
    def parameters(self) -> int:
        """The number of trained parameters."""
        return sum(int(v.shape.num_elements()) for v in self.trained.trainable_variables)

    def boundary(self, images: tf.Tensor) -> list[tf.Tensor]:
        """Return the boundary's tensors for images [N, S, S, 3], RGB in 0..255, of any dtype.

        The frozen layers run as in inference: no dropout, and BatchNorm keeps its statistics.
        """
        return as_list(self.frozen(tf.cast(images, tf.float32), training=False))


def partition(classifier: Classifier, start: str, *, batch_norm: bool = False) -> Partition:
    """Partition a classifier, and make exactly the layers behind the boundary trainable.

    Args:
        classifier: its layers' `trainable` is set.
        start: "head", "all", or a layer or block of a backbone, as "block13"; for one of several
            backbones "xception/block13"; several of these joined by "+". Backbones without a place
            are frozen. A block begins with its first layer in the backbone's order.
        batch_norm: whether BatchNorm layers behind the boundary are trained too. By default they
            run as in inference: statistics of small batches of other images would change the
            inputs that later layers were trained on. The head's are trained with a backbone's.

    Raises:
        UserError: a backbone has no such layer or block.
    """
    firsts = _firsts(classifier, start)
    classifier.model.trainable = True
    inputs, vectors, crossing, trained_backbone = [], [], [], []
    any_frozen = False
    for backbone, first in zip(classifier.backbones, firsts, strict=True):
        layers = backbone.model.layers
        for index, layer in enumerate(layers):
            layer.trainable = index >= first
        for layer in _nested(backbone.model):
            if isinstance(layer, tf_keras.layers.BatchNormalization) and not batch_norm:
                layer.trainable = False
        any_frozen |= any(layer.weights for layer in layers[:first])
        trained_backbone += _depths(backbone)
        prepared = backbone.prepare(classifier.model.inputs[0])
        tensors = _through(backbone, 0, first)([prepared])
        boundary = [tf_keras.Input(each.shape[1:], dtype=each.dtype) for each in tensors]
        crossing += tensors
        inputs += boundary
        vectors += _through(backbone, first, len(layers))(boundary)
    for layer in _nested(classifier.head):
        if isinstance(layer, tf_keras.layers.BatchNormalization):
            layer.trainable = batch_norm and bool(trained_backbone)
    features = join(vectors)
    return Partition(
        start,
        tuple(firsts),
        tf_keras.Model(classifier.model.inputs, crossing, name="frozen"),
        tf_keras.Model(inputs, classifier.head(features), name="trained"),
        tf_keras.Model(inputs, features, name="features"),
        trained_backbone,
        any_frozen,
    )


def check(classifier: Classifier, start: str) -> None:
    """Raise UserError if a classifier has no such place; see `partition`."""
    _firsts(classifier, start)


def between(classifier: Classifier, early: Partition, late: Partition) -> tf_keras.Model:
    """Return the layers of a classifier from an early boundary to one at or behind it."""
    inputs, crossing = [], []
    boundary = iter(early.frozen.outputs)
    for backbone, first, last in zip(classifier.backbones, early.firsts, late.firsts, strict=True):
        count = len(_crossing(backbone.model, first))
        shapes = itertools.islice(boundary, count)
        own = [tf_keras.Input(each.shape[1:], dtype=each.dtype) for each in shapes]
        inputs += own
        crossing += _through(backbone, first, last)(own)
    return tf_keras.Model(inputs, crossing, name="between")


def _depths(backbone: Backbone) -> list[tuple[tf.Variable, int]]:
    """Return each trained variable of a backbone, and the number of trained blocks behind its."""
    variables = [
        [variable for layer in members for variable in layer.trainable_variables]
        for members in blocks(backbone.model).values()
    ]
    trained = [each for each in variables if each]
    return [(v, len(trained) - 1 - place) for place, own in enumerate(trained) for v in own]


def _through(
    backbone: Backbone, first: int, last: int
) -> Callable[[list[tf.Tensor]], list[tf.Tensor]]:
    """Return a function from a backbone's tensors before layer `first` to those before `last`.

    Behind the last layer these are the pooled vectors, which are the smallest.
    """
    if first == last:
        return list
    end = len(backbone.model.layers)
    model = tf_keras.Model(_crossing(backbone.model, first), _crossing(backbone.model, last))

    def run(tensors: list[tf.Tensor]) -> list[tf.Tensor]:
        found = as_list(model(tensors))
        return backbone.pool(found) if last == end else found

    return run


def _crossing(model: tf_keras.Model, first: int) -> list[tf.Tensor]:
    """Return the tensors that the layers from index `first` on take from earlier layers.

    These are the model's inputs for the first layer, and its outputs behind the last one.
    """
    if first == 0:
        return list(model.inputs)
    if first == len(model.layers):
        return list(model.outputs)
    late = {id(layer) for layer in model.layers[first:]}
    made, used = [], []
    for node in keras_graph.nodes(model):
        if id(node.layer) in late:
            used += node.keras_inputs
        else:
            made += tf.nest.flatten(node.outputs)
    early = {id(tensor) for tensor in made}
    return list({id(tensor): tensor for tensor in used if id(tensor) in early}.values())


def _firsts(classifier: Classifier, start: str) -> list[int]:
    """Return the index of each backbone's first trained layer; its number of layers if none."""
    backbones = classifier.backbones
    none = [len(backbone.model.layers) for backbone in backbones]
    if start == HEAD:
        return none
    if start == ALL:
        return [0] * len(backbones)
    firsts = list(none)
    for part in start.split("+"):
        owner, slash, place = part.partition("/")
        if not (slash and any(backbone.name == owner for backbone in backbones)):
            owner, place = "", part
        candidates = [each for each in backbones if owner in ("", each.name)]
        found = {each.name: _find(each.model, place) for each in candidates}
        if all(index is None for index in found.values()):
            raise UserError(_unknown(part, candidates))
        for number, backbone in enumerate(backbones):
            if (index := found.get(backbone.name)) is not None:
                firsts[number] = min(firsts[number], index)
    return firsts


def _find(model: tf_keras.Model, place: str) -> int | None:
    """Return the index of a layer, or of a block's first layer; None if there is none."""
    names = [layer.name for layer in model.layers]
    if place in names:
        return names.index(place)
    members = {id(layer) for layer in blocks(model).get(place, [])}
    return next((i for i, layer in enumerate(model.layers) if id(layer) in members), None)


def _unknown(place: str, backbones: list[Backbone]) -> str:
    known = "; ".join(f"{each.name} has {', '.join(blocks(each.model))}" for each in backbones)
    return (
        f"`stages`: from={place} is no layer or block of the backbones; give head, all, a layer, or"
        f" a block: {known}"
    )


def _nested(model: tf_keras.Model) -> list[tf_keras.layers.Layer]:
    """Return all layers, also those within layers."""
    return [each for each in model.submodules if isinstance(each, tf_keras.layers.Layer)]
