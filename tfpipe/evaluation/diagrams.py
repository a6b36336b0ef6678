"""The numbers of reliability diagrams and histograms of scores."""

from typing import NamedTuple

import numpy as np


class Reliability(NamedTuple):
    """The bins with images of a reliability diagram (DeGroot and Fienberg 1983), from low to high.

    Attributes:
        right: the number of images in each whose score is right, int64 [B].
        counts: the number of its images, int64 [B].
        confidence: their mean score, float64 [B]; equals right / counts if it is calibrated.
    """

    right: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray


def scored(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return scores float64 [n], and bool [n] whether they are right.

    For two classes the score is P(second class), right if the image is of it. For more it is the
    highest probability, right if its class is.

    Args:
        probabilities: [n, C].
        labels: int [n].
    """
    if probabilities.shape[1] == 2:
        return probabilities[:, 1].astype(np.float64), labels == 1
    return probabilities.max(axis=1).astype(np.float64), probabilities.argmax(axis=1) == labels


def bin_of(scores: np.ndarray, bins: int) -> np.ndarray:
    """Return the index of each score [n] among equally wide bins of 0..1, int64 [n]."""
    return np.clip((scores * bins).astype(np.int64), 0, bins - 1)


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int = 10) -> Reliability:
    """Return the reliability of probabilities [n, C], by `bins` of equal width; see `scored`."""
    scores, right = scored(probabilities, labels)
    place = bin_of(scores, bins)
    sums = [np.bincount(place, weights, bins) for weights in (right, None, scores)]
    right, counts, total = (each[sums[1] > 0] for each in sums)
    return Reliability(right.astype(np.int64), counts.astype(np.int64), total / counts)


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
