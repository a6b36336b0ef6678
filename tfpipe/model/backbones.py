"""Backbone architectures: the convolutional part of a classifier, from image to feature map.

Every model of `keras.applications` is registered under its lower-case name. The small CNN shows how
to add one of your own:

    @backbones.register("mynet")
    def _mynet() -> Architecture:
        return Architecture("mynet", input_size=128, build=my_builder, normalise=scale_to_unit)

where `my_builder(size)` returns a Keras model from [N, size, size, 3] to a feature map or vector,
and `normalise` maps RGB in 0..255 (float32) to that model's input. Names are compared without case,
'_' and '-': `InceptionV3`, `inception_v3` and `inceptionv3` are the same.

`kecam:convnext.ConvNeXtV2Tiny` is a model of keras-cv-attention-models; see `kecam_models`.

`vgg16@block4_pool` is VGG16 from its input to that layer; `vgg16@block4_pool+block5_pool` has two
feature maps; `path/model.keras@layer` is a model file. See `tfpipe.model.cut` and
`tfpipe.model.model_file`.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Callable

import tensorflow as tf
import tf_keras

from tfpipe.core.errors import UserError
from tfpipe.core.registry import Registry
from tfpipe.model import cut, kecam_models, model_file, precision
from tfpipe.model import weights as weight_files

IMAGENET, NO_WEIGHTS = "imagenet", "none"

# Input sides in pixels that the published weights were trained at, if not 224
# (keras.applications, `default_size`; EfficientNet's from its paper, table 1, and its code).
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
class Architecture:
    """An entry of the registry, or one cut at layers.

    `build` and `imagenet` take a side in pixels and return a new Keras model from float
    [N, size, size, 3] to a feature map [N, h, w, c], or to one for each layer of a cut.
    """

    name: str  # also the prefix of its layers in a classifier
    input_size: int  # side in pixels it was designed for; 0 for a model file of any size
    build: Callable[[int], tf_keras.Model]
    normalise: Callable[[tf.Tensor], tf.Tensor]  # RGB in 0..255, float32, to the model's input
    imagenet: Callable[[int], tf_keras.Model] | None = None  # with weights, which Keras downloads
    layers: tuple[str, ...] = ()  # of a cut, its last ones
    whole: "Architecture | None" = None  # of a cut, the architecture with its weights
    path: str = ""  # of a cut model file, which has its own weights
    package_name: str = ""  # of a model of a package, as `get` takes it

    @property
    def text(self) -> str:
        """The text that `get` takes, as "vgg16" or "vgg16@block4_pool"."""
        if not self.layers:
            return self.package_name or self.name
        whole = self.path or (self.whole and self.whole.text) or self.short_name
        return f"{whole}{cut.AT}{cut.AND.join(self.layers)}"

    @property
    def short_name(self) -> str:
        """The name without layers, as "vgg16"."""
        return pathlib.Path(self.path).stem if self.path else (self.whole or self).name


backbones: Registry[Callable[[], Architecture]] = Registry("backbone")


def get(name: str) -> Architecture:
    """Return an architecture, or raise UserError if there is none or its file cannot be used.

    `name` is one of the registry, in any spelling, perhaps cut, as `vgg16@block4_pool`; or
    `path/model.keras@layer`.
    """
    if model_file.is_cut(name):
        return _from_file(name)
    stem, at, layers = name.partition(cut.AT)
    if kecam_models.is_named(stem):
        found = _from_package(stem)
    else:
        spellings = {plain_name(known): known for known in backbones}
        found = backbones[spellings.get(plain_name(stem), stem)]()
    return _cut(found, cut.parse(layers, where=f"`backbones={name.strip()}`")) if at else found


def _cut(whole: Architecture, layers: tuple[str, ...]) -> Architecture:
    return Architecture(
        cut.name(whole.name, layers),
        whole.input_size,
        lambda size: _end(whole, whole.build(size), layers),
        whole.normalise,
        layers=layers,
        whole=whole,
    )


def _end(whole: Architecture, model: tf_keras.Model, layers: tuple[str, ...]) -> tf_keras.Model:
    """End `whole`'s model at layers; those with automatic names are left out."""
    return cut.end(
        model,
        layers,
        name=cut.name(whole.name, layers),
        where=f"`backbones={whole.name}{cut.AT}{cut.AND.join(layers)}`",
        among=[each.name for each in model.layers if not cut.named_by_keras(each)],
    )


