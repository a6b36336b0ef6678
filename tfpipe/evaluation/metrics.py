"""Metrics: numbers that tell how good predicted probabilities are, and their registry.

A metric is a function from predictions to a `Statistic`: from weights [R, n] to the metric of R
samples, of which sample r holds image i weights[r, i] times. So the bootstrap computes all its
samples at once, and weights of 1 give the metric of the images themselves.

For two classes a metric of one class is that of the second class. For more it is the mean over the
classes, each against the rest, where it is defined ("macro").
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.sparse  # scipy's other parts load when they are first used

from tfpipe.core.registry import Registry
from tfpipe.evaluation import diagrams, proportions
from tfpipe.evaluation.proportions import Interval
from tfpipe.records import label_set

# Probabilities are float32, which cannot tell values closer to 0 or 1 than this apart.
EPSILON = 1e-7

BINS = 10  # of the calibration error, as of `diagrams.reliability`

# From weights float64 [R, n] to values float64 [R], NaN where a measure is undefined.
Statistic = Callable[[np.ndarray], np.ndarray]


class LabeledPredictions:
    """Predicted probabilities and the right classes.

    Attributes:
        probabilities: float64 [n, C].
        labels: int64 [n].
        guess: int64 [n], the most probable classes.
        right: bool [n], whether they are right.
    """

    labels_kind = label_set.ONE

    def __init__(self, probabilities: np.ndarray, labels: np.ndarray):
        self.probabilities = np.asarray(probabilities, np.float64)
        self.labels = np.asarray(labels, np.int64)
        self.guess = self.probabilities.argmax(axis=1)
        self.right = self.guess == self.labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, chosen: np.ndarray) -> "LabeledPredictions":
        """Return some images, by indices or a mask."""
        return LabeledPredictions(self.probabilities[chosen], self.labels[chosen])

    @property
    def classes(self) -> int:
        """The number of classes, C."""
        return self.probabilities.shape[1]

    @property
    def metrics(self) -> "Registry[Metric]":
        """The metrics of such predictions."""
        return metrics

    @property
    def ranked_classes(self) -> Sequence[int]:
        """The classes whose rankings count: of two the second, which has the first's too."""
        return [1] if self.classes == 2 else range(self.classes)

    def positives(self, number: int) -> np.ndarray:
        """Return whether each image is of a class, bool [n]."""
        return self.labels == number

    @property
    def support(self) -> np.ndarray:
        """The number of images of each class, int64 [C]."""
        return np.bincount(self.labels, minlength=self.classes)

    @functools.cached_property
    def counts(self) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """A function from weights [R, n] to three counts [C, R] for each class.

        They count its images, the images taken for it, and those of them that are its own.
        """
        whole = np.ones(len(self), bool)
        tables = [
            scipy.sparse.csr_matrix(
                (np.ones(int(rows.sum())), (classes[rows], np.flatnonzero(rows))),
                shape=(self.classes, len(self)),
            )
            for classes, rows in (
                (self.labels, whole),
                (self.guess, whole),
                (self.labels, self.right),
            )
        ]
        return lambda weights: tuple(table @ weights.T for table in tables)


