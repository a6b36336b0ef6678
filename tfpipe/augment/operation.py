"""The definition of an augmentation, and the registry of all."""

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
    """What an operation changes, in the order of a chain.

    Arguments of the functions before the numbers of the spec, and their results:
        GEOMETRY: u [N, num_random] and the side of the result in pixels, to float32 [N, 3, 3]: the
            map from output to input pixels about the centre, x first.
        COLOR, OVERLAY: images float32 [N, S, S, 3] in 0..255 and u, to such images.
        MIXING: images, labels float32 [N, C], the images and labels to mix with, and u, to images
            and labels.
        POLICY: only the spec's arguments, to a list of `policies.Choice`.
    """

    GEOMETRY = 0
    COLOR = 1
    OVERLAY = 2
    MIXING = 3
    POLICY = 4

    @property
    def inputs(self) -> int:
        """Number of arguments before those of the spec."""
        return {"GEOMETRY": 2, "COLOR": 2, "OVERLAY": 2, "MIXING": 5, "POLICY": 0}[self.name]


@dataclasses.dataclass(frozen=True)
class Operation:
    """A registered augmentation.

    Attributes:
        function: see `Kind`.
        num_random: uniform numbers in [0, 1) for each image.
        kind: what it changes.
        strength: from a magnitude in 0..1 to its numbers in `randaugment`; None if randaugment
            does not choose it.
    """

    function: Callable[..., Any]
    num_random: int
    kind: Kind
    strength: Callable[[float], tuple[float, ...]] | None = None

    def check(self, call: spec.Call) -> None:
        """Raise UserError if the arguments of `call` are wrong."""
        try:
            inspect.signature(self.function).bind(*[None] * self.kind.inputs, *call.args)
        except TypeError:
            raise UserError(f"`augment`: {call}: wrong number of values; {self.summary}") from None
        if self.kind != Kind.POLICY:
            if any(not isinstance(arg, float) for arg in call.args):
                raise UserError(f"`augment`: {call}: {call.name} takes numbers only")
            require(all(map(math.isfinite, call.args)), call, "the numbers are finite")
            self._try(call)

    @property
    def summary(self) -> str:
        """The first line of the function's description, which shows an example and the units."""
        return inspect.getdoc(self.function).splitlines()[0]

    def _try(self, call: spec.Call) -> None:
        """Run it on a tiny batch, to find wrong numbers before the training."""
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
    """Return a decorator that registers a function as the augmentation `name`."""

    def enter(function: Callable) -> Callable:
        operations.add(name, Operation(function, num_random, kind, strength))
        return function

    return enter


def require(holds: bool, call: spec.Call | str, allowed: str) -> None:
    """Raise UserError that says what is allowed, unless `holds`."""
    if not holds:
        raise UserError(f"`augment`: {call}: {allowed}")


def require_fraction(fraction: float, name: str, most: float = 1.0) -> None:
    """Raise UserError unless the number of `name` is in 0..`most`."""
    require(0 <= fraction <= most, f"{name}({fraction:g})", f"the number is in [0, {most:g}]")


def symmetric(u: tf.Tensor) -> tf.Tensor:
    """Map [0, 1) to [-1, 1)."""
    return 2.0 * u - 1.0


def per_image(values: tf.Tensor) -> tf.Tensor:
    """Reshape [N] or [N, 1] to [N, 1, 1, 1], to broadcast over images."""
    return tf.reshape(values, [-1, 1, 1, 1])
