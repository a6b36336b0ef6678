"""Optimizers by name, with their parameters: `sgd(momentum=0.9,nesterov)`, `adam(beta_2=0.98)`."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
import tf_keras

from tfpipe.core import spec
from tfpipe.core.errors import UserError
from tfpipe.core.registry import Registry

Optimizer = tf_keras.optimizers.Optimizer | tf_keras.optimizers.legacy.Optimizer
Rate = float | tf_keras.optimizers.schedules.LearningRateSchedule

_SHARES = ("momentum", "rho", "beta_1", "beta_2")  # parameters of at least 0 and below 1
_FLAGS = ("nesterov", "amsgrad", "centered")


@dataclasses.dataclass(frozen=True)
class OptimizerSpec:
    """One entry of the registry.

    Attributes:
        make: from a learning rate and keyword arguments to the optimizer.
        parameters: keyword arguments of `make` that a spec may set.
        decays: whether `make` takes `weight_decay`.
    """

    make: Callable[..., Optimizer]
    parameters: tuple[str, ...] = ()
    decays: bool = True


optimizers: Registry[OptimizerSpec] = Registry("optimizer")

_keras = tf_keras.optimizers
_betas = ("beta_1", "beta_2", "epsilon")


def _sgd(rate: Rate, momentum: float = 0.0, nesterov: bool = False, **more: Any) -> Optimizer:
    if nesterov and not momentum:
        raise UserError(
            "`optimizer`: sgd(nesterov) needs a momentum, as sgd(momentum=0.9,nesterov)"
        )
    return _keras.SGD(rate, momentum=momentum, nesterov=nesterov, **more)


def _momentum(rate: Rate, momentum: float = 0.9, **more: Any) -> Optimizer:
    return _keras.SGD(rate, momentum=momentum, **more)


def _nesterov(rate: Rate, **more: Any) -> Optimizer:
    return _momentum(rate, nesterov=True, **more)


def _nadam(rate: Rate, **more: Any) -> Optimizer:
    # Keras' new Nadam counts its steps in Python, which a compiled step reads only once.
    if not callable(rate):
        return _keras.legacy.Nadam(rate, **more)
    # It refuses a schedule, but takes a function without arguments.
    optimizer = _keras.legacy.Nadam(lambda: rate(optimizer.iterations), **more)
    return optimizer


def _from_addons(name: str) -> Callable[..., Optimizer]:
    def make(rate: Rate, **more: Any) -> Optimizer:
        from tfpipe.training import addons  # takes 1 s to import

        return getattr(addons, name)(rate, **more)

    return make


for _name, _entry in {
    "sgd": OptimizerSpec(_sgd, ("momentum", "nesterov")),
    "momentum": OptimizerSpec(_momentum, ("momentum",)),
    "nesterov": OptimizerSpec(_nesterov, ("momentum",)),
    "rmsprop": OptimizerSpec(_keras.RMSprop, ("rho", "momentum", "epsilon", "centered")),
    "adagrad": OptimizerSpec(_keras.Adagrad, ("epsilon",)),
    "adadelta": OptimizerSpec(_keras.Adadelta, ("rho", "epsilon")),
    "adam": OptimizerSpec(_keras.Adam, (*_betas, "amsgrad")),
    "adamw": OptimizerSpec(_keras.AdamW, (*_betas, "amsgrad", "weight_decay")),
    "adamax": OptimizerSpec(_keras.Adamax, _betas),
    "lion": OptimizerSpec(_keras.Lion, ("beta_1", "beta_2")),
    "nadam": OptimizerSpec(_nadam, _betas, decays=False),
    "lamb": OptimizerSpec(_from_addons("lamb"), _betas),
    "radam": OptimizerSpec(_from_addons("radam"), (*_betas, "amsgrad")),
    "lookahead": OptimizerSpec(_from_addons("lookahead"), _betas),
}.items():
    optimizers.add(_name, _entry)


def name_of(text: str) -> str:
    """Return the name of an optimizer's spec."""
    return spec.parse_one(text, optimizers, option="optimizer").name


