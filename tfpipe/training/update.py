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
        backbone: Sequence[tuple[tf.Variable, int]] = (),
        steps: int,
        float16: bool,
    ):
        """Prepare the state.

        `backbone` are those of `variables` that have the rate `backbone_learning_rate`, each with
        the number of trained blocks between it and the head. `steps` is the number in an epoch.
        `float16` scales the loss up, so small gradients do not become 0.
        """
        self._variables = variables
        self._steps = steps
        self._every = config.accumulate_steps
        self._clip_norm = config.clip_norm
        self._rate = rate = _rate(config, steps)
        optimizer = optimizers.build(config.optimizer, rate, config.weight_decay, variables)
        self._scales = float16
        if float16:
            optimizer = tf_keras.mixed_precision.LossScaleOptimizer(optimizer)
        if hasattr(optimizer, "build"):
            optimizer.build(variables)
        self.optimizer = optimizer
        # All optimizers change a weight in proportion to the rate, so scaling the change is the
        # same as scaling the rate.
        ratios = [(variable, _ratio(config, depth)) for variable, depth in backbone]
        self._scaled = [(variable, ratio) for variable, ratio in ratios if ratio != 1]
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
        return float(self._rate.rate(self.optimizer.iterations))

    def scale_rate(self, value: float) -> None:
        """Multiply all rates, those of the backbones too, by a value from the next update on."""
        self._rate.scale(value)

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
        before = [tf.identity(variable) for variable, _ in self._scaled]
        # Keras' older optimizers have only this name for skip_gradients_aggregation.
        self.optimizer.apply_gradients(
            zip(gradients, self._variables, strict=True), experimental_aggregate_gradients=False
        )
        for (variable, ratio), value in zip(self._scaled, before, strict=True):
            variable.assign(value + ratio * (variable - value))
        self.reset()

    def reset(self) -> None:
        """Drop accumulated gradients, at the start of an epoch: the last may have ended early."""
        if self._sums:
            for total in self._sums:
                total.assign(tf.zeros(total.shape, total.dtype))
            self._steps_summed.assign(0)


def check(config: TrainConfig, steps: int, replicas: int = 1) -> None:
    """Raise UserError if an option of the update is wrong, for this number of steps in an epoch."""
    lookahead = optimizers.name_of(config.optimizer) == "lookahead"
    if lookahead and replicas > 1:
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
    ratios = [_ratio(config, depth) for depth in (0, 1)]  # raises UserError for a wrong rate
    if lookahead and ratios != [1, 1]:
        raise UserError(
            "`backbone_learning_rate`: lookahead moves all weights at once: give 0, or another"
            " `optimizer`"
        )


def _ratio(config: TrainConfig, depth: int) -> float:
    """Return a backbone's rate divided by the head's, this number of blocks from the head."""
    rate, decay = backbone_rate(config.backbone_learning_rate)
    return (rate or config.learning_rate) / config.learning_rate * decay**depth


def backbone_rate(text: str) -> tuple[float, float]:
    """Read the option `backbone_learning_rate`: "1e-4", or "1e-4*0.75" with a decay by block.

    Returns:
        The rate of the last block, 0 for the head's, and its factor for each block before.

    Raises:
        UserError: it is something else, or a number is out of range.
    """
    first, star, second = text.partition("*")
    try:
        rate, decay = float(first), float(second) if star else 1.0
    except ValueError:
        rate = decay = math.nan
    if not (0 <= rate < math.inf and 0 < decay <= 1):
        raise UserError(
            f"`backbone_learning_rate={text}`: give 0 (the same as learning_rate) or more, and"
            " perhaps a decay for each block before the last, above 0 to 1, as in 1e-4*0.75"
        )
    return rate, decay


def _rate(config: TrainConfig, steps: int) -> schedules.Schedule:
    optimizers.check_rate(config.learning_rate)
    return schedules.build(config, math.ceil(steps / config.accumulate_steps))