def _from_file(text: str) -> Architecture:
    """Return the architecture of a model file; its model takes RGB in 0..255."""
    path, joined = model_file.parse(text)
    layers = cut.parse(joined, where=f"`backbones={text.strip()}`")
    model = model_file.cut_at(path, layers)
    name = cut.name(path, layers)

    def build_at(size: int) -> tf_keras.Model:
        return model_file.resize(model, size, path=path, name=name)

    return Architecture(
        name, model.input_shape[1] or 0, build_at, lambda rgb: rgb, layers=layers, path=path
    )


def _from_package(text: str) -> Architecture:
    model = kecam_models.PackageModel(text)
    return Architecture(
        model.name,
        model.input_size,
        model.build,
        model.normalise,
        imagenet=model.imagenet,
        package_name=model.text,
    )


def plain_name(name: str) -> str:
    """Return `name` in lower case, without '_' and '-', as names are compared."""
    return name.strip().lower().replace("_", "").replace("-", "")


def build(backbone: Architecture, size: int, weights: str) -> tf_keras.Model:
    """Build an architecture's model under the global policy of precision, and load its weights.

    Args:
        backbone: the architecture.
        size: side of its input in pixels.
        weights: "imagenet" (downloaded by Keras once), "none" (random), or the path of a
            weights-only HDF5 file of the whole model without its top. A model file has its own.

    Raises:
        UserError: the size is too small, there is no such layer, or the weights are missing or do
            not fit.
    """
    with precision.under(precision.FLOAT32):
        model = _build(backbone, size, weights)
    return precision.in_policy(model)


def _build(backbone: Architecture, size: int, weights: str) -> tf_keras.Model:
    if backbone.path:
        return backbone.build(size)
    if backbone.whole:
        if weights == IMAGENET:  # finds a wrong layer before the download
            _build(backbone, size, NO_WEIGHTS)
        return _end(backbone.whole, _build(backbone.whole, size, weights), backbone.layers)
    try:
        if weights == IMAGENET:
            return _imagenet(backbone, size)
        model = backbone.build(size)
    except ValueError as error:
        if "nput size" not in str(error) and "egative dimension" not in str(error):
            raise
        raise UserError(
            f"`image_size={size}` is too small for {backbone.name}, designed for"
            f" {backbone.input_size}: give a larger one, or 0 for that"
        ) from None
    if weights != NO_WEIGHTS:
        weight_files.load(model, weights, name=backbone.name)
    return model


def _imagenet(backbone: Architecture, size: int) -> tf_keras.Model:
    if backbone.imagenet is None:
        raise UserError(
            f"{backbone.name} has no ImageNet weights: give `weights=none`, or a file of your own"
        )
    try:
        return backbone.imagenet(size)
    except Exception as error:  # Keras raises a plain Exception for a failed download
        explained = weight_files.not_downloaded(error, backbone.name)
        if explained is None:
            raise
        raise explained from None


def _register_application(name: str, constructor: Callable) -> None:
    # Each family's preprocessing is in the module that defines the model.
    normalise = sys.modules[constructor.__module__].preprocess_input

    def build_with(weights: str | None) -> Callable[[int], tf_keras.Model]:
        return lambda size: constructor(
            include_top=False, weights=weights, input_shape=(size, size, 3)
        )

    side, imagenet = _INPUT_SIZES.get(name, 224), build_with(IMAGENET)
    backbone = Architecture(name, side, build_with(None), normalise, imagenet=imagenet)
    backbones.add(name, lambda: backbone)


for _name, _value in vars(tf_keras.applications).items():
    if _name[0].isupper() and callable(_value):
        _register_application(_name.lower(), _value)


def scale_to_unit(images: tf.Tensor) -> tf.Tensor:
    """Return images in 0..255 scaled to 0..1."""
    return images / 255.0


@backbones.register("small_cnn")
def _small_cnn() -> Architecture:
    """The small CNN of seed recipe R5; its dense part is `head=dense(64)|dropout(0.5)`."""
    return Architecture("small_cnn", 150, _build_small_cnn, scale_to_unit)


def _build_small_cnn(size: int) -> tf_keras.Model:
    layers = tf_keras.layers
    image = layers.Input([size, size, 3])
    x = image
    for index, filters in enumerate((32, 32, 64), start=1):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"conv{index}")(x)
        x = layers.MaxPooling2D(name=f"pool{index}")(x)
    return tf_keras.Model(image, layers.Dropout(0.25, name="dropout")(x), name="small_cnn")
