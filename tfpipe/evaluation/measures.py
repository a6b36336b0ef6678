"""The measures that are one number each, as functions of how often every image counts.

A measure looks at the answers once, as to sort them, and returns a function of weights [R, n] that
gives its value for each of R samples, in which image i is there weights[r, i] times. So all that
the bootstrap draws is measured at once, and the measure of the images themselves is that of ones.

Of many classes a measure of one against the rest is the mean over the classes, each counting the
same ("macro"), that are defined; of two classes it is that of the second.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import scipy.sparse

from tfpipe.core.registry import Registry
from tfpipe.evaluation import curves, metrics

BINS = 10  # of the calibration error; those of `curves.reliability`

# From weights float64 [R, n] to values float64 [R], NaN where a measure is undefined.
Statistic = Callable[[np.ndarray], np.ndarray]


class Answers:
    """What was predicted, and what is right.

    Attributes:
        probabilities: float64 [n, C].
        labels: int64 [n].
        guess: int64 [n], the most probable classes.
        right: bool [n], whether they are the right ones.
    """

    def __init__(self, probabilities: np.ndarray, labels: np.ndarray):
        self.probabilities = np.asarray(probabilities, np.float64)
        self.labels = np.asarray(labels, np.int64)
        self.guess = self.probabilities.argmax(axis=1)
        self.right = self.guess == self.labels

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, chosen: np.ndarray) -> "Answers":
        """Returns some of them, by indices or a mask."""
        return Answers(self.probabilities[chosen], self.labels[chosen])

    @property
    def classes(self) -> int:
        """How many classes there are, C."""
        return self.probabilities.shape[1]

    @functools.cached_property
    def counts(self) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """A function from weights [R, n] to three counts [C, R].

        They are of the images of each class, of those taken for it, and of those rightly so.
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
class Measure:
    """A number that tells how good answers are.

    Attributes:
        title: in tables.
        of: from answers to the statistic.
        higher_is_better: or lower.
        needs: without what it is undefined, as in "images of two classes".
    """

    title: str
    of: Callable[[Answers], Statistic]
    higher_is_better: bool
    needs: str = "an image"

    def value(self, answers: Answers) -> float:
        """Returns the measure of the answers, NaN if it is undefined."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return float(self.of(answers)(np.ones((1, len(answers))))[0])


measures: Registry[Measure] = Registry("measure")


def names() -> list[str]:
    """Returns the measures in the order of tables: the log loss, which is trained for, first."""
    return sorted(measures, key=lambda name: (name != "log_loss", name != "accuracy", name))


def measure(
    name: str, title: str, *, higher_is_better: bool, needs: str = "an image"
) -> Callable[[Callable[[Answers], Statistic]], Callable[[Answers], Statistic]]:
    """Returns a decorator that registers a function as `Measure.of`."""

    def enter(function: Callable[[Answers], Statistic]) -> Callable[[Answers], Statistic]:
        measures.add(name, Measure(title, function, higher_is_better, needs))
        return function

    return enter


def measured(answers: Answers) -> tuple[dict[str, float | None], dict[str, str]]:
    """Returns every measure of answers, None if it is undefined, and then by its name why."""
    values, reasons = {}, {}
    for name in names():
        value = measures[name].value(answers)
        values[name] = None if np.isnan(value) else value
        if values[name] is None:
            reasons[name] = f"needs {measures[name].needs if len(answers) else 'an image'}"
    return values, reasons


def mean_of(values: np.ndarray) -> Statistic:
    """Returns the statistic that is the mean of values [n]."""
    return lambda weights: weights @ values / weights.sum(axis=1)


@measure("log_loss", "log loss", higher_is_better=False)
def _log_loss(answers: Answers) -> Statistic:
    """The mean of `metrics.losses`, in nats."""
    return mean_of(metrics.losses(answers.probabilities, answers.labels))


@measure("accuracy", "accuracy", higher_is_better=True)
def _accuracy(answers: Answers) -> Statistic:
    """The share of images whose most probable class is the right one."""
    return mean_of(answers.right.astype(np.float64))


@measure("balanced_accuracy", "balanced accuracy", higher_is_better=True)
def _balanced_accuracy(answers: Answers) -> Statistic:
    """The mean over the classes with images of the share of their images that is found."""

    def statistic(weights: np.ndarray) -> np.ndarray:
        of_class, _, right = answers.counts(weights)
        return _mean_over_classes(right / of_class)

    return statistic


@measure("f1_macro", "F1, macro", higher_is_better=True)
def _f1_macro(answers: Answers) -> Statistic:
    """The mean over the classes with images of the harmonic mean of precision and recall."""

    def statistic(weights: np.ndarray) -> np.ndarray:
        of_class, taken, right = answers.counts(weights)
        return _mean_over_classes(np.where(of_class > 0, 2 * right / (of_class + taken), np.nan))

    return statistic


@measure("brier", "Brier score", higher_is_better=False)
def _brier(answers: Answers) -> Statistic:
    """The mean squared error of the probabilities (Brier 1950).

    Of two classes that of P(second class), in 0..1; of more the sum over the classes, in 0..2.
    """
    errors = answers.probabilities - np.eye(answers.classes)[answers.labels]
    squares = errors**2
    return mean_of(squares[:, 1] if answers.classes == 2 else squares.sum(axis=1))


@measure("calibration_error", "calibration error", higher_is_better=False)
def _calibration_error(answers: Answers) -> Statistic:
    """The expected calibration error (Naeini et al. 2015; Guo et al. 2017), in 0..1.

    The mean distance of score and share in the bars of `curves.reliability`, weighted by the number
    of images. Of few images it is above 0 also for perfect probabilities, and that of a sample of
    them is higher still, so that its interval lies rather too high.
    """
    scores, right = curves.scored(answers.probabilities, answers.labels)
    table = np.zeros((len(answers), BINS))
    table[np.arange(len(answers)), curves.bin_of(scores, BINS)] = scores - right
    return lambda weights: np.abs(weights @ table).sum(axis=1) / weights.sum(axis=1)


@measure("roc_auc", "ROC AUC", higher_is_better=True, needs="images of two classes")
def _roc_auc(answers: Answers) -> Statistic:
    """The probability that an image of a class has a higher score for it than another image.

    Equal scores count half (Hanley and McNeil 1982).
    """

    def area(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
        below = np.cumsum(negative, axis=1) - negative / 2
        return (positive * below).sum(axis=1) / positive.sum(axis=1) / negative.sum(axis=1)

    return _against_the_rest(answers, area)


@measure(
    "average_precision",
    "average precision",
    higher_is_better=True,
    needs="images of the class that is looked for, of two the second",
)
def _average_precision(answers: Answers) -> Statistic:
    """The mean of the precisions at the scores of a class's images.

    Without interpolation, as scikit-learn's `average_precision_score`.
    """

    def mean(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
        right = np.cumsum(positive[:, ::-1], axis=1)
        taken = right + np.cumsum(negative[:, ::-1], axis=1)
        precision = np.divide(right, taken, out=np.zeros_like(right), where=taken > 0)
        return (positive[:, ::-1] * precision).sum(axis=1) / positive.sum(axis=1)

    return _against_the_rest(answers, mean)


def _against_the_rest(
    answers: Answers, function: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> Statistic:
    """Returns the statistic that is the mean over the classes of one of their ranking.

    Args:
        answers: what is measured.
        function: from how many positives and negatives [R, scores] have each score, from low to
            high, to values [R].
    """
    chosen = [1] if answers.classes == 2 else range(answers.classes)
    ranked = [_ranked(answers.probabilities[:, c], answers.labels == c) for c in chosen]
    return lambda weights: _mean_over_classes(
        np.stack([function(*counts(weights)) for counts in ranked])
    )


def _ranked(
    scores: np.ndarray, positives: np.ndarray
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Returns a function from weights [R, n] to the arguments of `_against_the_rest`'s function."""
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
    """Returns the mean [R] of what is defined of values [C, R], NaN where none is."""
    defined = ~np.isnan(values)
    return np.where(defined, values, 0.0).sum(axis=0) / defined.sum(axis=0)
