"""Device-side augmentation: a spec string becomes one function over a batch.

    "rotate(15)|zoom(0.9,1.1)|flip_lr|brightness(0.2)"

Geometric operations of a chain are 3 x 3 matrices that multiply into one matrix an image and cost
one bilinear sample together; colour operations follow, in their order. Every operation is a pure
function of the batch and of uniform numbers drawn by the input pipeline for each sample
(`tfpipe.input.pipeline`), so a picture depends on (seed, epoch, sample) alone and the whole batch
compiles under XLA.

To add an operation, write a function and register it with the number of uniform numbers it takes:

    @operation("invert", draws=1, kind=COLOUR)
    def _invert(images, u, chance=0.5): ...
"""

import dataclasses
import math
from collections.abc import Callable

import tensorflow as tf

from tfpipe import spec
from tfpipe.errors import UserError
from tfpipe.registry import Registry

GEOMETRIC, COLOUR = "geometric", "colour"


@dataclasses.dataclass(frozen=True)
class Operation:
    """A registered augmentation.

    Attributes:
        function: for a geometric one, from u [N, draws], the image's side in pixels and the
            spec's numbers to float32 [N, 3, 3]: the map from output to input pixels about the
            image's centre, x first. For a colour one, from images float32 [N, H, W, 3] in 0..255,
            u, and the spec's numbers, to images.
        draws: how many uniform numbers in [0, 1) it takes for each image.
        kind: GEOMETRIC or COLOUR.
    """

    function: Callable[..., tf.Tensor]
    draws: int
    kind: str


operations: Registry[Operation] = Registry("augmentation")


def operation(name: str, *, draws: int, kind: str) -> Callable[[Callable], Callable]:
    """Returns a decorator that registers a function as the augmentation `name`."""

    def enter(function: Callable) -> Callable:
        operations.add(name, Operation(function, draws, kind))
        return function

    return enter


class Augment:
    """A chain of augmentations, parsed and checked.

    Attributes:
        draws: how many uniform numbers the chain takes for each image.
    """

    def __init__(self, text: str):
        """Parses `text`; raises UserError for an unknown operation or wrong numbers."""
        self._steps = [(call, operations[call.name]) for call in spec.parse(text, flag="augment")]
        self.draws = sum(op.draws for _, op in self._steps)
        for call, op in self._steps:
            _check(call, op)

    def __bool__(self) -> bool:
        return bool(self._steps)

    def __call__(self, images: tf.Tensor, u: tf.Tensor) -> tf.Tensor:
        """Augments a batch.

        Args:
            images: uint8 or float32 [N, S, S, 3], RGB in 0..255.
            u: float32 [N, draws] in [0, 1).

        Returns:
            float32 [N, S, S, 3] in 0..255.
        """
        images = tf.cast(images, tf.float32)
        side = images.shape[1]
        matrix, colours, used = None, [], 0
        for call, op in self._steps:
            mine = u[:, used : used + op.draws]
            used += op.draws
            if op.kind == GEOMETRIC:
                step = op.function(mine, side, *call.args)
                # The first operation of the chain acts first on the image, so its map from output
                # to input comes last.
                matrix = step if matrix is None else tf.matmul(matrix, step)
            else:
                colours.append((op.function, mine, call.args))
        if matrix is not None:
            images = warp(images, matrix)
        for function, mine, args in colours:
            images = function(images, mine, *args)
        return tf.clip_by_value(images, 0.0, 255.0) if colours else images


