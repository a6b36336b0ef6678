"""Read the label of a list's row: one class, or several as in "circle|red" or ["circle", "red"].

Several classes are understood where a person asks for them, where a label is a JSON array of
several or none, or where `|` plainly joins several: each part of each joined label is also in
another label. Where some are not, or where this holds for another separator, both readings are
shown, and a person chooses.
"""

import collections
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tfpipe.core.errors import UserError
from tfpipe.records import label_set
from tfpipe.sources import class_name, list_columns, readings
from tfpipe.sources.list_columns import Columns
from tfpipe.sources.text_table import BadRow

_USUAL, _OTHERS = "|", (",", ";", " ")  # separators of classes


def are_sets(cells: Sequence[Any], columns: Columns) -> bool:
    """Return whether the labels of a list may have several classes, or none.

    Args:
        cells: of the label column, one of each row.
        columns: how a person asks for the labels to be understood.

    Raises:
        UserError: both readings are possible.
    """
    if columns.many is not None:
        return columns.many
    if any(isinstance(cell, list) and len(cell) != 1 for cell in cells):
        return True
    texts = collections.Counter(filter(None, map(_text, cells)))
    given = columns.separator != _USUAL
    joined = _joined(texts, columns.separator)
    if joined and (given or _is_plain(texts, joined, columns.separator)):
        return True
    if joined:
        raise _question(texts, joined, columns.separator)
    if given:
        raise UserError(f"no label holds `label_separator={columns.separator}`: give another")
    for separator in _OTHERS:
        joined = _joined(texts, separator)
        fewer = len(_by_part(texts, separator)) < len(texts)
        if joined and fewer and _is_plain(texts, joined, separator):
            raise _question(texts, joined, separator)
    return False


def _joined(texts: Iterable[str], separator: str) -> list[str]:
    """Return the labels that may join several classes."""
    return [text for text in texts if separator in text]


def _is_plain(texts: Iterable[str], joined: Iterable[str], separator: str) -> bool:
    """Return whether each part of each joined label is also in another label."""
    holders = collections.Counter(part for text in texts for part in set(_parts(text, separator)))
    return all(part and holders[part] > 1 for text in joined for part in _parts(text, separator))


def _by_part(texts: Mapping[str, int], separator: str) -> collections.Counter[str]:
    """Return the number of images by class, if labels join several."""
    counts: collections.Counter[str] = collections.Counter()
    for text, images in texts.items():
        counts.update({part or "(empty)": images for part in _parts(text, separator)})
    return counts


def _question(texts: Mapping[str, int], joined: Sequence[str], separator: str) -> UserError:
    """Return the error for labels with two readings."""
    count = sum(texts[text] for text in joined)
    several = "`multi_label`" if separator == _USUAL else f"`label_separator={separator}`"
    return UserError(
        f"{count:,} labels hold {separator!r}, such as {joined[0]!r}, which can be read in two"
        f" ways: {several} reads {readings.describe(_by_part(texts, separator))};"
        f" `multi_label=false` reads {readings.describe(texts)}: give one of these"
    )


def read(cell: Any, path: str, *, are_sets: bool, separator: str) -> str:
    """Return the label of a row, as of `label_set`.

    Args:
        cell: of the label column.
        path: of the row, for messages.
        are_sets: from the function of this name.
        separator: joins the classes of an image.

    Raises:
        BadRow: it is no label.
    """
    if not are_sets:
        return _one(cell, path)
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return label_set.NONE
    parts = cell if isinstance(cell, list) else _parts(_text(cell), separator)
    if not isinstance(cell, list) and parts == [""]:
        raise BadRow(f"the label is a {type(cell).__name__}: write names, such as 'cat|dog'")
    if any(not list_columns.to_text(part).strip() for part in parts):
        raise BadRow(
            f"the label {cell!r} has an empty part: write names, joined by {separator!r}, or"
            " nothing for none of the classes"
        )
    return label_set.join(_clean(list_columns.to_text(part), path) for part in parts)


def _one(cell: Any, path: str) -> str:
    if isinstance(cell, list) and len(cell) != 1:
        raise BadRow(
            f"the label is an array of {len(cell)}: give one name, or `multi_label` for several"
        )
    cell = cell[0] if isinstance(cell, list) else cell
    label = list_columns.to_text(cell)
    if cell is not None and not isinstance(cell, str) and not label:
        raise BadRow(f"the label is a {type(cell).__name__}: write a name, such as 'cat'")
    if not label.strip():
        raise BadRow(
            "no label: write a name, such as 'cat', or remove the row; with `multi_label` it means"
            " none of the classes"
        )
    return _clean(label, path)


def _clean(name: str, path: str) -> str:
    try:
        return class_name.normalize(name, repr(path))
    except UserError as error:
        raise BadRow(f"label of {error}") from None


def _text(cell: Any) -> str:
    if isinstance(cell, list) and len(cell) == 1:
        cell = cell[0]
    return list_columns.to_text(cell).strip()


def _parts(text: str, separator: str) -> list[str]:
    return [part.strip() for part in text.split(separator)]
