"""Calibration: logits to probabilities, scaled, shifted and clipped."""

import dataclasses
import math
from typing import Any

import tensorflow as tf

from tfpipe.model import classifier

NONE, TEMPERATURE, PLATT = "none", "temperature", "platt"
METHODS = (NONE, TEMPERATURE, PLATT)

# The names of fields in JSON files, where they differ.
_JSON_NAMES = {"clip_min": "low", "clip_max": "high"}


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A fitted calibration; every trained run has one. `tfpipe.runs.calibration_fit` fits it.

    Attributes:
        method: "none"; "temperature", logits times `scale`, which is 1 / T (Guo et al. 2017, "On
            Calibration of Modern Neural Networks"); or "platt", for two classes, the second's log
            odds times `scale` plus `shift` (Platt 1999, "Probabilistic Outputs for Support Vector
            Machines").
        scale: above 0, so the order of images stays.
        shift: in nats.
        clip_min: the least P(second) of two classes. Of more, the least probability of each class,
            before they are divided by their sum. Of several sigmoids, that of each class.
        clip_max: the greatest, likewise.
    """

    method: str = NONE
    scale: float = 1.0
    shift: float = 0.0
    clip_min: float = 0.0
    clip_max: float = 1.0

    def __post_init__(self):
        if self.method not in METHODS:
            raise ValueError(f"method {self.method!r} is none of {', '.join(METHODS)}")
        if not (0 < self.scale < math.inf and math.isfinite(self.shift)):
            raise ValueError(f"scale {self.scale} or shift {self.shift} is out of range")
        if not 0 <= self.clip_min < self.clip_max <= 1:
            raise ValueError(
                f"bounds {self.clip_min}, {self.clip_max} are not 0 <= low < high <= 1"
            )

    def __str__(self):
        scaling = {
            NONE: NONE,
            TEMPERATURE: f"{TEMPERATURE} {1 / self.scale:.3g}",
            PLATT: f"{PLATT} {self.scale:.3g} z {self.shift:+.3g}",
        }[self.method]
        if self == self.unclipped:
            return scaling
        return f"{scaling}, probabilities kept within {self.clip_min:.3g} to {self.clip_max:.6g}"

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain JSON types, as all files have them."""
        return {_JSON_NAMES.get(k, k): value for k, value in dataclasses.asdict(self).items()}

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> "Calibration":
        """Return what `to_json` wrote; raises KeyError, TypeError or ValueError if damaged."""
        names = {_JSON_NAMES.get(f.name, f.name): f.name for f in dataclasses.fields(cls)}
        return cls(**{names[key]: value for key, value in dict(saved).items()})

    @property
    def unclipped(self) -> "Calibration":
        """The same without bounds."""
        return dataclasses.replace(self, clip_min=0.0, clip_max=1.0)

    def apply(self, logits: tf.Tensor, output: str) -> tf.Tensor:
        """Return the probability of each class, float32 [N, C].

        Each row adds up to 1, but not of "sigmoids". `logits` are float32 [N, 1] if the
        classifier's `output` is "sigmoid", else [N, C]. Raises ValueError for Platt's method and
        more than two classes.
        """
        if self.method == TEMPERATURE:
            logits = logits * self.scale
        elif self.method == PLATT:
            if output == classifier.SOFTMAX:
                if logits.shape[-1] != 2:
                    raise ValueError(f"platt is for two classes, not {logits.shape[-1]}")
                logits, output = logits[:, 1:] - logits[:, :1], classifier.SIGMOID
            logits = logits * self.scale + self.shift
        many = output == classifier.SIGMOIDS
        return self.clip(classifier.probabilities(logits, output), many=many)

    def clip(self, probabilities: tf.Tensor, *, many: bool = False) -> tf.Tensor:
        """Clip float32 [N, C] to the bounds; without bounds, return the argument itself.

        `many` is whether an image may have several classes, so that each is clipped alone.
        """
        if (self.clip_min, self.clip_max) == (0.0, 1.0):
            return probabilities
        if many:
            return tf.clip_by_value(probabilities, self.clip_min, self.clip_max)
        if probabilities.shape[-1] == 2:
            lowest = [1 - self.clip_max, self.clip_min]
            highest = [1 - self.clip_min, self.clip_max]
            return tf.clip_by_value(probabilities, lowest, highest)
        clipped = tf.clip_by_value(probabilities, self.clip_min, self.clip_max)
        return clipped / tf.reduce_sum(clipped, -1, keepdims=True)