def warp(images: tf.Tensor, matrix: tf.Tensor) -> tf.Tensor:
    """Samples each image bilinearly where its matrix sends the output's pixels.

    Outside the image its nearest edge pixel is taken.

    Args:
        images: float32 [N, H, W, 3].
        matrix: float32 [N, 3, 3], affine, from output to input pixels (x, y, 1) about the centre.

    Returns:
        float32 [N, H, W, 3]; equal to `images` where the matrix is the identity.
    """
    n, height, width = tf.shape(images)[0], images.shape[1], images.shape[2]
    cx, cy = (width - 1) / 2, (height - 1) / 2
    y, x = tf.meshgrid(
        tf.range(height, dtype=tf.float32) - cy,
        tf.range(width, dtype=tf.float32) - cx,
        indexing="ij",
    )
    x, y = tf.reshape(x, [1, -1]), tf.reshape(y, [1, -1])
    m = matrix[:, :, :, tf.newaxis]
    source_x = tf.clip_by_value(m[:, 0, 0] * x + m[:, 0, 1] * y + m[:, 0, 2] + cx, 0.0, width - 1.0)
    source_y = tf.clip_by_value(
        m[:, 1, 0] * x + m[:, 1, 1] * y + m[:, 1, 2] + cy, 0.0, height - 1.0
    )
    left, top = tf.floor(source_x), tf.floor(source_y)
    along_x, along_y = (source_x - left)[..., tf.newaxis], (source_y - top)[..., tf.newaxis]
    left, top = tf.cast(left, tf.int32), tf.cast(top, tf.int32)
    right, bottom = tf.minimum(left + 1, width - 1), tf.minimum(top + 1, height - 1)
    flat = tf.reshape(images, [-1, images.shape[3]])
    first = tf.range(n)[:, tf.newaxis] * (height * width)

    def pixel(row: tf.Tensor, column: tf.Tensor) -> tf.Tensor:
        return tf.gather(flat, first + row * width + column)

    upper = pixel(top, left) * (1 - along_x) + pixel(top, right) * along_x
    lower = pixel(bottom, left) * (1 - along_x) + pixel(bottom, right) * along_x
    return tf.reshape(upper * (1 - along_y) + lower * along_y, tf.shape(images))


def _check(call: spec.Call, op: Operation) -> None:
    """Runs one operation on a tiny batch, so that wrong numbers are found before the training."""
    if any(not isinstance(arg, float) for arg in call.args):
        raise UserError(f"--augment: {call}: {call.name} takes numbers only")
    u = tf.fill([1, op.draws], 0.5)
    subject = (u, 8) if op.kind == GEOMETRIC else (tf.zeros([1, 8, 8, 3]), u)
    try:
        op.function(*subject, *call.args)
    except TypeError:
        raise UserError(
            f"--augment: {call}: wrong number of values; {op.function.__doc__.splitlines()[0]}"
        ) from None


def _require(holds: bool, call: str, allowed: str) -> None:
    if not holds:
        raise UserError(f"--augment: {call}: {allowed}")


def _matrices(a: tf.Tensor, b: tf.Tensor, c: tf.Tensor, d: tf.Tensor, e: tf.Tensor, f: tf.Tensor):
    """Stacks x' = a x + b y + c, y' = d x + e y + f of [N] each into [N, 3, 3]."""
    zero, one = tf.zeros_like(a), tf.ones_like(a)
    return tf.stack(
        [tf.stack([a, b, c], -1), tf.stack([d, e, f], -1), tf.stack([zero, zero, one], -1)], 1
    )


def _symmetric(u: tf.Tensor) -> tf.Tensor:
    """Maps [0, 1) to [-1, 1)."""
    return 2.0 * u - 1.0


@operation("crop", draws=2, kind=GEOMETRIC)
def _crop(u: tf.Tensor, side: int, fraction: float) -> tf.Tensor:
    """`crop(0.9)`: a square of that fraction of the side, anywhere, scaled back to full size."""
    _require(0 < fraction <= 1, f"crop({fraction:g})", "the fraction is in (0, 1]")
    room = (1.0 - fraction) * (side - 1) / 2
    shift = _symmetric(u) * room
    scale, zero = tf.fill(tf.shape(u)[:1], float(fraction)), tf.zeros_like(u[:, 0])
    return _matrices(scale, zero, shift[:, 0], zero, scale, shift[:, 1])


@operation("rotate", draws=1, kind=GEOMETRIC)
def _rotate(u: tf.Tensor, side: int, degrees: float) -> tf.Tensor:
    """`rotate(20)`: by an angle drawn from within that many degrees either way."""
    del side
    angle = _symmetric(u[:, 0]) * (degrees * math.pi / 180)
    cos, sin, zero = tf.cos(angle), tf.sin(angle), tf.zeros_like(angle)
    return _matrices(cos, -sin, zero, sin, cos, zero)


