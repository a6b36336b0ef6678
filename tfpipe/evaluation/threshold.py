"""Decision thresholds: the least probability of the second of two classes, given or chosen.

A threshold is chosen on labelled predictions by trying all that split the images differently. It
lies in the middle between two neighbouring probabilities. Ties go to the threshold closest to the
theoretical optimum for calibrated probabilities.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfpipe.core.errors import UserError

GIVEN, F1, COST, BY_CLASS = "given", "f1", "cost", "by_class"

THRESHOLDS = "thresholds"  # key of `calibration.json`

# The threshold of a class without labelled images, right for calibrated probabilities.
UNKNOWN = 0.5

_ALLOWED = (
    "give a number from 0 to 1, f1, or cost:FP,FN with the cost of a false positive and of a false"
    " negative, as cost:1,5; or, where images may have several classes, NAME=NUMBER,NAME=NUMBER"
)


@dataclasses.dataclass(frozen=True)
class Rule:
    """A rule for choosing a threshold.

    Attributes:
        method: "given", "f1" (where the F1 score is highest) or "cost" (where the mean cost is
            lowest), or "by_class".
        value: of "given", in 0..1.
        false_positive: of "cost", the cost of taking an image of the first class for the second,
            at least 0.
        false_negative: the cost of the opposite error, at least 0. One of both is above 0.
        by_class: of "by_class", the names of some classes and their thresholds, in 0..1.
    """

    method: str
    value: float = 0.5
    false_positive: float = 1.0
    false_negative: float = 1.0
    by_class: tuple[tuple[str, float], ...] = ()


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
    if text == F1:
        return Rule(F1)
    if "=" in text:
        return Rule(BY_CLASS, by_class=_named(text))
    costs = text.removeprefix(f"{COST}:")
    try:
        numbers = [float(each) for each in costs.split(",")]
    except ValueError:
        numbers = []
    if costs == text and len(numbers) == 1 and 0 <= numbers[0] <= 1:
        return Rule(GIVEN, numbers[0])
    finite = all(0 <= number < math.inf for number in numbers)
    if costs != text and len(numbers) == 2 and finite and any(numbers):
        return Rule(COST, false_positive=numbers[0], false_negative=numbers[1])
    raise UserError(f"`threshold={text}`: {_ALLOWED}", status=2)


def _named(text: str) -> tuple[tuple[str, float], ...]:
    found = {}
    for part in text.split(","):
        name, _, number = part.strip().rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not name or name in found or not 0 <= value <= 1:
            raise UserError(
                f"`threshold={text}`: {part!r} is not NAME=NUMBER with each class once and a number"
                " from 0 to 1",
                status=2,
            )
        found[name] = value
    return tuple(found.items())


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
    thresholds, found, wrong = _splits(probabilities, labels)
    positive = found[0]
    if rule.method == COST:
        scores = rule.false_positive * wrong + rule.false_negative * (positive - found)
        scores, best = scores / len(labels), np.min
        # Elkan 2001, "The Foundations of Cost-Sensitive Learning", equation 2.
        expected = rule.false_positive / (rule.false_positive + rule.false_negative)
    elif positive:
        # 2 TP / (2 TP + FP + FN), van Rijsbergen 1979; FN = positive - TP.
        scores, best = 2 * found / (found + wrong + positive), np.max
        # Half of the best score (Lipton et al. 2014, "Optimal Thresholding of Classifiers to
        # Maximize F1 Measure", theorem 1).
        expected = scores.max() / 2
    else:
        raise UserError(
            "`threshold=f1`: none of the labelled images is of the second class: give a number"
        )
    score = best(scores)
    allowed = thresholds[scores == score]
    value = allowed[np.abs(allowed - expected).argmin()]
    return Threshold(float(value), rule.method, float(score), len(labels))


def of_classes(
    probabilities: np.ndarray, labels: np.ndarray, rule: Rule = Rule(F1)
) -> tuple[float, ...]:
    """Return the threshold of each class by a rule, where images may have several classes.

    Args:
        probabilities: float [n, C], in 0..1.
        labels: [n, C], 1 for each class of an image.
        rule: "f1" or "cost".

    Returns:
        C thresholds; 0.5 for a class that no image has. Each is a float32, rounded up, so that
        probabilities in float32 and float64 compare alike.
    """
    whole, found = np.asarray(labels, np.int64), []
    for scores, own in zip(np.asarray(probabilities).T, whole.T, strict=True):
        value = choose(rule, scores, own).value if own.any() else UNKNOWN
        rounded = np.float32(value)
        if rounded < value:
            rounded = np.nextafter(rounded, np.float32(2))
        found.append(float(rounded))
    return tuple(found)


def given(rule: Rule, classes: Sequence[str], own: Sequence[float] | None) -> tuple[float, ...]:
    """Return the threshold of each class by a rule that names numbers.

    Args:
        rule: "given", for all classes, or "by_class".
        classes: names in the order of their labels.
        own: of the model, for classes that the rule does not name; None if they are unknown.

    Raises:
        UserError: a name is no class, or a class without a name has no threshold of its own.
    """
    if rule.method == GIVEN:
        return (rule.value,) * len(classes)
    named = dict(rule.by_class)
    unknown = sorted(named.keys() - set(classes))
    missing = [name for name in classes if name not in named] if own is None else []
    if unknown or missing:
        what = f"{unknown[0]!r} is no class" if unknown else f"there is none for {missing[0]!r}"
        raise UserError(f"`threshold`: {what}: the classes are {', '.join(classes)}", status=2)
    return tuple(named[name] if name in named else own[i] for i, name in enumerate(classes))


def saved(classes: Sequence[str], probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Return what `calibration.json` has of thresholds: nothing where an image has one class.

    The arguments are those of `of_classes`, and the names of the classes.
    """
    if np.ndim(labels) == 1:
        return {}
    return {THRESHOLDS: dict(zip(classes, of_classes(probabilities, labels), strict=True))}


def _splits(
    probabilities: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return every threshold that splits the images differently, with its counts.

    Returns:
        Thresholds float64 [k], ascending from 0, where all images are positive, to above 1, where
        none is; true positives int [k]; false positives int [k].
    """
    values, place = np.unique(np.asarray(probabilities, np.float64), return_inverse=True)
    middles = (values[:-1] + values[1:]) / 2
    above = np.nextafter(max(1.0, values[-1]), 2)
    counts = np.zeros([2, len(values) + 1], np.int64)
    np.add.at(counts, (np.asarray(labels), place), 1)
    negative, positive = counts[:, ::-1].cumsum(axis=1)[:, ::-1]  # of each value and all above
    return np.concatenate([[0.0], middles, [above]]), positive, negative
