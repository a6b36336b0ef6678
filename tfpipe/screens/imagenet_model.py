"""Load the ImageNet classifier of the screen `imagenet`: by name, or from an untrusted file."""

import hashlib
import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf
import tf_keras

from tfpipe.core.errors import UserError, one_line
from tfpipe.model import backbones, model_file
from tfpipe.screens.imagenet_classes import CLASSES

_HOW = (
    f"give a {model_file.SUFFIX} file that takes square RGB images in 0..255 and returns the"
    f" {CLASSES} ImageNet classes, or the name of a keras.applications model"
)


class ImageNetModel(NamedTuple):
    """A classifier of the ILSVRC 2012 classes, in their usual order.

    Attributes:
        classify: maps RGB in 0..255, float32 [B, size, size, 3], to scores or probabilities,
            float32 [B, 1000].
        size: the side of its input in pixels.
        fingerprint: of its weights.
    """

    classify: Callable[[tf.Tensor], tf.Tensor]
    size: int
    fingerprint: str


def load(model: str) -> ImageNetModel:
    """Load a classifier.

    Args:
        model: the name of a `keras.applications` model (Keras downloads its weights), or the path
            of a `.keras` file.

    Raises:
        UserError: there is no such model, it is not safe to load, or it is not such a classifier.
    """
    if os.sep in model or pathlib.Path(model).suffix:
        return _from_file(model)
    return application(model, backbones.IMAGENET)


def application(name: str, weights: str | None) -> ImageNetModel:
    """Build a model of `keras.applications` with its 1,000 classes.

    Args:
        name: its name in any spelling that `backbones.get` accepts.
        weights: "imagenet", or None for random ones.
    """
    try:
        backbone = backbones.get(name)
    except UserError as error:
        raise UserError(f"`screen_model={name}`: {error}") from None
    constructors = {  # a lower-case name is a module
        each.lower(): getattr(tf_keras.applications, each)
        for each in dir(tf_keras.applications)
        if each[0].isupper()
    }
    if backbone.name not in constructors:
        raise UserError(f"`screen_model={name}`: there is no such ImageNet classifier; {_HOW}")
    try:
        # Without `input_shape`, each model with its top gets its original input size.
        model = constructors[backbone.name](weights=weights)
    except Exception as error:  # Keras raises a plain Exception for a failed download
        if "URL fetch failure" not in str(error):
            raise
        raise UserError(
            f"`screen_model={name}`: Keras could not download its ImageNet weights"
            f" ({one_line(error)}): put the file into ~/.keras/models/ under its own name, or give"
            f" a {model_file.SUFFIX} file"
        ) from None
    side = model.input_shape[1] or backbone.input_size
    return ImageNetModel(
        lambda images: model(backbone.normalise(images), training=False),
        side,
        f"{backbone.name} {weights}",
    )


def _from_file(path: str) -> ImageNetModel:
    where = f"`screen_model={path}`"
    model = model_file.load(path, where=where, how=_HOW)
    taken, given = model.input_shape, model.output_shape
    if not model_file.takes_square_rgb(model) or not taken[1]:
        raise UserError(f"{where} takes {taken}, not square RGB images of a fixed size; {_HOW}")
    if not (isinstance(given, tuple) and len(given) == 2 and given[1] == CLASSES):
        raise UserError(f"{where} returns {given}, not [*, {CLASSES}]; {_HOW}")
    fingerprint = hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
    return ImageNetModel(lambda images: model(images, training=False), taken[1], fingerprint)
