"""95 % intervals of proportions by formulas, which hold where every image is right, or none.

The bootstrap does not: if all 125 images are right, so are those of every sample.
"""

import numpy as np
import scipy  # its parts load when they are first used

Interval = tuple[float, float]


def wilson(count: int, total: int) -> Interval | None:
    """Return Wilson's interval (1927) of the proportion `count / total`; None if `total` is 0."""
    if not total:
        return None
    found = scipy.stats.binomtest(int(count), int(total)).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def mean(counts: np.ndarray, totals: np.ndarray) -> Interval:
    """Return the interval of the mean of independent proportions, such as of recalls.

    Source: Newcombe 2001, "Estimating the difference between differences" (MOVER): distances to
    the bounds of the single intervals are added as independent errors are.

    Args:
        counts: int [C].
        totals: int [C]; proportions of 0 are left out, one at least is above 0.
    """
    known = totals > 0
    shares = counts[known] / totals[known]
    bounds = np.array([wilson(*each) for each in zip(counts[known], totals[known], strict=True)])
    below, above = np.sqrt(((bounds.T - shares) ** 2).sum(axis=1)) / len(shares)
    center = shares.mean()
    return float(center - below), float(center + above)


def paired_difference(first: np.ndarray, second: np.ndarray) -> tuple[Interval, float]:
    """Return the interval of the difference of two proportions of the same images, and a p-value.

    The interval is Newcombe's (1998, "Improved confidence intervals for the difference between
    binomial proportions based on paired data", method 10). The p-value is of McNemar's exact test,
    two-sided.

    Args:
        first: bool [n], n above 0: which images one model has right.
        second: bool [n]: which ones the other model has right.
    """
    n = len(first)
    both, neither = int((first & second).sum()), int((~first & ~second).sum())
    one, two = int((first & ~second).sum()), int((~first & second).sum())
    product = both * neither - one * two
    spread = np.sqrt(float((both + one) * (two + neither) * (both + two) * (one + neither)))
    # The correlation of the two, corrected for continuity.
    corrected = max(product - n / 2, 0) if product > 0 else product
    correlation = corrected / spread if spread else 0.0
    shares = np.array([both + one, both + two]) / n
    (low, high), (other_low, other_high) = wilson(both + one, n), wilson(both + two, n)
    below = _joined(shares[0] - low, other_high - shares[1], correlation)
    above = _joined(high - shares[0], shares[1] - other_low, correlation)
    difference = (one - two) / n
    p_value = scipy.stats.binomtest(one, one + two).pvalue if one + two else 1.0
    return (float(difference - below), float(difference + above)), float(p_value)


def _joined(first: float, second: float, correlation: float) -> float:
    return np.sqrt(max(0.0, first**2 - 2 * correlation * first * second + second**2))
