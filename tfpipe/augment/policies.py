"""Policies, which choose among chains for each example by its random numbers."""

import dataclasses
from typing import Any

import tensorflow as tf

from tfpipe.augment.operation import Kind, Operation, operation, operations, require
from tfpipe.core import spec

_MAGNITUDES = 30  # of the published RandAugment
_MAX_ROUNDS = 10

Chain = tuple[spec.Call, ...]


@dataclasses.dataclass(frozen=True)
class Choice:
    """One random number chooses at most one of several chains, which share the next numbers."""

    branches: tuple[tuple[float, float, Chain], ...]  # applies if low <= number < high
    extreme: bool = False  # whether operations have full strength and a random sign


@dataclasses.dataclass(frozen=True)
class Step:
    """One operation of a chain, and the examples that it applies to.

    It applies where low <= u[:, column] < high for all `gates`, (column, low, high).
    """

    call: spec.Call
    operation: Operation
    first: int  # the first of its columns in u
    gates: tuple[tuple[int, float, float], ...] = ()
    extreme: bool = False  # see `Choice`

    def numbers(self, u: tf.Tensor) -> tf.Tensor:
        """Return this operation's columns of u."""
        own = u[:, self.first : self.first + self.operation.num_random]
        return tf.where(own < 0.5, 0.0, 1.0) if self.extreme else own

    def choose(self, u: tf.Tensor, new: tf.Tensor, old: tf.Tensor) -> tf.Tensor:
        """Return `new` [N, ...] where this operation applies, else `old`."""
        if not self.gates:
            return new
        chosen = [(u[:, c] >= low) & (u[:, c] < high) for c, low, high in self.gates]
        chosen = tf.reduce_all(tf.stack(chosen), 0)
        return tf.where(tf.reshape(chosen, [-1] + [1] * (new.shape.rank - 1)), new, old)


def flatten(
    chain: Chain, first: int = 0, gates: tuple = (), extreme: bool = False
) -> tuple[list[Step], int]:
    """Return the operations of a chain, with policies resolved, and the next free column of u.

    `first` is the first free one; for `gates` and `extreme` see `Step`. Raises UserError if an
    operation is unknown, or its numbers are wrong.
    """
    steps = []
    for call in chain:
        entry = operations[call.name]
        entry.check(call)
        if entry.kind != Kind.POLICY:
            steps.append(Step(call, entry, first, gates, extreme))
            first += entry.num_random
            continue
        for choice in entry.function(*call.args):
            free = first + 1
            for low, high, branch in choice.branches:
                within = (*gates, (first, low, high))
                found, end = flatten(branch, first + 1, within, extreme or choice.extreme)
                steps += found
                free = max(free, end)
            first = free
    return steps, first


@operation("one_of", num_random=1, kind=Kind.POLICY)
def _one_of(chain: Any) -> list[Choice]:
    """`one_of(crop(0.9)|flip_lr|blur)`: exactly one of them for each image, with equal chances.

    Each keeps its own chances: `flip_lr` mirrors every other picture, `flip_lr(1)` all.
    """
    _require_chain(chain, "one_of")
    return [_equal_chances([(call,) for call in chain])]


@operation("maybe", num_random=1, kind=Kind.POLICY)
def _maybe(chance: Any, chain: Any) -> list[Choice]:
    """`maybe(0.5,rotate(20)|blur)`: all of them with that probability, else none."""
    require(
        isinstance(chance, float) and 0 <= chance <= 1, "maybe", "the first is a number in [0, 1]"
    )
    _require_chain(chain, "maybe")
    return [Choice(((0.0, chance, chain),))]


@operation("randaugment", num_random=1, kind=Kind.POLICY)
def _randaugment(rounds: Any, magnitude: Any) -> list[Choice]:
    """`randaugment(2,9)`: 2 operations in sequence, of magnitude 9 out of 30.

    Cubuk et al., RandAugment: Practical Automated Data Augmentation with a Reduced Search Space,
    2019. Each is drawn with equal chances from the identity and the operations that are
    registered with a strength; its sign is random.
    """
    call = f"randaugment({rounds},{magnitude})"
    require(rounds in range(1, _MAX_ROUNDS + 1), call, f"rounds are 1 to {_MAX_ROUNDS}")
    choice = _equal_chances(_of_magnitude(magnitude, call))
    return [dataclasses.replace(choice, extreme=True)] * int(rounds)


@operation("trivialaugment", num_random=1, kind=Kind.POLICY)
def _trivialaugment(magnitude: Any = 30.0) -> list[Choice]:
    """`trivialaugment`: one operation, its magnitude drawn from 0 to 30, or to another number.

    Mueller and Hutter, TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation, 2021,
    with the operations and ranges of `randaugment`.
    """
    return [_equal_chances(_of_magnitude(magnitude, f"trivialaugment({magnitude})"))]


def _of_magnitude(magnitude: Any, call: str) -> list[Chain]:
    """Return the identity and each operation of randaugment, of that magnitude."""
    require(
        isinstance(magnitude, float) and 0 <= magnitude <= _MAGNITUDES,
        call,
        f"the magnitude is in [0, {_MAGNITUDES}]",
    )
    strengths = {name: operations[name].strength for name in operations}
    return [
        (),
        *(
            (spec.Call(name, strength(magnitude / _MAGNITUDES)),)
            for name, strength in strengths.items()
            if strength
        ),
    ]


def _equal_chances(chains: list[Chain]) -> Choice:
    count = len(chains)
    return Choice(tuple((i / count, (i + 1) / count, chain) for i, chain in enumerate(chains)))


def _require_chain(chain: Any, name: str) -> None:
    require(isinstance(chain, tuple), name, "it takes operations, joined by |")
