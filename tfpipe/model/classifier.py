"""The classifier: one or several backbones, their features joined, and a head.

    image [S, S, 3] --+-- resize, normalise, backbone a, pool --+
                      +-- resize, normalise, backbone b, pool --+-- concat -- head -- logits

S is the largest input side of the backbones. The others shrink the image on the device.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from tfpipe.core import spec
from tfpipe.core.errors import UserError
from tfpipe.core.registry import Registry
from tfpipe.model import backbones as architectures
from tfpipe.model import stochastic_depth


class AsWritten(tf_keras.layers.Layer):
    """A layer that AutoGraph leaves alone; Keras has it rewrite the source of others."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.call = tf.autograph.experimental.do_not_convert(self.call)


class AverageAndMax(AsWritten):
    """Concatenates average and maximum of a feature map [N, h, w, C] to [N, 2 C]."""

    def call(self, maps: tf.Tensor) -> tf.Tensor:
        """Return [N, 2 C]."""
        return tf.concat([tf.reduce_mean(maps, [1, 2]), tf.reduce_max(maps, [1, 2])], axis=-1)


POOLINGS = {
    "avg": tf_keras.layers.GlobalAveragePooling2D,
    "max": tf_keras.layers.GlobalMaxPooling2D,
    "avg_max": AverageAndMax,
    "flatten": tf_keras.layers.Flatten,
}
# Outputs: one logit of the second of two classes; a distribution over the classes; a logit of each
# class, whatever the others are, for images with several classes or none.
SIGMOID, SOFTMAX, SIGMOIDS = "sigmoid", "softmax", "sigmoids"


@dataclasses.dataclass(frozen=True)
class BackboneConfig:
    """One backbone of a classifier to be built: the arguments of `backbones.get` and `build`."""

    name: str
    size: int
    weights: str


@dataclasses.dataclass(frozen=True)
class Backbone:
    """The layers of one backbone, from the image to a vector."""

    name: str  # of the architecture
    prepare: tf_keras.layers.Layer  # from float [N, S, S, 3] to the model's input
    model: tf_keras.Model  # to one or several feature maps
    poolings: tuple[tf_keras.layers.Layer, ...]  # from each feature map to a vector

    def pool(self, maps: list[tf.Tensor]) -> list[tf.Tensor]:
        """Return the vector [N, .] of each feature map [N, h, w, C]."""
        return [pooling(each) for pooling, each in zip(self.poolings, maps, strict=True)]


