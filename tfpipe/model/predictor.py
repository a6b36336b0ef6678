"""What a trained classifier answers: its logits over all views, averaged and calibrated."""

import dataclasses

import tensorflow as tf

from tfpipe.model.calibration import Calibration
from tfpipe.model.classifier import Classifier
from tfpipe.model.views import View


@dataclasses.dataclass(frozen=True)
class Predictor:
    """From images to probabilities, the same for evaluation, prediction and the exported model.

    Attributes:
        classifier: trained, in float32.
        views: from `tfpipe.model.views.parse`; at least one.
        calibration: from mean logits to probabilities.
    """

    classifier: Classifier
    views: tuple[View, ...]
    calibration: Calibration = dataclasses.field(default_factory=Calibration)

    @property
    def image_size(self) -> int:
        """The side of the images in pixels, S."""
        return self.classifier.image_size

    @property
    def output(self) -> str:
        """The classifier's, "sigmoid" or "softmax"."""
        return self.classifier.output

    @property
    def variables(self) -> list[tf.Variable]:
        """All that an export has to hold."""
        return self.classifier.model.variables

    def logits(self, images: tf.Tensor) -> tf.Tensor:
        """Returns the mean of the views' logits, float32 [N, 1 or C], for uint8 [N, S, S, 3]."""
        images = tf.cast(images, tf.float32)
        # One view after the other, as all at once would take so many times the memory.
        found = [self.classifier.model(view(images), training=False) for view in self.views]
        return found[0] if len(found) == 1 else tf.add_n(found) / len(found)

    def features(self, images: tf.Tensor) -> tf.Tensor:
        """Returns what the head sees of the images themselves, float32 [N, F], for [N, S, S, 3]."""
        return tf.cast(self.classifier.features(images, training=False), tf.float32)

    def classify(self, images: tf.Tensor) -> tf.Tensor:
        """Returns the probability of each class, float32 [N, C], for uint8 [N, S, S, 3]."""
        return self.calibration.apply(self.logits(images), self.output)
