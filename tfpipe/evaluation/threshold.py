"""Decision thresholds: the least probability of the second of two classes, given or chosen.

A threshold is chosen on labelled predictions by trying all that split the images differently. It
lies in the middle between two neighbouring probabilities. Ties go to the threshold closest to the
theoretical optimum for calibrated probabilities.
"""

import dataclasses
import math

import numpy as np

from tfpipe.core.errors import UserError

GIVEN, F1, COST = "given", "f1", "cost"

_ALLOWED = (
    "give a number from 0 to 1, f1, or cost:FP,FN with the cost of a false positive and of a false"
    " negative, as cost:1,5"
)


@dataclasses.dataclass(frozen=True)
class Rule:
    """A rule for choosing a threshold.

    Attributes:
        method: "given", "f1" (where the F1 score is highest) or "cost" (where the mean cost is
            lowest).
        value: of "given", in 0..1.
        false_positive: of "cost", the cost of taking an image of the first class for the second,
            at least 0.
        false_negative: the cost of the opposite error, at least 0. One of both is above 0.
    """

    method: str
    value: float = 0.5
    false_positive: float = 1.0
    false_negative: float = 1.0


@dataclasses.dataclass(frozen=True)
class Threshold:
    """A threshold that was chosen or given.

    Attributes:
        value: the least probability of the second class; above 1 if no image is best taken for it.
        method: of the rule.
        score: the F1 score, or the mean cost of an image, on the labelled images; None if given.
        images: the number of labelled images; 0 if given.
    """

    value: float
    method: str
    score: float | None = None
    images: int = 0

    def __str__(self):
        if self.score is None:
            return f"{self.value:g}"
        name = "F1 score" if self.method == F1 else "mean cost"
        return f"{self.value:.6g}, {name} {self.score:.4f} on {self.images:,} images"


def parse(text: str) -> Rule:
    """Read the option `threshold`; raises UserError for another form."""
    where = f"`threshold={text}`"
    if text == F1:
        return Rule(F1)
    method, separator, rest = text.partition(":")
    try:
        numbers = [float(part) for part in (rest.split(",") if separator else [text])]
    except ValueError:
        raise UserError(f"{where}: {_ALLOWED}", status=2) from None
    if separator and method == COST and len(numbers) == 2:
        if all(0 <= number < math.inf for number in numbers) and any(numbers):
            return Rule(COST, false_positive=numbers[0], false_negative=numbers[1])
    elif not separator and 0 <= numbers[0] <= 1:
        return Rule(GIVEN, numbers[0])
    raise UserError(f"{where}: {_ALLOWED}", status=2)


def choose(rule: Rule, probabilities: np.ndarray, labels: np.ndarray) -> Threshold:
    """Return the threshold of a rule.

    Args:
        rule: "f1" or "cost"; a given threshold is returned as it is.
        probabilities: float [n], of the second class, in 0..1.
        labels: int [n], 0 or 1.

    Raises:
        UserError: there are no images, or for "f1" none of the second class.
    """
    if rule.method == GIVEN:
        return Threshold(rule.value, GIVEN)
    if not len(labels):
        raise UserError(f"`threshold={rule.method}`: there are no predictions to choose it by")
    if rule.method == F1:
        return _best_f1(probabilities, labels)
    return _least_cost(rule, probabilities, labels)


def _best_f1(probabilities: np.ndarray, labels: np.ndarray) -> Threshold:
    values, true_positive, false_positive = _splits(probabilities, labels)
    positive = true_positive[0]
    if not positive:
        raise UserError(
            "`threshold=f1`: none of the labelled images is of the second class: give a number"
        )
    # 2 TP / (2 TP + FP + FN), van Rijsbergen 1979; FN = positive - TP.
    scores = 2 * true_positive / (true_positive + false_positive + positive)
    best = scores.max()
    # Half of the best score (Lipton et al. 2014, "Optimal Thresholding of Classifiers to Maximize
    # F1 Measure", theorem 1).
    return Threshold(_nearest(values, scores == best, best / 2), F1, float(best), len(labels))


def _least_cost(rule: Rule, probabilities: np.ndarray, labels: np.ndarray) -> Threshold:
    values, true_positive, false_positive = _splits(probabilities, labels)
    missed = true_positive[0] - true_positive
    costs = rule.false_positive * false_positive + rule.false_negative * missed
    least = costs.min()
    # Elkan 2001, "The Foundations of Cost-Sensitive Learning", equation 2.
    expected = rule.false_positive / (rule.false_positive + rule.false_negative)
    value = _nearest(values, costs == least, expected)
    return Threshold(value, COST, float(least / len(labels)), len(labels))


def _splits(
    probabilities: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return every threshold that splits the images differently, with its counts.

    Returns:
        Thresholds float64 [k], ascending from 0, where all images are positive, to above 1, where
        none is; true positives int [k]; false positives int [k].
    """
    values, place = np.unique(np.asarray(probabilities, np.float64), return_inverse=True)
    positive = np.bincount(place, labels == 1, minlength=len(values)).astype(np.int64)
    negative = np.bincount(place, labels != 1, minlength=len(values)).astype(np.int64)
    middles = (values[:-1] + values[1:]) / 2
    above = np.nextafter(max(1.0, values[-1]), 2)
    thresholds = np.concatenate([[0.0], middles, [above]])
    return thresholds, _from_here_on(positive), _from_here_on(negative)


def _from_here_on(counts: np.ndarray) -> np.ndarray:
    """Return the sums from each index to the end, int [k + 1] for [k]; the last is 0."""
    return np.append(counts[::-1].cumsum()[::-1], 0)


def _nearest(values: np.ndarray, allowed: np.ndarray, wanted: float) -> float:
    candidates = values[allowed]
    return float(candidates[np.abs(candidates - wanted).argmin()])
