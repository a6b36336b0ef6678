r"""The classes of one image as one text, so that all code handles one and several alike.

    "cat"               one class
    "circle\x1fred"      two classes, joined by a character that no name of a class may hold
    "\x1f"              none of the classes, where an image may have several
    ""                  no label at all

A data set whose images have exactly one class never holds the character.
"""

import collections
from collections.abc import Callable, Iterable, Sequence

import numpy as np

# How many classes an image of a data set has: exactly one, or any number.
ONE, MANY = "one", "many"

_JOINT = "\x1f"  # ASCII's unit separator

# The label of an image that shows none of the classes.
NONE = _JOINT


def join(names: Iterable[str]) -> str:
    """Return the label of an image with these classes, in any order; `NONE` without any."""
    return _JOINT.join(sorted(set(names))) or NONE


def names(label: str) -> tuple[str, ...]:
    """Return the classes of a label, sorted; () for `NONE` and ""."""
    return tuple(filter(None, label.split(_JOINT)))


def is_set(label: str) -> bool:
    """Return whether a label has several classes, or none where others have several."""
    return _JOINT in label


def shown(label: str) -> str:
    """Return a label for a person: "circle|red", or "(none)"."""
    return "|".join(names(label)) or ("(none)" if label else "")


def mapped(label: str, function: Callable[[str], str]) -> str:
    """Return the label whose classes are those of a label, each changed by a function."""
    return join(map(function, names(label))) if is_set(label) else function(label)


def count(labels: Iterable[str]) -> collections.Counter[str]:
    """Return the number of images of each class; "" counts those without a label."""
    return spread(collections.Counter(labels))


def spread(counts: collections.Counter[str]) -> collections.Counter[str]:
    """Return the number of images of each class, for their number by label."""
    found: collections.Counter[str] = collections.Counter()
    for label, images in counts.items():
        for name in names(label) or ([] if label else [label]):
            found[name] += images
    return found


def memberships(labels: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return which image has which class.

    Images that show none of the classes have one more class, of their own.

    Returns:
        The image and the class of each membership, int64 [M] each, by image.
    """
    kinds: dict[str, int] = {}
    of_image = np.fromiter((kinds.setdefault(each, len(kinds)) for each in labels), np.int64)
    held = [names(label) or (NONE,) for label in kinds]
    number = {name: i for i, name in enumerate(sorted({name for each in held for name in each}))}
    table = np.full((len(held), max(map(len, held), default=1)), -1)
    for row, each in zip(table, held, strict=True):
        row[: len(each)] = [number[name] for name in each]
    classes = table[of_image]
    images, _ = there = np.nonzero(classes >= 0)
    return images, classes[there]
