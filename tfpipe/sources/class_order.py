"""Decide the order of the classes, and find classes that look alike."""

import collections
import re
import unicodedata
from collections.abc import Collection, Mapping
from decimal import Decimal

from tfpipe.core.errors import UserError
from tfpipe.sources import class_name

_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")

_SHOWN = 5  # classes or groups of a message


def parse(text: str) -> tuple[str, ...]:
    """Return the names in the option `classes`, which commas separate; () for "".

    Raises:
        UserError: a name is empty or repeated.
    """
    if not text:
        return ()
    hint = "name every class once, such as `classes=dog,cat`, or omit `classes` to sort them"
    if not all(name.strip() for name in text.split(",")):
        raise UserError(f"`classes={text}`: '' is not a class: {hint}", status=2)
    names = [class_name.normalize(name, f"`classes={text}`") for name in text.split(",")]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"`classes={text}`: {twice!r} appears twice: {hint}", status=2)
    return tuple(names)


def order(found: Collection[str], named: tuple[str, ...]) -> tuple[str, ...]:
    """Return the classes in the order of their indices.

    Args:
        found: the labels of all images.
        named: all classes, from `parse`, also such as have no image; () sorts the labels, by value
            if all of them are numbers.

    Raises:
        UserError: `named` lacks a label.
    """
    found = set(found)
    missing = sorted(found.difference(named))
    if named and missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UserError(
            f"`classes={','.join(named)}` lacks the images' class {missing[0]!r}{more}: name every"
            " class, or leave those images out by `exclude`"
        )
    if named:
        return named
    if all(_NUMBER.fullmatch(name) for name in found):
        return tuple(sorted(found, key=lambda name: (Decimal(name), name)))
    return tuple(sorted(found))


def remarks(classes: tuple[str, ...], counts: Mapping[str, int]) -> list[str]:
    """Return what a person should know about the classes, one line for each remark.

    Args:
        classes: in their order.
        counts: the number of images of each class that has any.
    """
    said = []
    empty = [name for name in classes if not counts.get(name)]
    if empty:
        said.append(f"no image is of class {_some(empty)}, which --classes names")
    numbers = [Decimal(name) for name in classes if _NUMBER.fullmatch(name)]
    if len(numbers) == len(classes) and numbers != list(range(len(classes))):
        said.append(
            f"the classes are numbers, but their indices are others: {classes[0]!r} has index 0,"
            f" {classes[-1]!r} index {len(classes) - 1}"
        )
    return said


def alike(counts: Mapping[str, int]) -> str:
    """Return a warning about classes whose names look alike, with their counts; "" for none."""
    groups = collections.defaultdict(list)
    for name in sorted(counts):
        groups[_look(name)].append(name)
    same = [names for names in groups.values() if len(names) > 1]
    if not same:
        return ""
    shown = "; ".join(
        " and ".join(f"{name!r} {counts[name]}" for name in names) for names in same[:_SHOWN]
    )
    more = f"; and {len(same) - _SHOWN} more" if len(same) > _SHOWN else ""
    are = "class is" if len(same) == 1 else "classes are"
    return (
        f"{len(same)} {are} written in several ways ({shown}{more}): rename the folders or"
        " the labels to join them; --classes with all names keeps them apart without this warning"
    )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more


def _look(name: str) -> object:
    """Return what is equal for names that people take for one: Hot_Dog and "hot dog", 1 and 01."""
    if _NUMBER.fullmatch(name):
        return Decimal(name)
    text = unicodedata.normalize("NFKC", name).casefold()
    return re.sub(r"[\s_-]+", " ", text).strip()
