"""Updates of the weights: gradients are scaled, accumulated, clipped and applied."""

import math
from collections.abc import Sequence

import tensorflow as tf
import tf_keras

from tfpipe.core.errors import UserError
from tfpipe.training import optimizers, schedules
from tfpipe.training.cluster import summed
from tfpipe.training.train_config import TrainConfig


class Update:
    """Changes the variables with the gradients of one or several steps.

    Build it in the scope of the tf.distribute strategy, if there is one. Each replica accumulates
    its own gradients. Their sum over the replicas is clipped and applied.

    The last update of an epoch takes the steps that are left, so gradients never accumulate across
    epochs and checkpoints need not have them.

    Attributes:
        optimizer: its state goes into a checkpoint; it counts the updates.
    """

    def __init__(
        self,
        config: TrainConfig,
        variables: list[tf.Variable],
        *,
        backbone: Sequence[tf.Variable] = (),
        steps: int,
        float16: bool,
    ):
        """Prepare the state.

        `backbone` are those of `variables` that have the rate `backbone_learning_rate`, `steps` is
        the number in an epoch. `float16` scales the loss up, so small gradients do not become 0.
        """
        self._variables = variables
        self._steps = steps
        self._every = config.accumulate_steps
        self._clip_norm = config.clip_norm
        self._rate = rate = _rate(config, steps)
        optimizer = optimizers.build(config.optimizer, rate, config.weight_decay)
        self._scales = float16
        if float16:
            optimizer = tf_keras.mixed_precision.LossScaleOptimizer(optimizer)
        if hasattr(optimizer, "build"):
            optimizer.build(variables)
        self.optimizer = optimizer
        # All optimizers change a weight in proportion to the rate, so scaling the change is the
        # same as scaling the rate.
        self._ratio = _ratio(config)
        self._backbone = [] if self._ratio == 1 else list(backbone)
        accumulated = variables if self._every > 1 else []
        own = {
            "trainable": False,
            "synchronization": tf.VariableSynchronization.ON_READ,
            "aggregation": tf.VariableAggregation.SUM,
        }
        self._sums = [tf.Variable(tf.zeros(v.shape, v.dtype), **own) for v in accumulated]
        self._steps_summed = tf.Variable(0.0, **own)

    @property
    def learning_rate(self) -> float:
        """The rate of the next update."""
        if isinstance(self._rate, schedules.Schedule):
            return float(self._rate.rate(self.optimizer.iterations))
        return self._rate

    def due(self, step: int) -> bool:
        """Return whether this step of an epoch, counted from 1, updates the weights."""
        return step % self._every == 0 or step == self._steps

    def scaled(self, loss: tf.Tensor) -> tf.Tensor:
        """Return the loss whose gradients `add` takes."""
        return self.optimizer.get_scaled_loss(loss) if self._scales else loss

    def add(self, gradients: list[tf.Tensor], *, due: bool) -> None:
        """Add one step's gradients. If due, apply the mean over the steps since the last update.

        They are of the scaled loss. A replica's are of its part, as the loss is a sum over them.
        """
        if self._scales:
            gradients = self.optimizer.get_unscaled_gradients(gradients)
        if self._sums:
            for total, gradient in zip(self._sums, gradients, strict=True):
                total.assign_add(gradient)
            self._steps_summed.assign_add(1)
            gradients = [total / self._steps_summed for total in self._sums]
        if not due:
            return
        gradients = summed(gradients)
        if self._clip_norm:
            gradients, _ = tf.clip_by_global_norm(gradients, self._clip_norm)
        before = [tf.identity(variable) for variable in self._backbone]
        # Keras' older optimizers have only this name for skip_gradients_aggregation.
        self.optimizer.apply_gradients(
            zip(gradients, self._variables, strict=True), experimental_aggregate_gradients=False
        )
        for variable, value in zip(self._backbone, before, strict=True):
            variable.assign(value + self._ratio * (variable - value))
        self.reset()

    def reset(self) -> None:
        """Drop accumulated gradients, at the start of an epoch: the last may have ended early."""
        if self._sums:
            for total in self._sums:
                total.assign(tf.zeros(total.shape, total.dtype))
            self._steps_summed.assign(0)


def check(config: TrainConfig, steps: int, replicas: int = 1) -> None:
    """Raise UserError if an option of the update is wrong, for this number of steps in an epoch."""
    if config.optimizer == "lookahead" and replicas > 1:
        # It creates variables in the first step, which TensorFlow cannot do on several replicas.
        raise UserError(
            f"`optimizer=lookahead` cannot train on {replicas} devices: give radam, which it wraps,"
            " or `strategy=one_device`"
        )
    if config.accumulate_steps < 1:
        raise UserError(f"`accumulate_steps={config.accumulate_steps}`: give at least 1")
    if not 0 <= config.clip_norm < math.inf:
        raise UserError(f"`clip_norm={config.clip_norm:g}`: give 0 (off) or more")
    optimizers.build(config.optimizer, _rate(config, steps), config.weight_decay)
    if not 0 <= config.backbone_learning_rate < math.inf:
        raise UserError(
            f"`backbone_learning_rate={config.backbone_learning_rate:g}`: give 0 (the same as"
            " learning_rate) or more"
        )
    if _ratio(config) != 1 and config.optimizer == "lookahead":
        raise UserError(
            "`backbone_learning_rate`: lookahead moves all weights at once: give 0, or another"
            " `optimizer`"
        )


def _ratio(config: TrainConfig) -> float:
    """Return the backbones' rate divided by the head's."""
    return (config.backbone_learning_rate or config.learning_rate) / config.learning_rate


def _rate(config: TrainConfig, steps: int) -> schedules.Schedule | float:
    optimizers.check_rate(config.learning_rate)
    return schedules.build(config, math.ceil(steps / config.accumulate_steps))
