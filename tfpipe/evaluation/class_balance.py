"""Warnings about classes that evaluated images lack, or have in another share than training."""

from collections.abc import Mapping, Sequence

import numpy as np
import scipy  # its parts load when they are first used

_FACTOR = 2  # of shares that are far apart
_CHANCE = 1e-3  # the least probability of what may be chance, for all classes together
_NAMED = 5  # classes in a line


def warnings(
    support: Mapping[str, int], shares: Sequence[float] | None, images: int | None = None
) -> list[str]:
    """Return a line for missing classes, and one for classes far from their share.

    Args:
        support: the number of evaluated images of each class.
        shares: of each class in training; None if these are not comparable.
        images: the number of evaluated images; None for the sum of `support`, as where each has
            exactly one class.
    """
    names, counts = list(support), np.array(list(support.values()))
    n = int(counts.sum()) if images is None else images
    if not n:
        return []
    found = []
    if missing := [name for name, count in support.items() if not count]:
        found.append(
            f"no image of {_listed(missing)} among these {n:,} ({len(missing):,} of"
            f" {len(names):,} classes): such a class has no metrics, and means over classes leave"
            " it out: evaluate on `records` or a `split` with images of every class"
        )
    if shares is None:
        return found
    usual = np.array(shares)
    binomial = scipy.stats.binom(n, usual)
    chance = 2 * np.minimum(binomial.cdf(counts), binomial.sf(counts - 1))
    far = (counts > _FACTOR * n * usual) | (_FACTOR * counts < n * usual)
    strange = np.flatnonzero(far & (counts > 0) & (chance < _CHANCE / len(names)))
    if len(strange):
        parts = [
            f"{names[i]} {counts[i]:,} of {n:,} ({counts[i] / n:.1%}), in training {usual[i]:.1%}"
            for i in strange
        ]
        found.append(
            f"other shares of the classes than in training: {_listed(parts, '; ')}: accuracy,"
            " precision and log loss are of this mix of classes: look at recall and balanced"
            " accuracy, or evaluate on images in the usual mix"
        )
    return found


def _listed(parts: Sequence[str], separator: str = ", ") -> str:
    more = f"{separator}and {len(parts) - _NAMED:,} more" if len(parts) > _NAMED else ""
    return separator.join(parts[:_NAMED]) + more
