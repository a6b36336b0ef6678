"""Say how duplicates and classes are divided among splits and folds."""

import collections
from collections.abc import Mapping, Sequence

import numpy as np

from tfpipe.core import terminal
from tfpipe.images import duplicates
from tfpipe.records import coverage

_SHOWN = 3  # names in a message


def tell_duplicates(clusters: np.ndarray, labels: Sequence[str], meaning: str) -> None:
    """Say how many images are in clusters of duplicates, and of which classes most are.

    Args:
        clusters: the cluster of each image.
        labels: its class.
        meaning: what happens to duplicates.
    """
    sizes, totals = np.bincount(clusters), collections.Counter(labels)
    held = collections.Counter(labels[i] for i in np.flatnonzero(sizes[clusters] > 1).tolist())
    if not held:
        terminal.say(f"duplicates: none among {len(clusters)} images")
        return
    groups = int((sizes > 1).sum())
    most = [repr(name) for name in sorted(held) if 2 * held[name] > totals[name]]
    of = f", most images of {len(most)} of {len(totals)} classes ({_first(most)})"
    terminal.say(
        f"duplicates: {held.total()} of {len(clusters)} images are in"
        f" {'one group' if groups == 1 else f'{groups} groups'}{of if most else ''}; {meaning}"
    )


def tell_alike(classes: Sequence[str], labels: Sequence[str]) -> None:
    """Warn about classes whose images are alike by nature.

    Args:
        classes: their names.
        labels: the class of each image.
    """
    names = sorted({repr(name) for name in classes})
    if names:
        terminal.warn(
            f"most images look alike in {len(names)} of {len(set(labels))} classes"
            f" ({_first(names)}): they count as different images, and only equal files as"
            f" duplicates; {duplicates.DUPLICATES} lists them"
        )


def tell_broken(
    clusters: np.ndarray, labels: Sequence[str], parts: np.ndarray, kind: str
) -> np.ndarray:
    """Warn about clusters of near-duplicates that were broken, and return them.

    Args:
        clusters: the cluster of each image.
        labels: its class.
        parts: the number of the split or fold that it was assigned to; -1 if it was not assigned.
        kind: "split" or "fold".
    """
    broken = divided(clusters, parts)
    if len(broken):
        members = np.flatnonzero(np.isin(clusters, broken)).tolist()
        held = {(clusters[i], labels[i]) for i in members}
        counts = collections.Counter(label for _, label in held)
        shown = [f"{count} of {label!r}" for label, count in sorted(counts.items())]
        terminal.warn(
            f"{len(broken)} groups of near-duplicates are in several {kind}s, because a class would"
            f" be missing from a {kind} or far from its share: {_first(shown)}"
        )
    return broken


def divided(values: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Return the values, sorted, that several parts have; -1 is no part."""
    width = parts.max(initial=0) + 1
    pairs = np.unique((values * width + parts)[parts >= 0])
    found, counts = np.unique(pairs // width, return_counts=True)
    return found[counts > 1]


def tell_gaps(
    labels: Sequence[str],
    split_of: Sequence[str],
    fold_of: Sequence[int],
    fractions: Mapping[str, float],
) -> None:
    """Warn about classes that a split or fold lacks, or has far too few or too many of.

    Args:
        labels: the label of each image, as of `label_set`.
        split_of: its split.
        fold_of: its fold; -1 for none.
        fractions: of the images that were assigned, by split.
    """
    counts = coverage.count(split_of, labels)
    assigned = {split: counts[split] for split in fractions if split in counts}
    gaps = [coverage.describe(counts, coverage.expect(assigned, fractions))]
    by_fold = coverage.count(fold_of, labels)
    by_fold.pop(-1, None)
    if by_fold:
        names = next(iter(by_fold.values()))
        least = {name: min(each[name] for each in by_fold.values()) for name in names}
        gaps.append(coverage.describe({f"one of the {len(by_fold)} folds": least}))
    for gap in filter(None, gaps):
        terminal.warn(gap)


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
