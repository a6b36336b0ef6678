"""Schedules of the learning rate, by name.

    rate = learning_rate x warm-up x schedule, of the time in epochs

Time is the optimizer's count of updates divided by the updates in an epoch, so the rate changes
with every update, and a resumed training has the right rate. To add a schedule, register a function
that returns its factor.
"""

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
def _cosine(epochs: int, over: float | None = None) -> Factor:
    """`cosine`, `cosine(EPOCHS)`: half a cosine from 1 to 0, over all epochs or EPOCHS.

    Loshchilov and Hutter 2017, arXiv:1608.03983, equation 5, without restarts.
    """
    length = _positive("cosine", epochs if over is None else over)
    return lambda time: 0.5 * (1 + tf.cos(math.pi * tf.minimum(time / length, 1)))


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


class Schedule(tf_keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate after a number of updates, for every optimizer."""

    def __init__(self, learning_rate: float, factor: Factor, warmup: float, per_epoch: int):
        """Join the parts; `per_epoch` is the number of updates in an epoch.

        In the first `warmup` epochs the rate rises linearly, up to its full value at their last
        update (Goyal et al. 2017, arXiv:1706.02677, section 2.2).
        """
        self._learning_rate = learning_rate
        self._factor = factor
        self._warmup = warmup
        self._per_epoch = per_epoch

    def rate(self, step: tf.Tensor) -> tf.Tensor:
        """Return the rate of the update after `step` updates, float64 []."""
        step = tf.cast(step, tf.float64)
        rate = self._learning_rate * self._factor(step / self._per_epoch)
        if self._warmup:
            rate *= tf.minimum((step + 1) / (self._warmup * self._per_epoch), 1)
        return rate

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Return the same, float32 []."""
        return tf.cast(self.rate(step), tf.float32)


def build(config: TrainConfig, per_epoch: int) -> Schedule | float:
    """Build the schedule of the options, or return the rate itself if it never changes.

    `per_epoch` is the number of updates in an epoch. Raises UserError for a wrong option.
    """
    factor = spec.make(config.schedule, schedules, config.epochs, option="schedule")
    if not 0 <= config.warmup_epochs < math.inf:
        raise UserError(f"`warmup_epochs={config.warmup_epochs:g}`: give 0 or more")
    if _parse(config.schedule).name == "constant" and not config.warmup_epochs:
        return config.learning_rate
    return Schedule(config.learning_rate, factor, config.warmup_epochs, per_epoch)


def follows_epochs(schedule: str) -> bool:
    """Return whether the rates depend on the epochs, so that a run cannot be lengthened."""
    return _parse(schedule) == spec.Call("cosine")


def _parse(text: str) -> spec.Call:
    return spec.parse_one(text, schedules, option="schedule")


def _positive(name: str, value: float) -> float:
    if not 0 < value < math.inf:
        raise UserError(f"`schedule`: {name} takes numbers above 0, not {value:g}")
    return value