def build(
    text: str,
    learning_rate: Rate,
    weight_decay: float = 0.0,
    variables: Sequence[tf.Variable] = (),
) -> Optimizer:
    """Build an optimizer.

    Args:
        text: a name in the registry, perhaps with parameters, as "adam(beta_2=0.98)".
        learning_rate: above 0, or a schedule.
        weight_decay: decoupled (Loshchilov and Hutter 2019, arXiv:1711.05101): each update
            subtracts learning_rate x weight_decay x weight, of the weights that `is_decayed`. lamb
            includes it in its trust ratio. 0 for none, or for adamw's own, which is Keras' 0.004.
        variables: that it will train.

    Raises:
        UserError: the name or a parameter is unknown or out of range, the rate is not above 0, or
            the weight decay is negative or not supported by the optimizer.
    """
    if not callable(learning_rate):
        check_rate(learning_rate)
    call = spec.parse_one(text, optimizers, option="optimizer")
    entry = optimizers[call.name]
    values = _parameters(call, entry)
    _check_decay(weight_decay)
    if weight_decay:
        if not entry.decays:
            having = ", ".join(other for other in optimizers if optimizers[other].decays)
            raise UserError(
                f"`weight_decay={weight_decay:g}`: {call.name} has none: give 0, or one of {having}"
            )
        if "weight_decay" in values:
            raise UserError(
                f"`weight_decay={weight_decay:g}` and `optimizer={text}`: give one of them"
            )
        values["weight_decay"] = weight_decay
    optimizer = entry.make(learning_rate, **values)
    if isinstance(optimizer, tf_keras.optimizers.Optimizer):
        optimizer.exclude_from_weight_decay([v for v in variables if not is_decayed(v)])
    return optimizer


def is_decayed(variable: tf.Variable) -> bool:
    """Return whether weight decay takes a share of a variable: a matrix or a kernel.

    Biases and the scales and offsets of normalisation are vectors. A decay would only change what
    they fit to, and timm, big_vision and MAE leave them out too.
    """
    return variable.shape.rank > 1


def check_rate(learning_rate: float) -> None:
    """Raise UserError if a learning rate is not above 0."""
    if not 0 < learning_rate < math.inf:
        raise UserError(f"`learning_rate={learning_rate:g}`: give a rate above 0")


def _check_decay(weight_decay: float) -> None:
    if not 0 <= weight_decay < math.inf:
        raise UserError(f"`weight_decay={weight_decay:g}`: give 0 (off) or more")


def _parameters(call: spec.Call, entry: OptimizerSpec) -> dict[str, float | bool]:
    """Return the parameters of a spec by name; raise UserError for a wrong one."""
    words = [arg[0] for arg in call.args if isinstance(arg, tuple) and arg]
    given = [(word.name, 1.0) for word in words if word == spec.Call(word.name)]
    if len(given) < len(call.args):
        raise UserError(
            f"`optimizer`: {call}: write NAME(KEY=NUMBER,...), as in sgd(momentum=0.9,nesterov)"
        )
    values: dict[str, float | bool] = {}
    for key, value in (*given, *call.named):
        if key not in entry.parameters or key in values:
            known = ", ".join(entry.parameters)
            raise UserError(
                f"`optimizer`: {call}: {key!r} is no parameter of {call.name}, or given twice:"
                f" it takes {known}"
            )
        if key in _FLAGS:
            allowed, fits = "0 or 1", value in (0, 1)
            value = bool(value)
        elif key in _SHARES:
            allowed, fits = "at least 0 and below 1", 0 <= value < 1
        else:
            allowed, fits = "above 0", 0 < value < math.inf
        if not fits:
            raise UserError(f"`optimizer`: {call}: {key} is {allowed}")
        values[key] = value
    return values
