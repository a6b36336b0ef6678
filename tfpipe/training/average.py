"""Averages of the weights over a training, to be evaluated and exported in place of the last ones.

Keras' own (`use_ema`) leaves out BatchNorm's statistics, and its older optimizers have none; those
of tensorflow-addons wrap older optimizers only. To add one, subclass `Average` and register it.
"""

import contextlib
import fractions
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf

from tfpipe.core import spec
from tfpipe.core.errors import UserError
from tfpipe.core.registry import Registry

# From the variables, the updates in an epoch and the arguments in the spec to the average.
averages: Registry[Callable[..., "Average | None"]] = Registry("average")

# Epochs that swa takes: whole numbers of thousandths, few enough for 64-bit arithmetic.
_SHORTEST, _LONGEST = 0.001, 100_000


class Average(tf.Module):
    """Averages of variables; `variables` is the state that goes into a checkpoint.

    Made in the scope of a tf.distribute strategy, if there is one. Each replica then keeps the
    averages of its own copies and nothing is communicated; where the copies differ, as BatchNorm's
    statistics do, reading an average outside of the replicas gives the mean over them.
    """

    def __init__(self, variables: Sequence[tf.Variable]):
        """Starts from the variables as they are; each average takes as much memory as its own."""
        super().__init__()
        on_read = tf.VariableSynchronization.ON_READ
        self._count = tf.Variable(
            tf.constant(0, tf.int64),
            trainable=False,
            synchronization=on_read,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )
        self._averages = kept = [
            tf.Variable(
                variable.read_value(),
                trainable=False,
                synchronization=on_read,
                aggregation=tf.VariableAggregation.MEAN,
            )
            for variable in variables
        ]
        # In a function: a list of the model's variables would be taken for state of this module.
        self._pairs = lambda: zip(variables, kept, strict=True)
        self._local = tf.distribute.get_strategy().experimental_local_results

    def update(self, updates: tf.Tensor) -> None:
        """Takes the weights as they are now, if it is time to.

        To be called after each update of the weights: eagerly, or in the training step, which may
        be compiled with XLA and may run in the replicas of a strategy.

        Args:
            updates: how many updates of the weights there have been, an integer [], at least 1.
        """
        raise NotImplementedError

    @contextlib.contextmanager
    def swapped(self) -> Iterator[None]:
        """Exchanges weights and averages while the block runs, unless nothing is averaged yet.

        Outside of a tf.function and of replicas. Variables are exchanged one after the other, so
        that it takes the memory of one of them. No checkpoint should be saved in the block.
        """
        if not self._count.numpy():
            yield
            return
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for variable, average in self._pairs():
            for one, other in zip(self._local(variable), self._local(average), strict=True):
                value = one.read_value()
                one.assign(other.read_value())
                other.assign(value)

    def _approach(self, share: tf.Tensor) -> None:
        """Moves the averages that share of the way, float32 [] in 0..1, to the weights."""
        for variable, average in self._pairs():
            step = tf.cast(share, average.dtype) * (variable.read_value() - average)
            average.assign_add(step)
        self._count.assign_add(1)


class Copy(Average):
    """The weights as they were when they were last taken, as at the end of the best epoch."""

    def update(self, updates: "int | tf.Tensor") -> None:
        """Takes the weights as they are now, outside of a tf.function; see `Average.update`."""
        del updates
        for variable, copy in self._pairs():
            for one, other in zip(self._local(variable), self._local(copy), strict=True):
                other.assign(one.read_value())
        self._count.assign(1)


class Exponential(Average):
    """average = d x average + (1 - d) x weight with each update, starting at the first weights.

    With d = min(DECAY, (1 + n) / (10 + n)) after n updates, as tf.train.ExponentialMovingAverage
    has it with `num_updates`, so that the first weights are soon forgotten.
    """

    def __init__(self, variables: Sequence[tf.Variable], decay: float):
        """Starts; `decay` is in 0..1, without 1."""
        super().__init__(variables)
        self._decay = decay

    def update(self, updates: tf.Tensor) -> None:
        """Takes the weights as they are now; see `Average.update`."""
        n = tf.cast(updates, tf.float32)
        self._approach(1 - tf.minimum(self._decay, (1 + n) / (10 + n)))


