"""Predictors: images to calibrated probabilities, by one trained classifier or an ensemble."""

import dataclasses
from typing import ClassVar

import tensorflow as tf

from tfpipe.model import fold
from tfpipe.model.calibration import Calibration
from tfpipe.model.classifier import SIGMOID, SIGMOIDS, Classifier, log_probabilities
from tfpipe.model.combination import Combination
from tfpipe.model.familiarity import Familiarity
from tfpipe.model.views import View


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A trained classifier in float32; the same for evaluation, prediction and export."""

    classifier: Classifier
    views: tuple[View, ...]  # from `tfpipe.model.views.parse`; at least one
    calibration: Calibration = dataclasses.field(default_factory=Calibration)  # of mean logits
    familiarity: Familiarity | None = None  # of the features without views

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
        """Return a copy for `outputs` and `classify`, folded with constant weights; see `fold`."""
        model = fold.folded(self.classifier.model, constant=True)
        return dataclasses.replace(
            self, classifier=dataclasses.replace(self.classifier, model=model)
        )

    def logits(self, images: tf.Tensor) -> tf.Tensor:
        """Return the mean of the views' logits, float32 [N, 1 or C], for uint8 [N, S, S, 3]."""
        return self.outputs(images)["logits"]

    def outputs(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return "logits", as `logits` does, and perhaps "unfamiliar", float32 [N].

        The second is there with a `familiarity`; it takes no other pass through the backbones.
        """
        images = tf.cast(images, tf.float32)
        found, more = [], {}
        # One view at a time: memory does not grow with the number of views.
        for view in self.views:
            if found or self.familiarity is None:
                found.append(self.classifier.model(view(images), training=False))
                continue
            # The parts of the model, also of a folded one. The first view is the image itself.
            parts = self.classifier.model.get_layer
            features = parts("features")(view(images), training=False)
            found.append(parts("head")(features, training=False))
            more["unfamiliar"] = self.familiarity.unfamiliar(tf.cast(features, tf.float32))
        return {"logits": found[0] if len(found) == 1 else tf.add_n(found) / len(found)} | more

    def features(self, images: tf.Tensor) -> tf.Tensor:
        """Return the head's input for the images, without views: float32 [N, F]."""
        return tf.cast(self.classifier.features(images, training=False), tf.float32)

    def classify(self, images: tf.Tensor) -> tf.Tensor:
        """Return the probability of each class, float32 [N, C], for uint8 [N, S, S, 3]."""
        return self.calibration.apply(self.logits(images), self.output)

    def answers(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return "probabilities", as `classify` does, and perhaps "unfamiliar"; see `outputs`."""
        found = self.outputs(images)
        return {"probabilities": self.calibration.apply(found.pop("logits"), self.output)} | found


@dataclasses.dataclass(frozen=True)
class EnsemblePredictor:
    """Several predictors with the interface of one, but without a familiarity.

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
    familiarity: ClassVar[None] = None

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

    def outputs(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return "logits", as `logits` does."""
        return {"logits": self.logits(images)}

    def classify(self, images: tf.Tensor) -> tf.Tensor:
        """Return the probability of each class, float32 [N, C], for uint8 [N, S, S, 3]."""
        return self.calibration.apply(self.logits(images), self.output)

    def answers(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return "probabilities", as `classify` does."""
        return {"probabilities": self.classify(images)}


def resized(images: tf.Tensor, side: int) -> tf.Tensor:
    """Return images [N, S, S, 3] as [N, side, side, 3], resized if need be."""
    return images if images.shape[1] == side else tf.image.resize(images, [side, side])
