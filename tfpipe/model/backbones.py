"""Backbones: the convolutional part of a classifier, from an image to a feature map.

Every model of `keras.applications` is here under its lower-case name; the seed's small CNN shows
how to add one of your own:

    @backbones.register("mynet")
    def _mynet() -> Backbone:
        return Backbone("mynet", input_size=128, build=my_builder, normalise=scale_to_unit)

where `my_builder(size)` returns a Keras model from [N, size, size, 3] to a feature map or vector,
and `normalise` maps RGB in 0..255 (float32) to what that model expects. Names are compared without
case, '_' and '-': `InceptionV3`, `inception_v3` and `inceptionv3` are one.

`vgg16@block4_pool` is a backbone as well, VGG16 from its input to that layer, and so are
`vgg16@block4_pool+block5_pool`, which has two feature maps, and `path/model.keras@layer`; see
`tfpipe.model.cut` and `tfpipe.model.model_file`.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Callable

import tensorflow as tf
import tf_keras

from tfpipe.core.errors import UserError
from tfpipe.core.registry import Registry
from tfpipe.model import cut, model_file
from tfpipe.model import weights as weight_files

IMAGENET, NO_WEIGHTS = "imagenet", "none"

# Input sides in pixels that the published weights were trained at, where they are not 224
# (keras.applications, `default_size`; EfficientNet's from its paper, table 1 and its code).
_INPUT_SIZES = {
    "efficientnetb1": 240,
    "efficientnetb2": 260,
    "efficientnetb3": 300,
    "efficientnetb4": 380,
    "efficientnetb5": 456,
    "efficientnetb6": 528,
    "efficientnetb7": 600,
    "efficientnetv2b1": 240,
    "efficientnetv2b2": 260,
    "efficientnetv2b3": 300,
    "efficientnetv2s": 384,
    "efficientnetv2m": 480,
    "efficientnetv2l": 480,
    "inceptionresnetv2": 299,
    "inceptionv3": 299,
    "nasnetlarge": 331,
    "xception": 299,
}


@dataclasses.dataclass(frozen=True)
class Backbone:
    """One entry of the registry, or one cut at layers.

    Attributes:
        name: its name, as used for its layers.
        input_size: the side in pixels it was made for; 0 where a model file takes any.
        build: from a side in pixels to a freshly initialised Keras model that maps float
            [N, size, size, 3] to a feature map [N, h, w, c], or to several where it is cut at
            several layers.
        normalise: from RGB in 0..255, float32 [N, h, w, 3], to what `build`'s model expects.
        imagenet: from a side in pixels to the same model with ImageNet weights, which Keras
            downloads; None where there are none, and where it is cut.
        layers: that it is cut at; empty for others.
        whole: the one it is cut from, whose weights it takes; None for others.
        path: of the model file it is cut from, whose weights `build` gives it; empty for others.
    """

    name: str
    input_size: int
    build: Callable[[int], tf_keras.Model]
    normalise: Callable[[tf.Tensor], tf.Tensor]
    imagenet: Callable[[int], tf_keras.Model] | None = None
    layers: tuple[str, ...] = ()
    whole: "Backbone | None" = None
    path: str = ""

    @property
    def text(self) -> str:
        """What `get` takes for it: as "vgg16", "vgg16@block4_pool"."""
        if not self.layers:
            return self.name
        return f"{self.path or self.short_name}{cut.AT}{cut.AND.join(self.layers)}"

    @property
    def short_name(self) -> str:
        """The name of what it is cut from, or its own: as "vgg16"."""
        return pathlib.Path(self.path).stem if self.path else (self.whole or self).name


backbones: Registry[Callable[[], Backbone]] = Registry("backbone")


def get(name: str) -> Backbone:
    """Returns a backbone.

    Args:
        name: one of the registry, in any spelling, also cut as `vgg16@block4_pool`, or
            `path/model.keras@layer`.

    Raises:
        UserError: the name is unknown (the known ones are listed), or the file cannot be used.
    """
    if model_file.is_cut(name):
        return _from_file(name)
    stem, at, layers = name.partition(cut.AT)
    spellings = {plain_name(known): known for known in backbones}
    found = backbones[spellings.get(plain_name(stem), stem)]()
    return _cut(found, cut.parse(layers, where=f"--backbones={name.strip()}")) if at else found


def _cut(whole: Backbone, layers: tuple[str, ...]) -> Backbone:
    return Backbone(
        cut.name(whole.name, layers),
        whole.input_size,
        lambda size: _end(whole, whole.build(size), layers),
        whole.normalise,
        layers=layers,
        whole=whole,
    )


def _end(whole: Backbone, model: tf_keras.Model, layers: tuple[str, ...]) -> tf_keras.Model:
    """Ends `whole`'s model at layers, which must have the same names in every process."""
    return cut.end(
        model,
        layers,
        name=cut.name(whole.name, layers),
        where=f"--backbones={whole.name}{cut.AT}{cut.AND.join(layers)}",
        among=[each.name for each in model.layers if not cut.named_by_keras(each)],
    )


