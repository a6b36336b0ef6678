"""Losses of the training. Validation always measures the plain cross-entropy.

A loss has a term for each class of an image, from the log-probability of the class. The loss of the
image is the sum over the classes of label share x class weight x term, so that every loss takes
mixed and smoothed labels. Where an image may have several classes, each is a question of its own:
the loss is the mean over the classes of such a sum, over presence and absence. To add one, register
a function from log-probabilities to terms.
"""

import dataclasses
import math
from collections.abc import Callable

import tensorflow as tf

from tfpipe.core.errors import UserError
from tfpipe.core.registry import Registry
from tfpipe.model.classifier import SIGMOIDS, Classifier, log_probabilities
from tfpipe.training.train_config import TrainConfig

MAX_SMOOTHING = 0.5
NO_WEIGHTS, BALANCED = "none", "balanced"

# From log-probabilities float32 [N, C] and the focal gamma to terms of the same shape, at least 0.
losses: Registry[Callable[[tf.Tensor, float], tf.Tensor]] = Registry("loss")


@losses.register("crossentropy")
def _crossentropy(log_p: tf.Tensor, gamma: float) -> tf.Tensor:
    """-log p."""
    return -log_p


@losses.register("focal")
def _focal(log_p: tf.Tensor, gamma: float) -> tf.Tensor:
    """-(1 - p)^gamma log p (Lin et al. 2017, arXiv:1708.02002, equation 4)."""
    # At 0 the slope of the power is infinite for a gamma below 1.
    miss = tf.maximum(-tf.math.expm1(log_p), 1e-7)
    return -(miss**gamma) * log_p


@dataclasses.dataclass(frozen=True)
class Loss:
    """The loss of one run."""

    name: str  # in the registry
    smoothing: float  # share of each label spread evenly over all classes, 0 to 0.5
    gamma: float  # of the focal loss, at least 0
    weights: tuple[float, ...] | None  # of each class; None for 1

    def __call__(self, classifier: Classifier, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """Return the loss of each image, float32 [N], at least 0.

        Args:
            classifier: that gave the logits.
            labels: float32 [N, C], share of each class.
            logits: float32 [N, 1] for a sigmoid, [N, C] for a softmax or several sigmoids.
        """
        if classifier.output == SIGMOIDS:
            return self._of_sigmoids(classifier, labels, logits)
        if self.smoothing:
            labels = labels * (1 - self.smoothing) + self.smoothing / labels.shape[-1]
        if self.name == "crossentropy" and self.weights is None:
            return classifier.losses(labels, logits)  # one fused operation
        terms = losses[self.name](log_probabilities(logits), self.gamma)
        if self.weights is not None:
            terms *= tf.constant(self.weights)
        return tf.reduce_sum(labels * terms, axis=-1)

    def _of_sigmoids(
        self, classifier: Classifier, labels: tf.Tensor, logits: tf.Tensor
    ) -> tf.Tensor:
        """Return the mean over the classes of each one's binary loss, float32 [N]."""
        if self.smoothing:
            labels = labels * (1 - self.smoothing) + self.smoothing / 2
        if self.name == "crossentropy" and self.weights is None:
            return classifier.losses(labels, logits)  # one fused operation
        present, absent = (
            losses[self.name](tf.math.log_sigmoid(each), self.gamma) for each in (logits, -logits)
        )
        terms = labels * present + (1 - labels) * absent
        if self.weights is not None:
            terms *= tf.constant(self.weights)
        return tf.reduce_mean(terms, axis=-1)


def build(config: TrainConfig, shares: dict[str, float], *, many: bool = False) -> Loss:
    """Build the loss of the options; raise UserError if one of them is wrong.

    `shares` has each class's share of the training records, in the order of the labels; `many` is
    whether an image may have several classes.
    """
    losses[config.loss]  # raises for an unknown name
    if not 0 <= config.label_smoothing <= MAX_SMOOTHING:
        raise UserError(
            f"`label_smoothing={config.label_smoothing:g}`: give 0 to {MAX_SMOOTHING:g}"
        )
    if not 0 <= config.focal_gamma < math.inf:
        raise UserError(f"`focal_gamma={config.focal_gamma:g}`: give 0 or more")
    if config.class_weights == BALANCED and many:
        raise UserError(
            f"`class_weights={BALANCED}` is for images of exactly one class, and these may have"
            " several: give NAME=W,NAME=W, the weights of the classes in the mean of their losses"
        )
    weights = class_weights(config.class_weights, shares)
    return Loss(config.loss, config.label_smoothing, config.focal_gamma, weights)


def class_weights(text: str, shares: dict[str, float]) -> tuple[float, ...] | None:
    """Return the weight of each class that the option `class_weights` names; None for 1.

    `shares` are as for `build`. Raises UserError if the option is wrong.
    """
    if text == NO_WEIGHTS:
        return None
    if text == BALANCED:
        missing = [name for name, share in shares.items() if not share]
        if missing:
            raise UserError(
                f"`class_weights=balanced`: no training record is of class {missing[0]}: give the"
                " weights as NAME=W,NAME=W"
            )
        # As scikit-learn's compute_class_weight: the mean weight of the records is 1.
        return tuple(1 / (len(shares) * share) for share in shares.values())
    weights = {}
    for part in text.split(","):
        name, _, value = part.strip().rpartition("=")
        if name not in shares or name in weights:
            raise UserError(
                f"`class_weights={text}`: {part!r} is not NAME=W with each class once: the"
                f" classes are {', '.join(shares)}; or give {NO_WEIGHTS} or {BALANCED}"
            )
        weights[name] = _weight(text, value)
    return tuple(weights.get(name, 1.0) for name in shares)


def _weight(text: str, value: str) -> float:
    try:
        weight = float(value)
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf:
        raise UserError(f"`class_weights={text}`: {value!r} is not a number above 0")
    return weight
