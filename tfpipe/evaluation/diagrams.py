"""The points of ROC, precision-recall and reliability diagrams and histograms; draws nothing."""

from typing import NamedTuple

import numpy as np
import sklearn.metrics


class Bin(NamedTuple):
    """A bar of a reliability diagram.

    Attributes:
        low: its lower bound, which belongs to the bin.
        high: its upper bound, which belongs to the last bin only.
        count: the number of images with a score in it.
        confidence: their mean score; None without images.
        accuracy: the share of them that is right; equals a calibrated score. None without images.
    """

    low: float
    high: float
    count: int
    confidence: float | None
    accuracy: float | None


def roc(scores: np.ndarray, positives: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the receiver operating characteristic.

    Args:
        scores: [n], higher for images that are more likely positive.
        positives: bool [n].

    Returns:
        The false and the true positive rate, float64 [points], both rising from 0 to 1 with a
        falling threshold, without points on a straight line. Both are empty without positives or
        without negatives.
    """
    positives = np.asarray(positives, bool)
    if positives.all() or not positives.any():
        return np.empty(0), np.empty(0)
    false, true, _ = sklearn.metrics.roc_curve(positives, scores)
    return false, true


def precision_recall(scores: np.ndarray, positives: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the precision for every recall.

    Args:
        scores: as for `roc`.
        positives: as for `roc`.

    Returns:
        Precision and recall, float64 [points], for a rising threshold, so that the recall falls
        from 1; the last point is precision 1, recall 0. Both are empty without positives.
    """
    positives = np.asarray(positives, bool)
    if not positives.any():
        return np.empty(0), np.empty(0)
    precision, recall, _ = sklearn.metrics.precision_recall_curve(positives, scores)
    return precision, recall


def scored(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return scores and whether they are right, for `reliability`.

    Args:
        probabilities: [n, C].
        labels: int [n].

    Returns:
        Scores float64 [n] and bool [n]. For two classes P(second class), and whether it is the
        right class. For more the highest probability, and whether its class is right.
    """
    if probabilities.shape[1] == 2:
        return probabilities[:, 1].astype(np.float64), labels == 1
    guess = probabilities.argmax(axis=1)
    return probabilities[np.arange(len(labels)), guess].astype(np.float64), guess == labels


def bin_of(scores: np.ndarray, bins: int) -> np.ndarray:
    """Return the index of each score [n] among equally wide bins of 0..1, int64 [n]."""
    return np.clip((scores * bins).astype(np.int64), 0, bins - 1)


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int = 10) -> list[Bin]:
    """Return the bars of a reliability diagram (DeGroot and Fienberg 1983), from low to high.

    Args:
        probabilities: [n, C]; see `scored`.
        labels: int [n].
        bins: their number, of equal width in 0..1, with those without images.
    """
    scores, right = scored(probabilities, labels)
    place = bin_of(scores, bins)
    edges = np.linspace(0, 1, bins + 1)
    found = []
    for index in range(bins):
        inside = place == index
        count = int(inside.sum())
        confidence = float(scores[inside].mean()) if count else None
        accuracy = float(right[inside].mean()) if count else None
        found.append(Bin(float(edges[index]), float(edges[index + 1]), count, confidence, accuracy))
    return found


def histogram(
    probabilities: np.ndarray, labels: np.ndarray, bins: int = 20
) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of images in each bin of scores, by whether the score is right.

    Args:
        probabilities: [n, C]; see `scored`.
        labels: int [n].
        bins: their number, of equal width in 0..1.

    Returns:
        The bounds of the bins, float64 [bins + 1], and counts int64 [2, bins]: for two classes a
        row for each; for more the wrong guesses and the right ones.
    """
    scores, right = scored(probabilities, labels)
    counts = np.bincount(right * bins + bin_of(scores, bins), minlength=2 * bins)
    return np.linspace(0, 1, bins + 1), counts.reshape(2, bins)
