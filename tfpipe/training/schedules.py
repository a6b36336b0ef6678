"""Schedules of the learning rate, by name.

    rate = learning_rate x warm-up x schedule, of the time in epochs, x scale

Time is the optimizer's count of updates divided by the updates in an epoch, so the rate changes
with every update, and a resumed training has the right rate. The scale is what the training itself
changes: after a loss that is not finite, and by `plateau`. To add a schedule, register a function
that returns its factor.
"""

import dataclasses
import math
from collections.abc import Callable

import tensorflow as tf
import tf_keras

from tfpipe.core import spec
from tfpipe.core.errors import UserError
from tfpipe.core.registry import Registry
from tfpipe.training.train_config import TrainConfig

# From the time in epochs, float64 [], to the factor of the rate, float64 [].
Factor = Callable[[tf.Tensor], tf.Tensor]

# From the epochs of the training and the arguments of the spec to the factor.
schedules: Registry[Callable[..., Factor]] = Registry("schedule")


@schedules.register("constant")
def _constant(epochs: int) -> Factor:
    """`constant`: 1."""
    return tf.ones_like


@schedules.register("cosine")
def _cosine(epochs: int, over: float | None = None, min: float = 0.0) -> Factor:
    """`cosine`, `cosine(EPOCHS)`, `cosine(EPOCHS,min=0.01)`: half a cosine from 1 to `min`.

    It takes all epochs, or EPOCHS, and stays at `min`, a share of the rate. Loshchilov and Hutter
    2017, arXiv:1608.03983, equation 5, without restarts.
    """
    length = _positive("cosine", epochs if over is None else over)
    low = _share("cosine", min)
    return lambda time: low + (1 - low) * _half_cosine(tf.minimum(time / length, 1))


@schedules.register("cosine_restarts")
def _cosine_restarts(epochs: int, first: float, times: float = 1.0, min: float = 0.0) -> Factor:
    """`cosine_restarts(EPOCHS,TIMES,min=0.01)`: a cosine again and again, the first for EPOCHS.

    Each takes TIMES as long as the one before, 1 by default. Loshchilov and Hutter 2017, section 3.
    """
    length, low = _positive("cosine_restarts", first), _share("cosine_restarts", min)
    if not 1 <= times < math.inf:
        raise UserError(f"`schedule`: cosine_restarts: TIMES is {times:g}: give 1 or more")

    def factor(time: tf.Tensor) -> tf.Tensor:
        time = time / length
        if times == 1:
            return low + (1 - low) * _half_cosine(time - tf.floor(time))
        # Periods 1, t, t^2, ...: the n-th begins at (t^n - 1) / (t - 1).
        base = tf.constant(times, tf.float64)
        period = tf.floor(tf.math.log(1 + time * (base - 1)) / tf.math.log(base) + 1e-9)
        began = (base**period - 1) / (base - 1)
        return low + (1 - low) * _half_cosine((time - began) / base**period)

    return factor


@schedules.register("step")
def _step(epochs: int, every: float, factor: float) -> Factor:
    """`step(EPOCHS,FACTOR)`: multiplies by FACTOR after every EPOCHS epochs."""
    _positive("step", every)
    base = tf.constant(_positive("step", factor), tf.float64)
    return lambda time: base ** tf.floor(time / every)


@schedules.register("inverse_time")
def _inverse_time(epochs: int, decay: float) -> Factor:
    """`inverse_time(RATE)`: 1 / (1 + RATE x epochs)."""
    _positive("inverse_time", decay)
    return lambda time: 1 / (1 + decay * time)


@dataclasses.dataclass(frozen=True)
class Plateau:
    """When and how `plateau` lowers the rate."""

    factor: float  # of the rate, each time
    patience: int  # epochs without a gain

    def __call__(self, time: tf.Tensor) -> tf.Tensor:
        """Return 1: the training lowers the scale of the rate by itself."""
        return tf.ones_like(time)


@schedules.register("plateau")
def _plateau(epochs: int, factor: float, patience: float) -> Factor:
    """`plateau(FACTOR,PATIENCE)`: multiplies by FACTOR after PATIENCE epochs without a gain."""
    if not 0 < factor < 1:
        raise UserError(f"`schedule`: plateau: FACTOR is {factor:g}: give a number within 0 and 1")
    if patience < 1 or patience != int(patience):
        raise UserError(f"`schedule`: plateau: PATIENCE is {patience:g}: give whole epochs")
    return Plateau(factor, int(patience))


class Schedule(tf_keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate after a number of updates, for every optimizer."""

    def __init__(self, learning_rate: float, factor: Factor, warmup: float, per_epoch: int):
        """Join the parts; `per_epoch` is the number of updates in an epoch. The scale is 1.

        Build it in the scope of the tf.distribute strategy, if there is one.

        In the first `warmup` epochs the rate rises linearly, up to its full value at their last
        update (Goyal et al. 2017, arXiv:1706.02677, section 2.2).
        """
        self._learning_rate = learning_rate
        self._factor = factor
        # Not an optimizer's variable, which a checkpoint would restore.
        self._scale = tf.Variable(1.0, trainable=False, dtype=tf.float64)
        self._warmup = warmup
        self._per_epoch = per_epoch

    def rate(self, step: tf.Tensor) -> tf.Tensor:
        """Return the rate of the update after `step` updates, float64 []."""
        step = tf.cast(step, tf.float64)
        rate = self._learning_rate * self._factor(step / self._per_epoch)
        if self._warmup:
            rate *= tf.minimum((step + 1) / (self._warmup * self._per_epoch), 1)
        return rate * self._scale

    def scale(self, value: float) -> None:
        """Set the scale of all rates from the next update on."""
        self._scale.assign(value)

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Return the same, float32 []."""
        return tf.cast(self.rate(step), tf.float32)


def build(config: TrainConfig, per_epoch: int) -> Schedule:
    """Build the schedule of the options, for `per_epoch` updates in an epoch.

    Raises UserError for a wrong option.
    """
    factor = _factor(config)
    if not 0 <= config.warmup_epochs < math.inf:
        raise UserError(f"`warmup_epochs={config.warmup_epochs:g}`: give 0 or more")
    return Schedule(config.learning_rate, factor, config.warmup_epochs, per_epoch)


def plateau(config: TrainConfig) -> Plateau | None:
    """Return the `plateau` of the option `schedule`, or None if it is another schedule."""
    factor = _factor(config)
    return factor if isinstance(factor, Plateau) else None


def follows_epochs(schedule: str) -> bool:
    """Return whether the rates depend on the epochs, so that a run cannot be lengthened."""
    call = _parse(schedule)
    return call.name == "cosine" and not call.args and "over" not in dict(call.named)


def _factor(config: TrainConfig) -> Factor:
    return spec.make(config.schedule, schedules, config.epochs, option="schedule")


def _parse(text: str) -> spec.Call:
    return spec.parse_one(text, schedules, option="schedule")


def _positive(name: str, value: float) -> float:
    if not 0 < value < math.inf:
        raise UserError(f"`schedule`: {name} takes numbers above 0, not {value:g}")
    return value


def _share(name: str, value: float) -> float:
    if not 0 <= value < 1:
        raise UserError(f"`schedule`: {name}: min is {value:g}: give a share of the rate, below 1")
    return value


def _half_cosine(part: tf.Tensor) -> tf.Tensor:
    return 0.5 * (1 + tf.cos(math.pi * part))