class Stochastic(Average):
    """The equal mean of the weights at several times (Izmailov et al. 2018, arXiv:1803.05407).

    BatchNorm's statistics are averaged as the weights are; the paper computes them anew, by another
    pass over the data.
    """

    def __init__(
        self,
        variables: Sequence[tf.Variable],
        start: fractions.Fraction,
        every: fractions.Fraction,
    ):
        """Starts.

        Args:
            variables: what is averaged.
            start: the updates after which weights are first taken, from 0 on; the weights before
                any update are never taken.
            every: the updates from one time to the next, above 0. Times between two updates are
                those of the later one.
        """
        super().__init__(variables)
        self._start = start
        self._every = every
        # Apart from the count of weights taken: an update that loss scaling skips is not one.
        self._passed = tf.Variable(
            tf.constant(int(self._times(0)), tf.int64),
            trainable=False,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )

    def update(self, updates: tf.Tensor) -> None:
        """Takes the weights if one of the times has come; see `Average.update`."""
        times = self._times(tf.cast(updates, tf.int64))

        def take() -> None:
            self._approach(1 / tf.cast(self._count + 1, tf.float32))
            self._passed.assign(times)

        tf.cond(times > self._passed, take, lambda: None)

    def _times(self, updates: "int | tf.Tensor") -> "int | tf.Tensor":
        """Returns how many times there are up to an update, in whole numbers: none drifts."""
        since = updates * self._start.denominator - self._start.numerator
        length = self._every.numerator * self._start.denominator
        return tf.maximum(since * self._every.denominator // length + 1, 0)


@averages.register("none")
def _none(variables: Sequence[tf.Variable], per_epoch: int) -> None:
    """`none`: the weights as they are."""
    del variables, per_epoch


@averages.register("ema")
def _ema(variables: Sequence[tf.Variable], per_epoch: int, decay: float) -> Average:
    """`ema(DECAY)`: an exponential moving average over the updates, as `Exponential` says."""
    del per_epoch
    if not 0 <= decay < 1:
        raise UserError(f"--average=ema({decay:g}): the decay is not in 0..1, as 0.999")
    return Exponential(variables, decay)


@averages.register("swa")
def _swa(
    variables: Sequence[tf.Variable], per_epoch: int, start: float, every: float = 1.0
) -> Average:
    """`swa(START_EPOCH)` or `swa(START_EPOCH,EVERY_EPOCHS)`: the mean of those epochs' weights."""
    for name, value, least in (("START_EPOCH", start, 0.0), ("EVERY_EPOCHS", every, _SHORTEST)):
        if not least <= value <= _LONGEST:
            raise UserError(f"--average=swa: {name} is {value:g}, not {least:g} to {_LONGEST}")
    first, length = (fractions.Fraction(v).limit_denominator(1000) for v in (start, every))
    return Stochastic(variables, first * per_epoch, length * per_epoch)


def build(text: str, variables: Sequence[tf.Variable], per_epoch: int) -> Average | None:
    """Builds the average that the options ask for.

    Args:
        text: the spec of --average.
        variables: what is trained, BatchNorm's statistics included, with its first weights; those
            that are not floating point are left out.
        per_epoch: updates in an epoch, at least 1.

    Returns:
        The average, or None for none.

    Raises:
        UserError: an unknown average or wrong arguments.
    """
    floating = [variable for variable in variables if variable.dtype.is_floating]
    return spec.make(text, averages, floating, per_epoch, option="average")


def check(text: str) -> None:
    """Raises UserError if --average is wrong."""
    build(text, [], per_epoch=1)
