"""Predictors: images to calibrated probabilities, by one trained classifier or an ensemble."""

import dataclasses

import tensorflow as tf

from tfpipe.model import fold
from tfpipe.model.calibration import Calibration
from tfpipe.model.classifier import SIGMOID, SIGMOIDS, Classifier, log_probabilities
from tfpipe.model.combination import Combination
from tfpipe.model.views import View


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A trained classifier in float32; the same for evaluation, prediction and export."""

    classifier: Classifier
    views: tuple[View, ...]  # from `tfpipe.model.views.parse`; at least one
    calibration: Calibration = dataclasses.field(default_factory=Calibration)  # of mean logits

    @property
    def image_size(self) -> int:
        """The side of the images in pixels, S."""
        return self.classifier.image_size

    @property
    def output(self) -> str:
        """The classifier's, "sigmoid", "softmax" or "sigmoids"."""
        return self.classifier.output

    @property
    def variables(self) -> list[tf.Variable]:
        """The variables that an export saves."""
        return self.classifier.model.variables

    def folded(self) -> "Predictor":
        """Return a copy for `logits` and `classify`, folded with constant weights; see `fold`."""
        model = fold.folded(self.classifier.model, constant=True)
        return dataclasses.replace(
            self, classifier=dataclasses.replace(self.classifier, model=model)
        )

    def logits(self, images: tf.Tensor) -> tf.Tensor:
        """Return the mean of the views' logits, float32 [N, 1 or C], for uint8 [N, S, S, 3]."""
        images = tf.cast(images, tf.float32)
        # One view at a time: memory does not grow with the number of views.
        found = [self.classifier.model(view(images), training=False) for view in self.views]
        return found[0] if len(found) == 1 else tf.add_n(found) / len(found)

    def features(self, images: tf.Tensor) -> tf.Tensor:
        """Return the head's input for the images, without views: float32 [N, F]."""
        return tf.cast(self.classifier.features(images, training=False), tf.float32)

    def classify(self, images: tf.Tensor) -> tf.Tensor:
        """Return the probability of each class, float32 [N, C], for uint8 [N, S, S, 3]."""
        return self.calibration.apply(self.logits(images), self.output)


@dataclasses.dataclass(frozen=True)
class EnsemblePredictor:
    """Several predictors with the interface of one.

    Images have the largest side of the members. Other members shrink them on the device, as the
    backbones of a classifier do. This differs slightly from decoding an image to their own side.
    """

    members: tuple["Predictor | EnsemblePredictor", ...]  # their calibrations are not used
    combination: Combination
    output: (
        str  # "sigmoid" for two classes, else "softmax"; members may have it for two. "sigmoids"
    )
    # if all members have it
    calibration: Calibration = dataclasses.field(default_factory=Calibration)  # after combining

    @property
    def image_size(self) -> int:
        """The side of the images in pixels, S."""
        return max(member.image_size for member in self.members)

    @property
    def variables(self) -> list[tf.Variable]:
        """The variables that an export saves."""
        return [variable for member in self.members for variable in member.variables]

    def folded(self) -> "EnsemblePredictor":
        """Return a copy with folded members."""
        return dataclasses.replace(self, members=tuple(each.folded() for each in self.members))

    def logits(self, images: tf.Tensor) -> tf.Tensor:
        """Return the combined logits for uint8 or float32 [N, S, S, 3] in 0..255.

        They are log-odds, float32 [N, 1], of a sigmoid, and log-probabilities [N, C] of a softmax.
        Of several sigmoids they are the mean log-odds, a log-opinion pool of each class.
        """
        if self.output == SIGMOIDS:
            odds = [each.logits(resized(images, each.image_size)) for each in self.members]
            return tf.add_n(odds) / len(odds)
        found = [
            log_probabilities(member.logits(resized(images, member.image_size)))
            for member in self.members
        ]
        combined = self.combination.combine(tf.stack(found))
        return combined[:, 1:] - combined[:, :1] if self.output == SIGMOID else combined

    def features(self, images: tf.Tensor) -> tf.Tensor:
        """Return the members' features, one after the other, float32 [N, F], for [N, S, S, 3]."""
        found = [each.features(resized(images, each.image_size)) for each in self.members]
        return tf.concat(found, -1)

    def classify(self, images: tf.Tensor) -> tf.Tensor:
        """Return the probability of each class, float32 [N, C], for uint8 [N, S, S, 3]."""
        return self.calibration.apply(self.logits(images), self.output)


def resized(images: tf.Tensor, side: int) -> tf.Tensor:
    """Return images [N, S, S, 3] as [N, side, side, 3], resized if need be."""
    return images if images.shape[1] == side else tf.image.resize(images, [side, side])
