"""Optimizers by name."""

from collections.abc import Callable

import tensorflow as tf

from tfpipe.errors import UserError
from tfpipe.registry import Registry

optimizers: Registry[Callable[[float], tf.keras.optimizers.Optimizer]] = Registry("optimizer")

_keras = tf.keras.optimizers
optimizers.add("sgd", _keras.SGD)
optimizers.add("momentum", lambda rate: _keras.SGD(rate, momentum=0.9))
optimizers.add("nesterov", lambda rate: _keras.SGD(rate, momentum=0.9, nesterov=True))
optimizers.add("rmsprop", _keras.RMSprop)
optimizers.add("adagrad", _keras.Adagrad)
optimizers.add("adadelta", _keras.Adadelta)
optimizers.add("adam", _keras.Adam)
optimizers.add("adamax", _keras.Adamax)
# Keras' new Nadam counts its steps in a Python integer, which a compiled step reads only once.
optimizers.add("nadam", _keras.legacy.Nadam)


def _from_addons(name: str) -> Callable[[float], tf.keras.optimizers.Optimizer]:
    def make(rate: float) -> tf.keras.optimizers.Optimizer:
        from tfpipe.fit import addons  # takes a second to import, and few runs need it

        return getattr(addons, name)(rate)

    return make


for _name in ("lamb", "radam", "lookahead"):
    optimizers.add(_name, _from_addons(_name))


def build(name: str, learning_rate: float) -> tf.keras.optimizers.Optimizer:
    """Builds an optimizer; raises UserError for an unknown name or a rate that is not above 0."""
    if not learning_rate > 0:
        raise UserError(f"--learning_rate={learning_rate:g} is not above 0")
    return optimizers[name](learning_rate)
