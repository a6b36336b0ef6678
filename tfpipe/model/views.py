"""Test-time views: transformed copies of an image, whose logits are averaged with its own.

To add one, write a function from images float32 [N, S, S, 3] and the numbers of its spec to images
of the same shape. Use TensorFlow operations only, as the views are part of the exported model:

    @views.register("my_view")
    def _mine(images, strength): ...
"""

import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfpipe.core import spec
from tfpipe.core.errors import UserError
from tfpipe.core.registry import Registry

View = Callable[[tf.Tensor], tf.Tensor]
NONE = "none"

views: Registry[Callable[..., tf.Tensor]] = Registry("test-time view")


def parse(text: str) -> tuple[View, ...]:
    """Read the option `tta`, as "flip_lr,crop(0.9)|flip_lr"; `|` applies one after another.

    Returns:
        Functions of float32 [N, S, S, 3] to the same shape; the first is the identity.

    Raises:
        UserError: an unknown view, wrong numbers, or a view that is named twice.
    """
    chains = () if text.strip() == NONE else spec.parse_list(text, option="tta")
    if len(set(chains)) < len(chains):
        raise UserError(
            f"`tta={text}`: name each view once; the image itself is always one of them"
        )
    return tuple(_composed([_view(call) for call in chain]) for chain in ((), *chains))


def _composed(steps: list[View]) -> View:
    return lambda images: functools.reduce(lambda result, step: step(result), steps, images)


def _view(call: spec.Call) -> View:
    function, image = views[call.name], tf.zeros([1, 8, 8, 3])
    spec.check(call, function, image, option="tta")
    function(image, *call.args)  # raises for wrong numbers, before the training
    return lambda images: function(images, *call.args)


@views.register("flip_lr")
def _flip_lr(images: tf.Tensor) -> tf.Tensor:
    """`flip_lr`: mirrored left and right."""
    return tf.reverse(images, [2])


@views.register("flip_ud")
def _flip_ud(images: tf.Tensor) -> tf.Tensor:
    """`flip_ud`: mirrored top and bottom."""
    return tf.reverse(images, [1])


@views.register("rot90")
def _rot90(images: tf.Tensor, turns: float = 1.0) -> tf.Tensor:
    """`rot90`: turned anticlockwise by 90 degrees; `rot90(2)` by two quarter turns, up to 3."""
    if turns not in (1, 2, 3):
        raise UserError(f"`tta`: rot90({turns:g}): give 1, 2 or 3 quarter turns")
    return tf.image.rot90(images, int(turns))


@views.register("crop")
def _crop(images: tf.Tensor, fraction: float) -> tf.Tensor:
    """`crop(0.9)`: the central window of that fraction of each side, scaled to full size.

    Bilinear, with half-pixel centres, so the window need not be a whole number of pixels.
    """
    if not 0 < fraction < 1:
        raise UserError(f"`tta`: crop({fraction:g}): the fraction is above 0 and below 1")
    # tf.image.crop_and_resize makes TensorFlow's graph optimizer log long warnings for a batch of
    # unknown size, as in a served model.
    side = images.shape[1]
    at = np.arange(side) * fraction + (1 - fraction) * (side - 1) / 2
    for axis, shape in ((1, [side, 1, 1]), (2, [side, 1])):
        first = np.floor(at).astype(int)
        share = tf.constant((at - first).reshape(shape), tf.float32)
        following = np.minimum(first + 1, side - 1)
        images = tf.gather(images, first, axis=axis) * (1 - share) + (
            tf.gather(images, following, axis=axis) * share
        )
    return images
