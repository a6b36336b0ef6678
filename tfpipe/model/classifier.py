"""The classifier: one image to one or several backbones, their features joined, and a head.

    image [S, S, 3] --+-- resize, normalise, backbone a, pool --+
                      +-- resize, normalise, backbone b, pool --+-- concat -- head -- logits

S is the largest input side among the backbones; the others shrink the image on the device.
"""

import dataclasses

import tensorflow as tf
import tf_keras

from tfpipe.core import spec
from tfpipe.core.errors import UserError
from tfpipe.core.registry import Registry
from tfpipe.model import backbones as registry


class AsWritten(tf_keras.layers.Layer):
    """A layer of our own, traced as it is written; else Keras has AutoGraph rewrite its source."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.call = tf.autograph.experimental.do_not_convert(self.call)


class AverageAndMax(AsWritten):
    """The average and the maximum of a feature map [N, h, w, C] side by side, [N, 2 C]."""

    def call(self, maps: tf.Tensor) -> tf.Tensor:
        """Applies the layer."""
        return tf.concat([tf.reduce_mean(maps, [1, 2]), tf.reduce_max(maps, [1, 2])], axis=-1)


POOLINGS = {
    "avg": tf_keras.layers.GlobalAveragePooling2D,
    "max": tf_keras.layers.GlobalMaxPooling2D,
    "avg_max": AverageAndMax,
    "flatten": tf_keras.layers.Flatten,
}
SIGMOID, SOFTMAX = "sigmoid", "softmax"


@dataclasses.dataclass(frozen=True)
class Branch:
    """One backbone within a classifier: its name, its input's side in pixels, its weights.

    The name is what `backbones.get` takes.
    """

    name: str
    size: int
    weights: str


@dataclasses.dataclass(frozen=True)
class Tower:
    """The layers of one branch, from the image to a vector.

    Attributes:
        name: of the backbone.
        prepare: from float [N, S, S, 3] to what the backbone takes.
        backbone: to one or several feature maps.
        poolings: from each of them to a vector.
    """

    name: str
    prepare: tf_keras.layers.Layer
    backbone: tf_keras.Model
    poolings: tuple[tf_keras.layers.Layer, ...]

    def pool(self, maps: list[tf.Tensor]) -> list[tf.Tensor]:
        """Returns the vector [N, .] of each feature map [N, h, w, C]."""
        return [pooling(each) for pooling, each in zip(self.poolings, maps, strict=True)]


@dataclasses.dataclass(frozen=True)
class Classifier:
    """The Keras models of a classifier; they share their layers.

    Attributes:
        model: float [N, S, S, 3], RGB in 0..255, to logits; `head` of `features`.
        features: the backbones, pooled and joined: the same input to [N, F].
        towers: the branches that `features` joins.
        head: [N, F] to logits, float32: [N, 1] for a sigmoid, [N, C] for a softmax.
        output: "sigmoid" or "softmax".
        image_size: S.
    """

    model: tf_keras.Model
    features: tf_keras.Model
    towers: tuple[Tower, ...]
    head: tf_keras.Model
    output: str
    image_size: int

    def probabilities(self, logits: tf.Tensor) -> tf.Tensor:
        """Returns the probability of each class, float32 [N, C], for logits [N, 1] or [N, C]."""
        return probabilities(logits, self.output)

    def losses(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """Returns the cross-entropy of each sample, in nats, float32 [N].

        Args:
            labels: float32 [N, C], the share of each class.
            logits: float32 [N, 1] or [N, C].
        """
        if self.output == SOFTMAX:
            return tf.nn.softmax_cross_entropy_with_logits(labels, logits)
        return tf.nn.sigmoid_cross_entropy_with_logits(labels[:, 1], logits[:, 0])


def probabilities(logits: tf.Tensor, output: str) -> tf.Tensor:
    """Returns the probability of each class, float32 [N, C].

    Args:
        logits: float32 [N, 1] for a sigmoid, [N, C] for a softmax.
        output: "sigmoid" or "softmax".
    """
    if output == SOFTMAX:
        return tf.nn.softmax(logits)
    return tf.concat([tf.sigmoid(-logits), tf.sigmoid(logits)], axis=-1)


def log_probabilities(logits: tf.Tensor) -> tf.Tensor:
    """Returns the log of `probabilities`, exact also where those round to 0 or 1.

    Args:
        logits: float32 [N, 1] for a sigmoid, [N, C] for a softmax.
    """
    if logits.shape[-1] > 1:
        return tf.nn.log_softmax(logits)
    return tf.concat([tf.math.log_sigmoid(-logits), tf.math.log_sigmoid(logits)], axis=-1)


class Prepare(AsWritten):
    """Resizes to one backbone's input side and normalises as it expects, in float32."""

    def __init__(self, backbone: registry.Backbone, size: int, **kwargs):
        super().__init__(dtype="float32", trainable=False, **kwargs)
        self.backbone = backbone
        self.size = size

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """Maps float [N, S, S, 3], RGB in 0..255, to float32 [N, size, size, 3]."""
        if images.shape[1] != self.size or images.shape[2] != self.size:
            images = tf.image.resize(images, [self.size, self.size])
        return self.backbone.normalise(images)


