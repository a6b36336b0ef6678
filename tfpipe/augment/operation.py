"""What an augmentation is, and the table of all of them."""

import dataclasses
import enum
import inspect
import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfpipe.core import spec
from tfpipe.core.errors import UserError
from tfpipe.core.registry import Registry


class Kind(enum.IntEnum):
    """What an operation works on, in the order in which a chain does it.

    The functions take, before the numbers of the spec, and return:
        GEOMETRY: u [N, num_random] and the side of the result in pixels, to float32 [N, 3, 3]: the
            map from output to input pixels about the centre, x first.
        COLOR, OVERLAY: images float32 [N, S, S, 3] in 0..255 and u, to such images.
        MIXING: images, labels float32 [N, C], the images and labels to mix with, and u, to images
            and labels.
        POLICY: nothing but the spec's arguments, to a list of `policies.Choice`.
    """

    GEOMETRY = 0
    COLOR = 1
    OVERLAY = 2
    MIXING = 3
    POLICY = 4

    @property
    def inputs(self) -> int:
        """How many arguments a function takes before those of the spec."""
        return {"GEOMETRY": 2, "COLOR": 2, "OVERLAY": 2, "MIXING": 5, "POLICY": 0}[self.name]


@dataclasses.dataclass(frozen=True)
class Operation:
    """A registered augmentation.

    Attributes:
        function: as its kind says.
        num_random: how many uniform numbers in [0, 1) it takes for each image.
        kind: what it works on.
        strength: from a magnitude in 0..1 to its numbers in a `randaugment`; None if it is not
            one of those that randaugment chooses from.
    """

    function: Callable[..., Any]
    num_random: int
    kind: Kind
    strength: Callable[[float], tuple[float, ...]] | None = None

    def check(self, call: spec.Call) -> None:
        """Raises UserError if `call` has other arguments than this operation takes."""
        try:
            inspect.signature(self.function).bind(*[None] * self.kind.inputs, *call.args)
        except TypeError:
            raise UserError(f"--augment: {call}: wrong number of values; {self.summary}") from None
        if self.kind != Kind.POLICY:
            if any(not isinstance(arg, float) for arg in call.args):
                raise UserError(f"--augment: {call}: {call.name} takes numbers only")
            require(all(map(math.isfinite, call.args)), call, "the numbers are finite")
            self._try(call)

    @property
    def summary(self) -> str:
        """The first line of the function's description, which shows an example and the units."""
        return inspect.getdoc(self.function).splitlines()[0]

    def _try(self, call: spec.Call) -> None:
        """Runs it on a tiny batch, so that wrong numbers are found before the training."""
        u, images, labels = (
            tf.fill([1, self.num_random], 0.5),
            tf.zeros([1, 8, 8, 3]),
            tf.ones([1, 1]),
        )
        inputs = {
            Kind.GEOMETRY: (u, 8),
            Kind.COLOR: (images, u),
            Kind.OVERLAY: (images, u),
            Kind.MIXING: (images, labels, images, labels, u),
        }
        self.function(*inputs[self.kind], *call.args)


operations: Registry[Operation] = Registry("augmentation")


def operation(
    name: str,
    *,
    num_random: int,
    kind: Kind,
    strength: Callable[[float], tuple[float, ...]] | None = None,
) -> Callable[[Callable], Callable]:
    """Returns a decorator that registers a function as the augmentation `name`."""

    def enter(function: Callable) -> Callable:
        operations.add(name, Operation(function, num_random, kind, strength))
        return function

    return enter


def require(holds: bool, call: spec.Call | str, allowed: str) -> None:
    """Raises UserError that says what is allowed, unless that holds."""
    if not holds:
        raise UserError(f"--augment: {call}: {allowed}")


def require_fraction(fraction: float, name: str, most: float = 1.0) -> None:
    """Raises UserError unless the number of `name` is in 0..`most`."""
    require(0 <= fraction <= most, f"{name}({fraction:g})", f"the number is in [0, {most:g}]")


def symmetric(u: tf.Tensor) -> tf.Tensor:
    """Maps [0, 1) to [-1, 1)."""
    return 2.0 * u - 1.0


def per_image(values: tf.Tensor) -> tf.Tensor:
    """Shapes [N] or [N, 1] to [N, 1, 1, 1], which goes with images."""
    return tf.reshape(values, [-1, 1, 1, 1])
