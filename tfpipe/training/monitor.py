"""The measure that chooses the best epoch, ends a stage and lowers its rate: `--monitor`."""

import dataclasses
import math

import numpy as np

from tfpipe.core.errors import UserError
from tfpipe.core.registry import Registry
from tfpipe.evaluation import label_sets
from tfpipe.evaluation.metrics import Metric, metrics, names
from tfpipe.records.label_encoding import LabelEncoding
from tfpipe.training.train_config import TrainConfig

VAL_LOSS = "val_loss"


@dataclasses.dataclass(frozen=True)
class Monitor:
    """A measure of the validation images, before calibration."""

    name: str  # VAL_LOSS, or a name in the registry of metrics
    min_delta: float  # a smaller gain does not count for patience, at least 0
    registry: Registry[Metric] = metrics  # of the metrics of such images

    @property
    def needs_predictions(self) -> bool:
        """Whether it is more than the mean loss."""
        return self.name != VAL_LOSS

    def of(self, loss: float, probabilities: np.ndarray | None, labels: np.ndarray | None) -> float:
        """Return the measure.

        Args:
            loss: mean cross-entropy in nats.
            probabilities: float32 [n, C] of the validation images; needed for a metric.
            labels: int64 [n], or [n, C] where images may have several classes.

        Raises:
            UserError: the metric is undefined for these images.
        """
        if not self.needs_predictions:
            return loss
        metric = self.registry[self.name]
        if not np.isfinite(probabilities).all():
            return math.nan
        value = metric.value(label_sets.labeled(probabilities, labels))
        if math.isnan(value):
            raise UserError(
                f"`monitor={self.name}` is undefined for the validation images: it needs"
                f" {metric.needs}; give `monitor={VAL_LOSS}`"
            )
        return value

    def cost(self, value: float) -> float:
        """Return a value of the measure so that lower is better, or the value of such a cost."""
        lower = self.name == VAL_LOSS or not self.registry[self.name].higher_is_better
        return value if lower else -value


def build(config: TrainConfig, encoding: LabelEncoding | None = None) -> Monitor:
    """Build the monitor of the options, for the labels of the records if they are known.

    Raises UserError if an option is wrong.
    """
    registry = label_sets.set_metrics if encoding and encoding.many else metrics
    known = names(encoding and encoding.classes, registry)
    if config.monitor not in (VAL_LOSS, *known):
        raise UserError(
            f"`monitor={config.monitor}` is no measure of the validation images: give {VAL_LOSS},"
            f" or one of {', '.join(known)}"
        )
    if not 0 <= config.min_delta < math.inf:
        raise UserError(f"`min_delta={config.min_delta:g}`: give 0 or more")
    return Monitor(config.monitor, config.min_delta, registry)
