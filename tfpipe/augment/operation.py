"""The definition of an augmentation, and the registry of all."""

import dataclasses
import enum
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


@dataclasses.dataclass(frozen=True)
class Operation:
    """A registered augmentation.

    `strength` returns its numbers in `randaugment` for a magnitude in 0..1; without one,
    randaugment does not choose it.
    """

    function: Callable[..., Any]  # see `Kind`
    num_random: int  # uniform numbers in [0, 1) for each image
    kind: Kind
    strength: Callable[[float], tuple[float, ...]] | None = None

    def check(self, call: spec.Call) -> None:
        """Try `call` on a tiny batch; raise UserError if its arguments are wrong."""
        u, side = tf.fill([1, self.num_random], 0.5), 8
        images, labels = tf.zeros([1, side, side, 3]), tf.ones([1, 1])
        inputs = {
            Kind.GEOMETRY: (u, side),
            Kind.COLOR: (images, u),
            Kind.OVERLAY: (images, u),
            Kind.MIXING: (images, labels, images, labels, u),
            Kind.POLICY: (),
        }[self.kind]
        is_policy = self.kind == Kind.POLICY
        spec.check(call, self.function, *inputs, option="augment", numbers_only=not is_policy)
        if not is_policy:
            self.function(*inputs, *call.args)


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