@dataclasses.dataclass(frozen=True)
class Classifier:
    """The Keras models of a classifier; they share their layers.

    Images are float [N, S, S, 3], RGB in 0..255. Logits are float32, [N, 1] of a sigmoid, [N, C] of
    a softmax or of several sigmoids.
    """

    model: tf_keras.Model  # images to logits: `head` of `features`
    features: tf_keras.Model  # images to [N, F]: the backbones, pooled and joined
    backbones: tuple[Backbone, ...]  # the parts that `features` joins
    head: tf_keras.Model  # [N, F] to logits
    output: str  # "sigmoid", "softmax" or "sigmoids"
    image_size: int  # S

    def probabilities(self, logits: tf.Tensor) -> tf.Tensor:
        """Return the probability of each class, float32 [N, C], for logits [N, 1] or [N, C]."""
        return probabilities(logits, self.output)

    def losses(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """Return the cross-entropy of each sample, in nats, float32 [N].

        `labels` are shares of the classes, float32 [N, C]; `logits` float32 [N, 1] or [N, C]. Of
        several sigmoids it is the mean over the classes.
        """
        if self.output == SIGMOIDS:
            each = tf.nn.sigmoid_cross_entropy_with_logits(labels, logits)
            return tf.reduce_mean(each, -1)
        if self.output == SOFTMAX:
            return tf.nn.softmax_cross_entropy_with_logits(labels, logits)
        return tf.nn.sigmoid_cross_entropy_with_logits(labels[:, 1], logits[:, 0])


def probabilities(logits: tf.Tensor, output: str) -> tf.Tensor:
    """Return the probability of each class, float32 [N, C].

    The logits are float32, [N, 1] if `output` is "sigmoid", else [N, C]. Of "sigmoids" a row need
    not add up to 1.
    """
    if output == SOFTMAX:
        return tf.nn.softmax(logits)
    if output == SIGMOIDS:
        return tf.sigmoid(logits)
    return tf.concat([tf.sigmoid(-logits), tf.sigmoid(logits)], axis=-1)


def log_probabilities(logits: tf.Tensor) -> tf.Tensor:
    """Return the log of `probabilities`, exact also where those round to 0 or 1.

    The logits are float32 [N, 1] of a sigmoid, or [N, C], C > 1, of a softmax.
    """
    if logits.shape[-1] > 1:
        return tf.nn.log_softmax(logits)
    return tf.concat([tf.math.log_sigmoid(-logits), tf.math.log_sigmoid(logits)], axis=-1)


class Prepare(AsWritten):
    """Resizes images to one backbone's input side and normalises them, in float32."""

    def __init__(self, architecture: architectures.Architecture, size: int, **kwargs):
        super().__init__(**{"dtype": "float32", "trainable": False, **kwargs})
        self.architecture = architecture
        self.size = size

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, for `tf_keras.models.clone_model`; they are not plain JSON."""
        own = {"architecture": self.architecture, "size": self.size}
        return {**super().get_config(), **own}

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """Map float [N, S, S, 3], RGB in 0..255, to float32 [N, size, size, 3]."""
        if images.shape[1] != self.size or images.shape[2] != self.size:
            images = tf.image.resize(images, [self.size, self.size])
        return self.architecture.normalise(images)


def build(
    configs: list[BackboneConfig],
    classes: int,
    *,
    pooling: str,
    head: str,
    output: str,
    head_init: str = "zeros",
    drop_path: float | None = None,
) -> Classifier:
    """Build the classifier under the current Keras mixed-precision policy.

    Args:
        configs: at least one; each architecture at most once.
        classes: how many, at least 2.
        pooling: a name in `POOLINGS`, from a feature map to a vector.
        head: a spec of head layers before the output, as "dense(64)|dropout(0.5)".
        output: "sigmoid" (two classes only), "softmax", "sigmoids", or "auto".
        head_init: Keras' name of the initializer of the last layer's weights.
        drop_path: rate of stochastic depth; None for each backbone's own.

    Raises:
        UserError: an unknown name, weights that do not fit, or a sigmoid for several classes.
    """
    output = choose_output(output, classes)
    side = max(config.size for config in configs)
    image = tf_keras.Input([side, side, 3], dtype="float32", name="image")
    backbones = [_build_backbone(config, pooling) for config in configs]
    if drop_path is not None:
        for backbone in backbones:
            stochastic_depth.set_rate(backbone.model, drop_path)
    pooled = []
    for backbone in backbones:
        pooled += backbone.pool(as_list(backbone.model(backbone.prepare(image))))
    features = tf_keras.Model(image, join(pooled), name="features")

    vector = tf_keras.Input(features.output_shape[1:], name="features")
    x = vector
    for index, call in enumerate(spec.parse(head, option="head")):
        make, name = head_layers[call.name], f"head{index}_{call.name}"
        spec.check(call, make, name, option="head")
        x = make(name, *call.args)(x)
    units = 1 if output == SIGMOID else classes
    # Logits stay float32 whatever the precision: a loss in half precision loses small gradients.
    # Zeros start at even odds. Random weights on thousands of features are noise to be unlearnt,
    # but pass a gradient to earlier layers from the first step on.
    logits = tf_keras.layers.Dense(
        units, kernel_initializer=head_init, dtype="float32", name="logits"
    )(x)
    head_model = tf_keras.Model(vector, logits, name="head")

    model = tf_keras.Model(image, head_model(features(image)), name="classifier")
    return Classifier(model, features, tuple(backbones), head_model, output, side)


def _build_backbone(config: BackboneConfig, pooling: str) -> Backbone:
    architecture = architectures.get(config.name)
    name = architecture.name
    model = architectures.build(architecture, config.size, config.weights)
    several = len(model.outputs) > 1
    maps = [f"{name}{index}" if several else name for index in range(len(model.outputs))]
    poolings = tuple(POOLINGS[pooling](name=f"{each}_{pooling}") for each in maps)
    prepare = Prepare(architecture, config.size, name=f"{name}_prepare")
    return Backbone(name, prepare, model, poolings)


def join(vectors: list[tf.Tensor]) -> tf.Tensor:
    """Return vectors [N, .] joined to one."""
    return vectors[0] if len(vectors) == 1 else tf_keras.layers.Concatenate(name="join")(vectors)


def as_list(value: tf.Tensor | list[tf.Tensor]) -> list[tf.Tensor]:
    """Return the outputs of a Keras model as a list; a single output is no list."""
    return list(value) if isinstance(value, list | tuple) else [value]


# From a layer's name and the numbers of its spec to the layer.
head_layers: Registry[Callable[..., tf_keras.layers.Layer]] = Registry("head layer")


@head_layers.register("dropout")
def _dropout(name: str, rate: float = 0.5) -> tf_keras.layers.Layer:
    """`dropout(0.5)`: drops that share of values in training."""
    if not 0 <= rate < 1:
        raise UserError(f"`head`: dropout({rate:g}) is not in [0, 1)")
    return tf_keras.layers.Dropout(rate, name=name)


@head_layers.register("dense")
def _dense(name: str, units: float = 64.0) -> tf_keras.layers.Layer:
    """`dense(64)`: a fully connected layer of that many ReLU units."""
    if units < 1 or units != int(units):
        raise UserError(f"`head`: dense({units:g}) needs a whole number of units, at least 1")
    return tf_keras.layers.Dense(int(units), activation="relu", name=name)


@head_layers.register("norm")
def _norm(name: str) -> tf_keras.layers.Layer:
    """`norm`: a BatchNorm without scale and offset, which `adapt` gives its statistics.

    It brings all features to one scale, as weight decay and a common learning rate need.
    """
    return tf_keras.layers.BatchNormalization(center=False, scale=False, name=name)


def check_adapts(head: str) -> None:
    """Raise UserError unless `adapt` gives every `norm` of the option `head` its statistics."""
    names = [call.name for call in spec.parse(head, option="head")]
    if "norm" in names[:-1] and "norm" in names[names.index("norm") + 1 :]:
        reason = "twice"
    elif "norm" in names and set(names[: names.index("norm")]) - {"dropout"}:
        reason = "behind a layer that is trained"
    else:
        return
    raise UserError(
        f"`head={head}`: norm is there {reason}, but takes its mean and deviation from the features"
        " of the training images, before the training: write it once, first, as norm|dense(64)"
    )


def adapt(head: tf_keras.Model, features: Callable[[], Iterable[np.ndarray]]) -> None:
    """Set the statistics of a head's `norm` to those of features, as Keras' Normalization does.

    The layer then divides by the standard deviation, or by the root of its epsilon where that is
    larger, so that a feature without variance in these images stays small in others.

    Args:
        head: of a classifier; without a `norm` nothing is done.
        features: returns batches, each float [N, F], with at least one row in all.
    """
    norms = [each for each in head.layers if isinstance(each, tf_keras.layers.BatchNormalization)]
    if not norms:
        return
    count, mean, squares = 0, 0.0, 0.0
    for batch in features():  # Chan, Golub and LeVeque 1979, equation 2.1
        rows = np.asarray(batch, np.float64)
        own, apart = rows.mean(0), rows.mean(0) - mean
        total = count + len(rows)
        squares += ((rows - own) ** 2).sum(0) + apart**2 * (count * len(rows) / total)
        mean += apart * (len(rows) / total)
        count = total
    for norm in norms:
        norm.moving_mean.assign(mean)
        norm.moving_variance.assign(np.maximum(squares / count - norm.epsilon, 0))


def choose_output(output: str, classes: int, *, many: bool = False) -> str:
    """Resolve "auto": a sigmoid for two classes, and for each class if images may have several.

    Raises:
        UserError: the output is not for such classes.
    """
    if output == SIGMOIDS or (many and output in ("auto", SIGMOID)):
        return SIGMOIDS
    if many:
        raise UserError(
            f"`output={output}`: an image of these records may have several classes, or none, and a"
            f" {output} makes them exclude each other: use sigmoid or auto"
        )
    if output == "auto":
        return SIGMOID if classes == 2 else SOFTMAX
    if output == SIGMOID and classes != 2:
        raise UserError(
            f"`output=sigmoid` needs two classes, the records have {classes}: use softmax or auto"
        )
    return output