def _from_file(text: str) -> Backbone:
    """Makes a backbone of a model file, whose preprocessing is its own: it takes 0..255."""
    path, joined = model_file.parse(text)
    layers = cut.parse(joined, where=f"--backbones={text.strip()}")
    model = model_file.cut_at(path, layers)
    name = cut.name(path, layers)

    def build_at(size: int) -> tf_keras.Model:
        return model_file.resize(model, size, path=path, name=name)

    return Backbone(
        name, model.input_shape[1] or 0, build_at, lambda rgb: rgb, layers=layers, path=path
    )


def plain_name(name: str) -> str:
    """Returns `name` as backbones' names are compared: lower case, without '_' and '-'."""
    return name.strip().lower().replace("_", "").replace("-", "")


def build(backbone: Backbone, size: int, weights: str) -> tf_keras.Model:
    """Builds a backbone and fills it with weights.

    Args:
        backbone: which.
        size: the side of its input in pixels.
        weights: "imagenet" (downloaded by Keras once), "none" (random), or the path of a
            weights-only HDF5 file of that model without its top, all of it also where the
            backbone is cut. Not used for one cut from a model file, which has its own.

    Raises:
        UserError: the size is too small, there is no such layer, or the weights cannot be had or
            do not fit.
    """
    if backbone.path:
        return backbone.build(size)
    if backbone.whole:
        if weights == IMAGENET:  # a wrong layer is told of before the download
            build(backbone, size, NO_WEIGHTS)
        return _end(backbone.whole, build(backbone.whole, size, weights), backbone.layers)
    try:
        if weights == IMAGENET:
            return _imagenet(backbone, size)
        model = backbone.build(size)
    except ValueError as error:
        if "nput size" not in str(error) and "egative dimension" not in str(error):
            raise
        raise UserError(
            f"--image_size={size} is too small for {backbone.name}, made for"
            f" {backbone.input_size}; give a larger one, or 0 for that"
        ) from None
    if weights != NO_WEIGHTS:
        weight_files.load(model, weights, name=backbone.name)
    return model


def _imagenet(backbone: Backbone, size: int) -> tf_keras.Model:
    if backbone.imagenet is None:
        raise UserError(
            f"{backbone.name} has no ImageNet weights: pass --weights=none, or a file of your own"
        )
    try:
        return backbone.imagenet(size)
    except Exception as error:  # what Keras raises for a failed download
        told = weight_files.not_downloaded(error, backbone.name)
        if told is None:
            raise
        raise told from None


def _register_keras_applications() -> None:
    applications = tf_keras.applications
    for name in dir(applications):
        constructor = getattr(applications, name)
        if callable(constructor) and name[0].isupper():
            _register_application(name.lower(), constructor)


def _register_application(name: str, constructor: Callable) -> None:
    # Each family's preprocessing lies in the module that defines the model.
    normalise = sys.modules[constructor.__module__].preprocess_input

    def build_with(weights: str | None) -> Callable[[int], tf_keras.Model]:
        return lambda size: constructor(
            include_top=False, weights=weights, input_shape=(size, size, 3)
        )

    backbone = Backbone(
        name,
        _INPUT_SIZES.get(name, 224),
        build_with(None),
        normalise,
        imagenet=build_with(IMAGENET),
    )
    backbones.add(name, lambda: backbone)


_register_keras_applications()


def scale_to_unit(images: tf.Tensor) -> tf.Tensor:
    """Maps 0..255 to 0..1."""
    return images / 255.0


@backbones.register("small_cnn")
def _small_cnn() -> Backbone:
    """The small CNN of seed recipe R5; its dense part is `--head=dense(64)|dropout(0.5)`."""
    return Backbone("small_cnn", 150, _build_small_cnn, scale_to_unit)


def _build_small_cnn(size: int) -> tf_keras.Model:
    layers = tf_keras.layers
    image = layers.Input([size, size, 3])
    x = image
    for index, filters in enumerate((32, 32, 64), start=1):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"conv{index}")(x)
        x = layers.MaxPooling2D(name=f"pool{index}")(x)
    return tf_keras.Model(image, layers.Dropout(0.25, name="dropout")(x), name="small_cnn")