@dataclasses.dataclass(frozen=True)
class Metric:
    """One entry of the registry.

    Attributes:
        title: in tables.
        of: from predictions to the statistic.
        higher_is_better: or lower.
        needs: what it is undefined without, as in "images of two classes".
        by_class: whether a class with a single image can decide its value.
        least_classes: with fewer it says nothing, and is left out.
        interval: its 95 % interval by a formula; None leaves it to the bootstrap.
        correct: from the predictions, the value and the bootstrap's percentiles to its interval,
            where these are biased.
        difference: the same of the difference of two models, and the p-value.
    """

    title: str
    of: Callable[[LabeledPredictions], Statistic]
    higher_is_better: bool
    needs: str = "an image"
    by_class: bool = False
    least_classes: int = 2
    interval: Callable[[LabeledPredictions], Interval | None] | None = None
    correct: Callable[[LabeledPredictions, float, Interval], Interval] | None = None
    difference: (
        Callable[[LabeledPredictions, LabeledPredictions], tuple[Interval, float]] | None
    ) = None

    def value(self, predictions: LabeledPredictions) -> float:
        """Return the metric of predictions, NaN if it is undefined."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return float(self.of(predictions)(np.ones((1, len(predictions))))[0])


metrics: Registry[Metric] = Registry("metric")


def names(classes: int | None = None, registry: Registry[Metric] = metrics) -> list[str]:
    """Return the metrics' names in the order of tables: the log loss first, then accuracy.

    `classes` leaves out those that say nothing of so few classes.
    """
    accuracies = ("accuracy", "subset_accuracy")
    ordered = sorted(registry, key=lambda name: (name != "log_loss", name not in accuracies, name))
    return [each for each in ordered if classes is None or registry[each].least_classes <= classes]


def register(
    registry: Registry[Metric], name: str, title: str, *, higher_is_better: bool, **more: Any
) -> Callable:
    """Return a decorator that registers a function as `Metric.of`; `more` are fields of Metric."""

    def enter(function: Callable[[LabeledPredictions], Statistic]) -> Callable:
        registry.add(name, Metric(title, function, higher_is_better, **more))
        return function

    return enter


metric = functools.partial(register, metrics)


def values_of(predictions: LabeledPredictions) -> tuple[dict[str, float | None], dict[str, str]]:
    """Return every metric by name, None if undefined, and the reason for each None by name."""
    values, reasons = {}, {}
    known = predictions.metrics
    for name in names(predictions.classes, known):
        value = known[name].value(predictions)
        values[name] = None if np.isnan(value) else value
        if values[name] is None:
            reasons[name] = f"needs {known[name].needs if len(predictions) else 'an image'}"
    return values, reasons


def mean_of(values: np.ndarray) -> Statistic:
    """Return the statistic that is the mean of values [n]."""
    return lambda weights: weights @ values / weights.sum(axis=1)


@metric("log_loss", "log loss", higher_is_better=False)
def _log_loss(predictions: LabeledPredictions) -> Statistic:
    """The mean of `losses`, in nats."""
    return mean_of(losses(predictions.probabilities, predictions.labels))


@metric(
    "accuracy",
    "accuracy",
    higher_is_better=True,
    interval=lambda each: proportions.wilson(each.right.sum(), len(each)),
    difference=lambda one, two: proportions.paired_difference(one.right, two.right),
)
def _accuracy(predictions: LabeledPredictions) -> Statistic:
    """The share of images whose most probable class is right."""
    return mean_of(predictions.right.astype(np.float64))


def _in_top(predictions: LabeledPredictions, k: int) -> np.ndarray:
    """Return whether the right class is among the k most probable ones, bool [n].

    Of equal probabilities the first class comes first, as in `LabeledPredictions.guess`.
    """
    order = np.argsort(-predictions.probabilities, axis=1, kind="stable")[:, :k]
    return (order == predictions.labels[:, np.newaxis]).any(axis=1)


def _top_k(k: int) -> None:
    @metric(
        f"top_{k}_accuracy",
        f"top-{k} accuracy",
        higher_is_better=True,
        least_classes=k + 1,
        interval=lambda each: proportions.wilson(_in_top(each, k).sum(), len(each)),
        difference=lambda one, two: proportions.paired_difference(_in_top(one, k), _in_top(two, k)),
    )
    def accuracy(predictions: LabeledPredictions) -> Statistic:
        """The share of images whose right class is among the k most probable ones."""
        return mean_of(_in_top(predictions, k).astype(np.float64))


_top_k(3)
_top_k(5)


@metric(
    "cohen_kappa",
    "Cohen's kappa",
    higher_is_better=True,
    needs="images or answers of two classes",
)
def _cohen_kappa(predictions: LabeledPredictions) -> Statistic:
    """The accuracy above that of chance, as a share of the most that is possible (Cohen 1960).

    Chance answers each class as often as the model does. 1 is perfect, 0 no better than chance.
    """

    def statistic(weights: np.ndarray) -> np.ndarray:
        of_class, taken, right = predictions.counts(weights)
        whole = weights.sum(axis=1)
        chance = (of_class * taken).sum(axis=0) / whole**2
        possible = np.where(np.isclose(chance, 1, rtol=0, atol=1e-12), np.nan, 1 - chance)
        return (right.sum(axis=0) / whole - chance) / possible

    return statistic


@metric(
    "balanced_accuracy",
    "balanced accuracy",
    higher_is_better=True,
    by_class=True,
    interval=lambda each: proportions.mean(
        np.bincount(each.labels[each.right], minlength=each.classes), each.support
    ),
)
def _balanced_accuracy(predictions: LabeledPredictions) -> Statistic:
    """The mean recall of the classes that have images."""

    def statistic(weights: np.ndarray) -> np.ndarray:
        of_class, _, right = predictions.counts(weights)
        return _mean_over_classes(right / of_class)

    return statistic


@metric("f1_macro", "F1, macro", higher_is_better=True, by_class=True)
def _f1_macro(predictions: LabeledPredictions) -> Statistic:
    """The mean F1 score, of precision and recall, of the classes that have images."""

    def statistic(weights: np.ndarray) -> np.ndarray:
        of_class, taken, right = predictions.counts(weights)
        return _mean_over_classes(np.where(of_class > 0, 2 * right / (of_class + taken), np.nan))

    return statistic


@metric("brier", "Brier score", higher_is_better=False)
def _brier(predictions: LabeledPredictions) -> Statistic:
    """The mean squared error of the probabilities (Brier 1950).

    For two classes of P(second class), in 0..1; for more the sum over the classes, in 0..2.
    """
    errors = predictions.probabilities - np.eye(predictions.classes)[predictions.labels]
    squares = errors**2
    return mean_of(squares[:, 1] if predictions.classes == 2 else squares.sum(axis=1))


def _unbiased(predictions: LabeledPredictions, value: float, percentiles: Interval) -> Interval:
    """Return the interval of the calibration error, whose value and samples are both too high.

    The percentiles are reflected at the value (basic bootstrap, Davison and Hinkley 1997, 5.2). The
    interval begins at 0 if the probabilities may be calibrated, by the test of Hosmer and Lemeshow
    (1980) on the same bars.
    """
    scores, right = diagrams.scored(predictions.probabilities, predictions.labels)
    place = diagrams.bin_of(scores, BINS)
    errors = np.bincount(place, right - scores, BINS)
    variances = np.bincount(place, scores * (1 - scores), BINS)
    known = variances > 0
    statistic = (errors[known] ** 2 / variances[known]).sum()
    is_calibrated = scipy.stats.chi2.sf(statistic, known.sum()) > 0.05
    low, high = percentiles
    return 0.0 if is_calibrated else max(0.0, 2 * value - high), max(0.0, 2 * value - low)


@metric("calibration_error", "calibration error", higher_is_better=False, correct=_unbiased)
def _calibration_error(predictions: LabeledPredictions) -> Statistic:
    """The expected calibration error (Naeini et al. 2015; Guo et al. 2017), in 0..1.

    The mean distance of score and accuracy in the bars of `diagrams.reliability`, weighted by the
    number of images. With few images it is above 0 even for perfect probabilities.
    """
    scores, right = diagrams.scored(predictions.probabilities, predictions.labels)
    table = np.zeros((len(predictions), BINS))
    table[np.arange(len(predictions)), diagrams.bin_of(scores, BINS)] = scores - right
    return lambda weights: np.abs(weights @ table).sum(axis=1) / weights.sum(axis=1)


@metric("roc_auc", "ROC AUC", higher_is_better=True, needs="images of two classes", by_class=True)
def _roc_auc(predictions: LabeledPredictions) -> Statistic:
    """The probability that an image of a class has a higher score for it than another image.

    Equal scores count half (Hanley and McNeil 1982).
    """
    return _against_the_rest(predictions, _area)


@metric(
    "average_precision",
    "average precision",
    higher_is_better=True,
    needs="images of the positive class, of two the second",
    by_class=True,
)
def _average_precision(predictions: LabeledPredictions) -> Statistic:
    """The mean of the precisions at the scores of a class's images.

    Without interpolation, as scikit-learn's `average_precision_score`.
    """
    return _against_the_rest(predictions, _mean_precision)


def _area(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    below = np.cumsum(negative, axis=1) - negative / 2
    return (positive * below).sum(axis=1) / positive.sum(axis=1) / negative.sum(axis=1)


def _mean_precision(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    right = np.cumsum(positive[:, ::-1], axis=1)
    taken = right + np.cumsum(negative[:, ::-1], axis=1)
    precision = np.divide(right, taken, out=np.zeros_like(right), where=taken > 0)
    return (positive[:, ::-1] * precision).sum(axis=1) / positive.sum(axis=1)


def by_class_of(name: str, predictions: LabeledPredictions) -> np.ndarray:
    """Return "roc_auc" or "average_precision" of each class against the rest, float64 [C]."""
    function = {"roc_auc": _area, "average_precision": _mean_precision}[name]
    weights = np.ones((1, len(predictions)))
    with np.errstate(invalid="ignore", divide="ignore"):
        found = [function(*counts(weights))[0] for counts in _rankings(predictions)]
    return np.array(found)


def _rankings(
    predictions: LabeledPredictions,
) -> list[Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]]:
    return [
        _ranked(predictions.probabilities[:, c], predictions.positives(c))
        for c in predictions.ranked_classes
    ]


def _against_the_rest(
    predictions: LabeledPredictions, function: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> Statistic:
    """Return the statistic that is the mean over the classes of a ranking metric.

    Args:
        predictions: the predictions.
        function: from the numbers of positives and negatives with each score, [R, scores] from low
            to high, to values [R].
    """
    ranked = _rankings(predictions)
    return lambda weights: _mean_over_classes(
        np.stack([function(*counts(weights)) for counts in ranked])
    )


def _ranked(
    scores: np.ndarray, positives: np.ndarray
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return a function from weights [R, n] to the arguments of `_against_the_rest`'s function."""
    order = np.argsort(scores, kind="stable")
    distinct, starts = np.unique(scores[order], return_index=True)
    positive = positives[order]

    def counts(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ordered = weights[:, order]
        of_positives = np.where(positive, ordered, 0.0)
        if len(distinct) < len(order):
            ordered = np.add.reduceat(ordered, starts, axis=1)
            of_positives = np.add.reduceat(of_positives, starts, axis=1)
        return of_positives, ordered - of_positives

    return counts


def _mean_over_classes(values: np.ndarray) -> np.ndarray:
    """Return the mean [R] of the defined values of [C, R], NaN where none is."""
    defined = ~np.isnan(values)
    return np.where(defined, values, 0.0).sum(axis=0) / defined.sum(axis=0)


def losses(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the cross-entropy of each image in nats: float64 [n], from 0.

    It is -log of the right class's probability. Where images may have several classes, it is the
    mean over the classes of the binary cross-entropy.

    Args:
        probabilities: [n, C], in 0..1; clipped to [EPSILON, 1 - EPSILON].
        labels: int [n], class indices; or [n, C], 1 for each class of an image.
    """
    if labels.ndim == 2:
        clipped = np.clip(np.asarray(probabilities, np.float64), EPSILON, 1 - EPSILON)
        return -np.log(np.where(labels == 1, clipped, 1 - clipped)).mean(axis=1)
    given = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return -np.log(np.clip(given, EPSILON, 1 - EPSILON))


def log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean of `losses`."""
    return float(losses(probabilities, labels).mean())


def accuracy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of images whose most probable class is the right one.

    For labels [n, C], it is the share of those whose classes are all right at probability 0.5.
    """
    if labels.ndim == 2:
        return float(((probabilities >= 0.5) == (labels == 1)).all(axis=1).mean())
    return float((probabilities.argmax(axis=1) == labels).mean())


def confusion(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return counts int64 [C, C]: a row for each true class, a column for each predicted one."""
    classes = probabilities.shape[1]
    cells = labels * classes + probabilities.argmax(axis=1)
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)
