"""From logits to probabilities that fit: scaled, shifted, kept from certainty."""

import dataclasses
import math

import tensorflow as tf

from tfpipe.model import classifier

NONE, TEMPERATURE, PLATT = "none", "temperature", "platt"
METHODS = (NONE, TEMPERATURE, PLATT)


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What is done with logits; `tfpipe.runs.calibrate` finds it, every trained model keeps it.

    Attributes:
        method: "none"; "temperature", logits times `scale`, which is 1 / T (Guo et al. 2017, "On
            Calibration of Modern Neural Networks"); or "platt", for two classes, the second's log
            odds times `scale` plus `shift` (Platt 1999, "Probabilistic Outputs for Support Vector
            Machines").
        scale: above 0, so that the order of two images stays.
        shift: in nats.
        low: of two classes, what P(second) is raised to; of more, every probability, after which
            they are divided by their sum.
        high: what they are lowered to likewise.
    """

    method: str = NONE
    scale: float = 1.0
    shift: float = 0.0
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self):
        if self.method not in METHODS:
            raise ValueError(f"method {self.method!r} is none of {', '.join(METHODS)}")
        if not (0 < self.scale < math.inf and math.isfinite(self.shift)):
            raise ValueError(f"scale {self.scale} or shift {self.shift} is out of range")
        if not 0 <= self.low < self.high <= 1:
            raise ValueError(f"bounds {self.low}, {self.high} are not 0 <= low < high <= 1")

    def __str__(self):
        scaling = {
            NONE: NONE,
            TEMPERATURE: f"{TEMPERATURE} {1 / self.scale:.3g}",
            PLATT: f"{PLATT} {self.scale:.3g} z {self.shift:+.3g}",
        }[self.method]
        return f"{scaling}, bounds {self.low:.3g} and {self.high:.6g}"

    @property
    def unclipped(self) -> "Calibration":
        """The same without bounds."""
        return dataclasses.replace(self, low=0.0, high=1.0)

    def apply(self, logits: tf.Tensor, output: str) -> tf.Tensor:
        """Returns the probability of each class, float32 [N, C], rows adding up to 1.

        Args:
            logits: float32 [N, 1] if `output` is "sigmoid", [N, C] if it is "softmax".
            output: of the classifier.

        Raises:
            ValueError: Platt's method for more than two classes.
        """
        if self.method == TEMPERATURE:
            logits = logits * self.scale
        elif self.method == PLATT:
            if output == classifier.SOFTMAX:
                if logits.shape[-1] != 2:
                    raise ValueError(f"platt is for two classes, not {logits.shape[-1]}")
                logits, output = logits[:, 1:] - logits[:, :1], classifier.SIGMOID
            logits = logits * self.scale + self.shift
        return self.clip(classifier.probabilities(logits, output))

    def clip(self, probabilities: tf.Tensor) -> tf.Tensor:
        """Applies the bounds to float32 [N, C]; without any the very same values come back."""
        if (self.low, self.high) == (0.0, 1.0):
            return probabilities
        if probabilities.shape[-1] == 2:
            lowest, highest = [1 - self.high, self.low], [1 - self.low, self.high]
            return tf.clip_by_value(probabilities, lowest, highest)
        raised = tf.clip_by_value(probabilities, self.low, self.high)
        return raised / tf.reduce_sum(raised, -1, keepdims=True)
