"""Count the records of a data set by class, as its manifest lists them.

An image with several classes counts for each of them, so the counts of a split may sum to more than
its records. With folds, "" then counts its images.
"""

import collections
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from tfpipe.records import label_set
from tfpipe.records.label_set import MANY


class RecordKind(NamedTuple):
    """What the counts of a record depend on.

    Attributes:
        split: its split.
        label: as of `label_set`.
        fold: number of its fold; -1 for none.
        copy: whether it is a transformed copy.
    """

    split: str
    label: str
    fold: int
    copy: bool


def describe(
    kinds: Mapping[RecordKind, int],
    classes: Sequence[str],
    splits: Sequence[str],
    *,
    labels: str,
    has_folds: bool,
) -> dict[str, Any]:
    """Return the fields of a manifest that count records by class.

    Args:
        kinds: the number of records of each kind.
        classes: of the data set, in their order.
        splits: of the data set, in their order.
        labels: "one" or "many", as in the manifest.
        has_folds: whether the data set has folds.

    Returns:
        `splits`, `copies`, `folds` and `fold_records` of a `Manifest`.
    """
    records, copies, folds = (collections.Counter() for _ in range(3))
    fold_records: dict[str, dict[str, dict[str, dict[str, int]]]] = {}
    for (split, label, fold, copied), count in kinds.items():
        for name in label_set.names(label):
            records[split, name] += count
            copies[split, name] += count * copied
            folds[fold, name] += count * (not copied)
        if has_folds:
            by_class = fold_records.setdefault(split, {}).setdefault(str(fold), {})
            for name in (*label_set.names(label), *([""] if labels == MANY else [])):
                counted = by_class.setdefault(name, {"images": 0, "copies": 0})
                counted["copies" if copied else "images"] += count
    copies = +copies  # without zeros

    def table(counts: collections.Counter, rows: Iterable) -> dict[str, dict[str, int]]:
        return {str(row): {name: counts[row, name] for name in classes} for row in rows}

    with_copies = {split for split, _ in copies}
    numbers = sorted({kind.fold for kind in kinds} - {-1}) if has_folds else ()
    return {
        "splits": table(records, splits),
        "copies": table(copies, sorted(with_copies)),
        "folds": table(folds, numbers),
        "fold_records": fold_records,
    }