@operation("shear", draws=1, kind=GEOMETRIC)
def _shear(u: tf.Tensor, side: int, degrees: float) -> tf.Tensor:
    """`shear(20)`: columns lean by an angle drawn from within that many degrees either way."""
    del side
    _require(abs(degrees) < 90, f"shear({degrees:g})", "the angle is below 90 degrees")
    angle = _symmetric(u[:, 0]) * (degrees * math.pi / 180)
    zero, one = tf.zeros_like(angle), tf.ones_like(angle)
    return _matrices(one, tf.tan(angle), zero, zero, one, zero)


@operation("zoom", draws=1, kind=GEOMETRIC)
def _zoom(u: tf.Tensor, side: int, low: float, high: float) -> tf.Tensor:
    """`zoom(0.8,1.2)`: by a factor drawn from that range; above 1 the object grows."""
    del side
    _require(0 < low <= high, f"zoom({low:g},{high:g})", "factors are above 0, the smaller first")
    factor = 1.0 / (low + (high - low) * u[:, 0])
    zero = tf.zeros_like(factor)
    return _matrices(factor, zero, zero, zero, factor, zero)


@operation("translate", draws=2, kind=GEOMETRIC)
def _translate(u: tf.Tensor, side: int, fraction: float) -> tf.Tensor:
    """`translate(0.1)`: along each axis by up to that fraction of the side either way."""
    shift = _symmetric(u) * fraction * side
    zero, one = tf.zeros_like(u[:, 0]), tf.ones_like(u[:, 0])
    return _matrices(one, zero, shift[:, 0], zero, one, shift[:, 1])


@operation("flip_lr", draws=1, kind=GEOMETRIC)
def _flip_lr(u: tf.Tensor, side: int, chance: float = 0.5) -> tf.Tensor:
    """`flip_lr`: mirrors left and right; `flip_lr(0.3)` with that probability, else one half."""
    del side
    sign = tf.where(u[:, 0] < chance, -1.0, 1.0)
    zero, one = tf.zeros_like(sign), tf.ones_like(sign)
    return _matrices(sign, zero, zero, zero, one, zero)


@operation("flip_ud", draws=1, kind=GEOMETRIC)
def _flip_ud(u: tf.Tensor, side: int, chance: float = 0.5) -> tf.Tensor:
    """`flip_ud`: mirrors top and bottom; `flip_ud(0.3)` with that probability, else one half."""
    del side
    sign = tf.where(u[:, 0] < chance, -1.0, 1.0)
    zero, one = tf.zeros_like(sign), tf.ones_like(sign)
    return _matrices(one, zero, zero, zero, sign, zero)


@operation("brightness", draws=1, kind=COLOUR)
def _brightness(images: tf.Tensor, u: tf.Tensor, fraction: float) -> tf.Tensor:
    """`brightness(0.2)`: adds up to that fraction of white either way."""
    return images + (_symmetric(u) * fraction * 255.0)[:, :, tf.newaxis, tf.newaxis]


@operation("contrast", draws=1, kind=COLOUR)
def _contrast(images: tf.Tensor, u: tf.Tensor, fraction: float) -> tf.Tensor:
    """`contrast(0.2)`: stretches about each image's mean by up to that fraction either way."""
    _require(0 <= fraction <= 1, f"contrast({fraction:g})", "the fraction is in [0, 1]")
    change = (_symmetric(u) * fraction)[:, :, tf.newaxis, tf.newaxis]
    mean = tf.reduce_mean(images, [1, 2, 3], keepdims=True)
    return images + (images - mean) * change


@operation("saturation", draws=1, kind=COLOUR)
def _saturation(images: tf.Tensor, u: tf.Tensor, fraction: float) -> tf.Tensor:
    """`saturation(0.2)`: moves from or to grey (ITU-R BT.601 luma) by up to that fraction."""
    _require(0 <= fraction <= 1, f"saturation({fraction:g})", "the fraction is in [0, 1]")
    change = (_symmetric(u) * fraction)[:, :, tf.newaxis, tf.newaxis]
    luma = tf.tensordot(images, tf.constant([0.299, 0.587, 0.114]), 1)[..., tf.newaxis]
    return images + (images - luma) * change
