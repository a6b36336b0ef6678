"""Metrics of images that may have several classes, or none: a registry like `metrics`.

Each class is a question of its own, answered by a probability, and by the class's threshold with
yes or no. Macro metrics are the mean over the classes that have images; micro metrics count all
answers together.
"""

import functools
from collections.abc import Callable

import numpy as np

from tfpipe.core.registry import Registry
from tfpipe.evaluation import metrics as single
from tfpipe.evaluation import proportions, threshold
from tfpipe.evaluation.metrics import (
    LabeledPredictions,
    Metric,
    Statistic,
    losses,
    mean_of,
    register,
)
from tfpipe.records import label_set

set_metrics: Registry[Metric] = Registry("metric of images with several classes")


class SetPredictions:
    """Predicted probabilities and the right classes of images that may have several.

    Attributes:
        probabilities: float64 [n, C].
        labels: int64 [n, C], 1 for each class of an image.
        thresholds: float64 [C], the least probability of a class to be answered.
        guess: bool [n, C], the answered classes.
        right: bool [n], whether all classes of an image are answered, and no others.
    """

    labels_kind = label_set.MANY
    metrics = set_metrics

    def __init__(
        self, probabilities: np.ndarray, labels: np.ndarray, thresholds: np.ndarray | None = None
    ):
        self.probabilities = np.asarray(probabilities, np.float64)
        self.labels = np.asarray(labels, np.int64)
        classes = self.probabilities.shape[1]
        given = threshold.UNKNOWN if thresholds is None else np.asarray(thresholds, np.float64)
        self.thresholds = np.broadcast_to(given, classes)
        self.guess = self.probabilities >= self.thresholds
        self.right = (self.guess == self.labels).all(axis=1)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, chosen: np.ndarray) -> "SetPredictions":
        """Return some images, by indices or a mask."""
        return SetPredictions(self.probabilities[chosen], self.labels[chosen], self.thresholds)

    @property
    def classes(self) -> int:
        """The number of classes, C."""
        return self.probabilities.shape[1]

    @property
    def support(self) -> np.ndarray:
        """The number of images of each class, int64 [C]."""
        return self.labels.sum(axis=0)

    @property
    def ranked_classes(self) -> range:
        """The classes whose rankings count: all of them."""
        return range(self.classes)

    def positives(self, number: int) -> np.ndarray:
        """Return whether each image has a class, bool [n]."""
        return self.labels[:, number] == 1

    @functools.cached_property
    def counts(self) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """A function from weights [R, n] to three counts [C, R] for each class.

        They count its images, the images answered with it, and those of them that have it.
        """
        found = self.guess & (self.labels == 1)
        tables = [np.asarray(each, np.float64).T for each in (self.labels, self.guess, found)]
        return lambda weights: tuple(table @ weights.T for table in tables)


def labeled(
    probabilities: np.ndarray, labels: np.ndarray, thresholds: np.ndarray | None = None
) -> LabeledPredictions | SetPredictions:
    """Return predictions [n, C] with labels: int [n], or [n, C] of images with several classes."""
    if np.ndim(labels) == 2:
        return SetPredictions(probabilities, labels, thresholds)
    return LabeledPredictions(probabilities, labels)


def registry(labels: str) -> Registry[Metric]:
    """Return the metrics of images with "one" class, or with "many"."""
    return set_metrics if labels == label_set.MANY else single.metrics


def accuracy_of(labels: str) -> str:
    """Return the name of the share of right images among the metrics of `registry`."""
    return "subset_accuracy" if labels == label_set.MANY else "accuracy"


set_metric = functools.partial(register, set_metrics)


@set_metric("log_loss", "log loss, mean of the classes", higher_is_better=False)
def _log_loss(predictions: SetPredictions) -> Statistic:
    """The mean binary cross-entropy over images and classes, in nats."""
    return mean_of(losses(predictions.probabilities, predictions.labels))


@set_metric(
    "subset_accuracy",
    "all classes right",
    higher_is_better=True,
    interval=lambda each: proportions.wilson(each.right.sum(), len(each)),
    difference=lambda one, two: proportions.paired_difference(one.right, two.right),
)
def _subset_accuracy(predictions: SetPredictions) -> Statistic:
    """The share of images with exactly the right classes."""
    return mean_of(predictions.right.astype(np.float64))


@set_metric("hamming_loss", "Hamming loss", higher_is_better=False)
def _hamming_loss(predictions: SetPredictions) -> Statistic:
    """The share of wrong answers among those of all images and classes."""
    return mean_of((predictions.guess != predictions.labels).mean(axis=1))


@set_metric("f1_micro", "F1, micro", higher_is_better=True, needs="a class, right or answered")
def _f1_micro(predictions: SetPredictions) -> Statistic:
    """The F1 score of the answers of all classes together."""

    def statistic(weights: np.ndarray) -> np.ndarray:
        of_class, taken, right = (each.sum(axis=0) for each in predictions.counts(weights))
        return 2 * right / (of_class + taken)

    return statistic


@set_metric("brier", "Brier score", higher_is_better=False)
def _brier(predictions: SetPredictions) -> Statistic:
    """The mean squared error of the probabilities over images and classes, in 0..1."""
    return mean_of(((predictions.probabilities - predictions.labels) ** 2).mean(axis=1))


# Their statistics count by class, or rank by class, whatever the labels are.
for _name, _title, _of in (
    ("f1_macro", "F1, macro", "f1_macro"),
    ("roc_auc", "ROC AUC, macro", "roc_auc"),
    ("mean_average_precision", "mean average precision", "average_precision"),
):
    _needs = "images with and without a class"
    set_metric(_name, _title, higher_is_better=True, needs=_needs, by_class=True)(
        single.metrics[_of].of
    )
