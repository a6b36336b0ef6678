"""Averages of the weights over a training, evaluated and exported in place of the last weights.

Keras' own (`use_ema`) leaves out BatchNorm's statistics, and its older optimizers have none. To add
an average, subclass `Average` and register a function that builds it.
"""

import contextlib
import fractions
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf

from tfpipe.core import spec
from tfpipe.core.errors import UserError
from tfpipe.core.registry import Registry

# From the variables, the updates in an epoch and the arguments of the spec to the average.
averages: Registry[Callable[..., "Average | None"]] = Registry("average")

# Epochs that swa takes: whole numbers of thousandths, few enough for 64-bit arithmetic.
_SHORTEST, _LONGEST = 0.001, 100_000


class Average(tf.Module):
    """Averages of variables. A checkpoint of it saves its state.

    Build it in the scope of the tf.distribute strategy, if there is one. Each replica averages its
    own copies. Where these differ, as BatchNorm's statistics do, reading an average outside of the
    replicas returns the mean over them.
    """

    def __init__(self, variables: Sequence[tf.Variable]):
        """Start from the current values. The averages take as much memory as the variables."""
        super().__init__()
        self._count = _counter(0)
        self._averages = kept = [
            tf.Variable(
                variable.read_value(),
                trainable=False,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.MEAN,
            )
            for variable in variables
        ]
        # A function, because tf.Module would save a list of the model's variables.
        self._pairs = lambda: zip(variables, kept, strict=True)
        self._local = tf.distribute.get_strategy().experimental_local_results

    def update(self, updates: tf.Tensor) -> None:
        """Add the current weights to the average, if it is time to.

        Call it after each update: eagerly, or in the training step, compiled or in replicas.
        `updates` is the number of updates of the weights so far, an integer [], at least 1.
        """
        raise NotImplementedError

    @contextlib.contextmanager
    def swapped(self) -> Iterator[None]:
        """Swap weights and averages while the block runs, unless nothing is averaged yet.

        Use it outside of tf.function and replicas, and save no checkpoint in the block. Variables
        are swapped one by one, so it takes the memory of the largest.
        """
        if not self._count.numpy():
            yield
            return
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for variable, average in self._pairs():
            for one, other in zip(self._local(variable), self._local(average), strict=True):
                value = one.read_value()
                one.assign(other.read_value())
                other.assign(value)

    def _approach(self, share: tf.Tensor) -> None:
        """Move the averages towards the weights by a share of the distance, float32 [] in 0..1."""
        for variable, average in self._pairs():
            step = tf.cast(share, average.dtype) * (variable.read_value() - average)
            average.assign_add(step)
        self._count.assign_add(1)


class WeightsSnapshot(Average):
    """The weights as they were at the last `update`, such as the end of the best epoch."""

    def update(self, updates: "int | tf.Tensor") -> None:
        """Copy the current weights, outside of a tf.function; see `Average.update`."""
        for variable, copy in self._pairs():
            for one, other in zip(self._local(variable), self._local(copy), strict=True):
                other.assign(one.read_value())
        self._count.assign(1)


class Exponential(Average):
    """average = d x average + (1 - d) x weight with each update, from the first weights on.

    After n updates d is min(DECAY, (1 + n) / (10 + n)), as in tf.train.ExponentialMovingAverage
    with `num_updates`, so the first weights soon lose their influence.
    """

    def __init__(self, variables: Sequence[tf.Variable], decay: float):
        """Start from the current weights; `decay` is in [0, 1)."""
        super().__init__(variables)
        self._decay = decay

    def update(self, updates: tf.Tensor) -> None:
        """Add the current weights; see `Average.update`."""
        n = tf.cast(updates, tf.float32)
        self._approach(1 - tf.minimum(self._decay, (1 + n) / (10 + n)))


class Stochastic(Average):
    """The equal mean of the weights at several times (Izmailov et al. 2018, arXiv:1803.05407).

    BatchNorm's statistics are averaged like weights. The paper computes them again instead, with
    another pass over the data.
    """

    def __init__(
        self,
        variables: Sequence[tf.Variable],
        start: fractions.Fraction,
        every: fractions.Fraction,
    ):
        """Take the weights after `start` updates, at least 0, and then after each `every` updates.

        A time between two updates means the later. The weights before any update never count.
        """
        super().__init__(variables)
        self._start = start
        self._every = every
        # Not `_count`: an update that loss scaling skips must not count twice.
        self._passed = _counter(int(self._times(0)))

    def update(self, updates: tf.Tensor) -> None:
        """Add the current weights if a time has come; see `Average.update`."""
        times = self._times(tf.cast(updates, tf.int64))

        def take() -> None:
            self._approach(1 / tf.cast(self._count + 1, tf.float32))
            self._passed.assign(times)

        tf.cond(times > self._passed, take, lambda: None)

    def _times(self, updates: "int | tf.Tensor") -> "int | tf.Tensor":
        """Return the number of times up to an update, in integers, which do not drift."""
        since = updates * self._start.denominator - self._start.numerator
        length = self._every.numerator * self._start.denominator
        return tf.maximum(since * self._every.denominator // length + 1, 0)


def _counter(value: int) -> tf.Variable:
    """Return an integer that each replica counts for itself."""
    return tf.Variable(
        tf.constant(value, tf.int64),
        trainable=False,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )


@averages.register("none")
def _none(variables: Sequence[tf.Variable], per_epoch: int) -> None:
    """`none`: the weights themselves."""


@averages.register("ema")
def _ema(variables: Sequence[tf.Variable], per_epoch: int, decay: float) -> Average:
    """`ema(DECAY)`: an exponential moving average over the updates; see `Exponential`."""
    if not 0 <= decay < 1:
        raise UserError(f"`average=ema({decay:g})`: give a decay of at least 0 and below 1")
    return Exponential(variables, decay)


@averages.register("swa")
def _swa(
    variables: Sequence[tf.Variable], per_epoch: int, start: float, every: float = 1.0
) -> Average:
    """`swa(START_EPOCH)` or `swa(START_EPOCH,EVERY_EPOCHS)`: the mean of those epochs' weights."""
    for name, value, least in (("START_EPOCH", start, 0.0), ("EVERY_EPOCHS", every, _SHORTEST)):
        if not least <= value <= _LONGEST:
            raise UserError(f"`average=swa`: {name} is {value:g}: give {least:g} to {_LONGEST}")
    first, length = (fractions.Fraction(v).limit_denominator(1000) for v in (start, every))
    return Stochastic(variables, first * per_epoch, length * per_epoch)


def build(text: str, variables: Sequence[tf.Variable], per_epoch: int) -> Average | None:
    """Build the average of the option `average`, such as "ema(0.999)"; None for "none".

    Args:
        text: the option.
        variables: all that changes in a training, with BatchNorm's statistics; integers are left
            out.
        per_epoch: updates in an epoch, at least 1.

    Raises:
        UserError: an unknown average or wrong numbers.
    """
    floating = [variable for variable in variables if variable.dtype.is_floating]
    return spec.make(text, averages, floating, per_epoch, option="average")


def check(text: str) -> None:
    """Raise UserError if the option `average` is wrong."""
    build(text, [], per_epoch=1)
