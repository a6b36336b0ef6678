"""Optimizers by name."""

import math
from collections.abc import Callable

import tf_keras

from tfpipe.core.errors import UserError
from tfpipe.core.registry import Registry

Optimizer = tf_keras.optimizers.Optimizer | tf_keras.optimizers.legacy.Optimizer
Rate = float | tf_keras.optimizers.schedules.LearningRateSchedule

# From a learning rate, and `weight_decay` if it is not 0, to the optimizer.
optimizers: Registry[Callable[..., Optimizer]] = Registry("optimizer")

_keras = tf_keras.optimizers
optimizers.add("sgd", _keras.SGD)
optimizers.add("momentum", lambda rate, **decay: _keras.SGD(rate, momentum=0.9, **decay))
optimizers.add(
    "nesterov", lambda rate, **decay: _keras.SGD(rate, momentum=0.9, nesterov=True, **decay)
)
optimizers.add("rmsprop", _keras.RMSprop)
optimizers.add("adagrad", _keras.Adagrad)
optimizers.add("adadelta", _keras.Adadelta)
optimizers.add("adam", _keras.Adam)
optimizers.add("adamax", _keras.Adamax)

WITHOUT_DECAY = ("nadam",)


@optimizers.register("nadam")
def _nadam(rate: Rate) -> Optimizer:
    # Keras' new Nadam counts its steps in Python, which a compiled step reads only once.
    if not callable(rate):
        return _keras.legacy.Nadam(rate)
    # It refuses a schedule, but takes a function without arguments.
    optimizer = _keras.legacy.Nadam(lambda: rate(optimizer.iterations))
    return optimizer


def _from_addons(name: str) -> Callable[..., Optimizer]:
    def make(rate: Rate, **decay: float) -> Optimizer:
        from tfpipe.training import addons  # takes 1 s to import

        return getattr(addons, name)(rate, **decay)

    return make


for _name in ("lamb", "radam", "lookahead"):
    optimizers.add(_name, _from_addons(_name))


def build(name: str, learning_rate: Rate, weight_decay: float = 0.0) -> Optimizer:
    """Build an optimizer.

    Args:
        name: name in the registry.
        learning_rate: above 0, or a schedule.
        weight_decay: decoupled (Loshchilov and Hutter 2019, arXiv:1711.05101): each update
            subtracts learning_rate x weight_decay x weight. lamb includes it in its trust ratio.
            0 for none.

    Raises:
        UserError: the name is unknown, the rate is not above 0, or the weight decay is negative or
            not supported by the optimizer.
    """
    if not callable(learning_rate):
        check_rate(learning_rate)
    make = optimizers[name]
    if not 0 <= weight_decay < math.inf:
        raise UserError(f"`weight_decay={weight_decay:g}`: give 0 (off) or more")
    if not weight_decay:
        return make(learning_rate)
    if name in WITHOUT_DECAY:
        having = ", ".join(other for other in optimizers if other not in WITHOUT_DECAY)
        raise UserError(
            f"`weight_decay={weight_decay:g}`: {name} has none: give 0, or one of {having}"
        )
    return make(learning_rate, weight_decay=weight_decay)


def check_rate(learning_rate: float) -> None:
    """Raise UserError if a learning rate is not above 0."""
    if not learning_rate > 0:
        raise UserError(f"`learning_rate={learning_rate:g}`: give a rate above 0")
