"""Tell whether every split has its share of every class."""

import collections
import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from tfpipe.records import label_set
from tfpipe.records.manifest import Manifest
from tfpipe.records.subset import Subset

_SHOWN = 3  # classes in a message


def is_far(count: Any, expected: Any) -> Any:
    """Return whether a split has far too few or too many images of a class.

    That is none where one or more are expected, or a difference of more than two images and more
    than half of the expected number.

    Args:
        count: the number of images of the class in the split; or an array.
        expected: the size of the class times the fraction of the split; or an array.

    Returns:
        A bool; a bool array for arrays.
    """
    none = (np.asarray(count) == 0) & (np.asarray(expected) > 1 - 1e-6)
    return none | (np.abs(np.subtract(count, expected)) > np.maximum(2, np.divide(expected, 2)))


def describe(
    counts: Mapping[str, Mapping[str, int]],
    expected: Mapping[str, Mapping[str, float]] | None = None,
) -> str:
    """Name the classes that a split lacks, or of which it has far too few or too many.

    Args:
        counts: the number of images by split and class.
        expected: about what they should be, see `expect`; without a split, or None, if that is
            unknown.

    Returns:
        A phrase with the number of such classes, the first few, and what to do; "" for none.
    """
    found, forced = [], False
    for split, by_class in counts.items():
        wanted = (expected or {}).get(split, {})
        far = {name for name in wanted if is_far(by_class[name], wanted[name])}
        missing = [repr(name) for name, count in by_class.items() if not count]
        uneven = [
            f"{name!r} has {count} instead of {wanted[name]:.0f}"
            for name, count in by_class.items()
            if name in far and count
        ]
        if missing:
            found.append(f"no image in {split} for {_list(missing, len(by_class))}")
        if uneven:
            found.append(f"far from their share of {split} are {_list(uneven, len(by_class))}")
        forced = forced or bool(far)
    if not found:
        return ""
    why = "equal files and groups stay together; " if forced else ""
    return (
        f"{'; '.join(found)}: {why}add images, or build the records with other --splits or --folds"
    )


def count(parts: Sequence[Hashable], labels: Sequence[str]) -> dict[Any, dict[str, int]]:
    """Count images by part and class, including zeros.

    Args:
        parts: the split or fold of each image.
        labels: its label, as of `label_set`.
    """
    counts: dict[Hashable, collections.Counter[str]] = {
        part: collections.Counter() for part in sorted(set(parts))
    }
    for (part, label), images in collections.Counter(zip(parts, labels, strict=True)).items():
        counts[part][label] = images
    spread = {part: label_set.spread(by_label) for part, by_label in counts.items()}
    names = sorted({name for by_class in spread.values() for name in by_class})
    return {part: {name: found[name] for name in names} for part, found in spread.items()}


def expect(
    counts: Mapping[str, Mapping[str, int]], fractions: Mapping[str, float]
) -> dict[str, dict[str, float]]:
    """Return about how many images each split should have, by split and class.

    Args:
        counts: how many it has, by split and class.
        fractions: of the images, by split.
    """
    totals = collections.Counter()
    for by_class in counts.values():
        totals.update(by_class)
    return {
        split: {name: total * fraction for name, total in totals.items()}
        for split, fraction in fractions.items()
    }


def describe_subsets(*subsets: Subset) -> str:
    """Name the classes that subsets of one data set lack, as `describe` does.

    The number to expect is unknown for a fold, for several splits together, for splits without
    fractions, and after images were left out to rebalance.
    """
    manifest = subsets[0].manifest
    counts = {part.name: part.class_images for part in subsets}
    fractions = _fractions(manifest)
    if not set(counts) <= set(fractions) or manifest.arguments.get("rebalance") == "drop":
        return describe(counts)
    all_counts = {name: Subset(manifest, (name,)).class_images for name in manifest.splits}
    return describe(counts, expect(all_counts, fractions))


def _fractions(manifest: Manifest) -> dict[str, float]:
    """Return the fractions of the splits that the data set was built with; {} if it has none."""
    pairs = re.findall(r"(\w+) *: *([.\d]+(?:e-?\d+)?)", str(manifest.arguments.get("splits")))
    fractions = {name: float(number) for name, number in pairs}
    return fractions if set(fractions) == set(manifest.splits) else {}


def _list(entries: list[str], total: int) -> str:
    shown = ", ".join(entries[:_SHOWN]) + (", ..." if len(entries) > _SHOWN else "")
    return f"{len(entries)} of {total} classes ({shown})"