def build(
    branches: list[Branch],
    classes: int,
    *,
    pooling: str,
    head: str,
    output: str,
    head_init: str = "zeros",
) -> Classifier:
    """Builds the classifier under the current Keras mixed-precision policy.

    Args:
        branches: at least one; each backbone at most once.
        classes: how many, at least 2.
        pooling: a name in `POOLINGS`, from a feature map to a vector.
        head: a spec of head layers before the output, as "dense(64)|dropout(0.5)".
        output: "sigmoid" (two classes only), "softmax", or "auto".
        head_init: Keras' name of what draws the last layer's first weights.

    Raises:
        UserError: an unknown name, weights that do not fit, or a sigmoid for several classes.
    """
    output = choose_output(output, classes)
    side = max(branch.size for branch in branches)
    image = tf_keras.Input([side, side, 3], dtype="float32", name="image")
    towers = [_tower(branch, pooling) for branch in branches]
    pooled = []
    for tower in towers:
        pooled += tower.pool(as_list(tower.backbone(tower.prepare(image))))
    features = tf_keras.Model(image, join(pooled), name="features")

    vector = tf_keras.Input(features.output_shape[1:], name="features")
    x = vector
    for index, call in enumerate(spec.parse(head, option="head")):
        x = head_layers[call.name](*call.args, name=f"head{index}_{call.name}")(x)
    units = 1 if output == SIGMOID else classes
    # Logits stay float32 whatever the precision: a loss in half precision loses small gradients.
    # From zeros they start at even odds: random weights on thousands of features are noise to be
    # unlearnt, but let the gradient into the layers before them from the first step on.
    logits = tf_keras.layers.Dense(
        units, kernel_initializer=head_init, dtype="float32", name="logits"
    )(x)
    head_model = tf_keras.Model(vector, logits, name="head")

    model = tf_keras.Model(image, head_model(features(image)), name="classifier")
    return Classifier(model, features, tuple(towers), head_model, output, side)


def _tower(branch: Branch, pooling: str) -> Tower:
    backbone = registry.get(branch.name)
    model = registry.build(backbone, branch.size, branch.weights)
    poolings = [POOLINGS[pooling](name=f"{name}_{pooling}") for name in _outputs(backbone, model)]
    prepare = Prepare(backbone, branch.size, name=f"{backbone.name}_prepare")
    return Tower(backbone.name, prepare, model, tuple(poolings))


def _outputs(backbone: registry.Backbone, model: tf_keras.Model) -> list[str]:
    """Names the feature maps of a backbone."""
    if len(model.outputs) == 1:
        return [backbone.name]
    return [f"{backbone.name}{index}" for index in range(len(model.outputs))]


def join(vectors: list[tf.Tensor]) -> tf.Tensor:
    """Returns vectors [N, .] as one."""
    return vectors[0] if len(vectors) == 1 else tf_keras.layers.Concatenate(name="join")(vectors)


def as_list(value: tf.Tensor | list[tf.Tensor]) -> list[tf.Tensor]:
    """Returns what a Keras model gave as a list: with a single output, it is that output."""
    return list(value) if isinstance(value, list | tuple) else [value]


head_layers: Registry = Registry("head layer")


@head_layers.register("dropout")
def _dropout(rate: float = 0.5, *, name: str) -> tf_keras.layers.Layer:
    """`dropout(0.5)`: drops that share of the values in training."""
    if not 0 <= rate < 1:
        raise UserError(f"--head: dropout({rate:g}) is not in [0, 1)")
    return tf_keras.layers.Dropout(rate, name=name)


@head_layers.register("dense")
def _dense(units: float = 64.0, *, name: str) -> tf_keras.layers.Layer:
    """`dense(64)`: a fully connected layer of that many ReLU units."""
    if units < 1 or units != int(units):
        raise UserError(f"--head: dense({units:g}) needs a whole number of units, at least 1")
    return tf_keras.layers.Dense(int(units), activation="relu", name=name)


@head_layers.register("norm")
def _norm(*, name: str) -> tf_keras.layers.Layer:
    """`norm`: each value less its mean, by its standard deviation, of a batch and then of many.

    A BatchNorm without weights. Features of different size then count alike, for --weight_decay
    and for one learning rate.
    """
    return tf_keras.layers.BatchNormalization(center=False, scale=False, name=name)


def choose_output(output: str, classes: int) -> str:
    """Resolves "auto": a sigmoid for two classes; raises UserError for a sigmoid over more."""
    if output == "auto":
        return SIGMOID if classes == 2 else SOFTMAX
    if output == SIGMOID and classes != 2:
        raise UserError(
            f"--output=sigmoid needs two classes, the records have {classes}: use softmax or auto"
        )
    return output
