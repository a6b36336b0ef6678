"""Read a list of files and their labels.

    path,label,photographer             {"path": "images/1.jpg", "label": "cat"}
    images/1.jpg,cat,ann                {"path": "/data/2.jpg", "label": "dog", "group": "7"}
    /data/2.jpg,dog,bob

`text_table` reads every usual form, `list_columns` finds the columns. All files of a group, such as
the photos by ann, stay in one split. Other columns are ignored.
"""

import collections
import hashlib
import os
import pathlib
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from tfpipe.core import remote, storage, terminal
from tfpipe.core.errors import UserError
from tfpipe.records import label_set
from tfpipe.sources import label_cells, list_columns, split_name, text_table
from tfpipe.sources.list_columns import Columns, Finder, ListColumns
from tfpipe.sources.path_index import PathIndex
from tfpipe.sources.source import Annotation
from tfpipe.sources.text_table import BadRow, TableRow

# Endings of files that may be lists, given as a source.
SUFFIXES = (".csv", ".tsv", ".tab", ".txt", ".json", ".jsonl", ".ndjson")

_MAX_NAME = 200  # characters of a group


class Row(NamedTuple):
    """One row of a list.

    Attributes:
        line: its line or place, from 1.
        path: path without "./" and repeated "/"; or a URL as written.
        file: the file that was found for the path; "" if there is none.
        label: as of `label_set`; "" for none.
        group: name of the group, without surrounding space; "" for none.
        split: "train", "val", "test", or "" for none.
    """

    line: int
    path: str
    file: str
    label: str
    group: str
    split: str

    @property
    def annotation(self) -> Annotation:
        """What the row says about its file."""
        return Annotation(self.label, self.group, self.split)


class LabelList(NamedTuple):
    """A list.

    Attributes:
        path: of the list.
        rows: its rows.
        columns: how its columns are understood, for a message.
        unit: what messages call a row.
    """

    path: str
    rows: list[Row]
    columns: str
    unit: str

    @property
    def understood(self) -> str:
        """One line that says how the list is understood."""
        counts = collections.Counter(row.split for row in self.rows)
        splits = ", ".join(f"{split} {counts[split]}" for split in split_name.ALL if counts[split])
        there = sum(bool(row.file) for row in self.rows)
        return (
            f"list {self.path}: {self.columns}{f' ({splits})' if splits else ''};"
            f" {there:,} of {len(self.rows):,} files are here"
        )


def read(
    path: str, columns: Columns, finders: Sequence[Finder], *, labelled: bool = True
) -> LabelList:
    """Read a list.

    Args:
        path: path or URL of the list.
        columns: the columns that a person names.
        finders: ways to find a file by a cell, see `list_columns.choose`.
        labelled: whether to read labels; then every file must have one, or the list has none.

    Raises:
        UserError: the list is unreadable, a row has another form, a path may mean two files, or a
            file appears with two labels, groups or splits.
    """
    unit = "line"
    try:
        table = text_table.read(path)
        unit = table.unit
        found = list_columns.choose(table, columns, finders, labelled=labelled)
        del table
        rows: list = found.rows
        are_sets = found.label is not None and label_cells.are_sets(
            [row.cells[found.label] for row in rows], columns
        )
        for i, row in enumerate(rows):  # in place, because both forms of all rows take much memory
            rows[i] = _row(row, found, are_sets, columns.separator)
        if columns.many:
            _join_labels(rows)
        _check_agreement(rows, unit)
    except BadRow as bad:
        raise UserError(f"{path}, {bad.unit or unit} {bad.line}: {bad}") from None
    except UserError as error:
        message = str(error)
        raise UserError(message if path in message else f"{path}: {message}") from None
    return LabelList(path, rows, str(found), unit)


def annotate(
    path: str, files: Sequence[tuple[str, str]], columns: Columns
) -> list[Annotation | None]:
    """Return what a list says about files of other sources, and say how it is understood.

    Args:
        path: path or URL of the list.
        files: the name of each file in its source, and its path or URL.
        columns: the columns that a person names.

    Raises:
        UserError: the list has a fault, see `read`, or names none of the files.
    """
    index = PathIndex([(name, _absolute(place)) for name, place in files], _folder(path))
    found = read(path, columns, [lambda cell: [files[i][1] for i in index.find(cell)]])
    said = {row.file: row.annotation for row in found.rows if row.file}
    annotations = [said.get(place) for _, place in files]
    if not any(row.label for row in found.rows):
        raise UserError(f"{path}: no column is the label: {found.columns}: give `label_column`")
    if not any(annotations):
        where = f"none of the {len(files):,} images of `source`, such as {files[0][1]!r},"
        raise nothing_found(found, where, index)
    terminal.say(found.understood)
    return annotations


def nothing_found(found: LabelList, where: str, index: PathIndex) -> UserError:
    """Return the error for a list whose paths lead to no file.

    Args:
        found: the list, which has a row.
        where: what was searched, for the message.
        index: of the files that were searched.
    """
    path, first, count = found.path, found.rows[0], len(found.rows)
    more = f" nor at the other {count - 1:,} paths" if count > 1 else ""
    message = (
        f"{path}, {found.unit} {first.line}: no file is at {first.path!r}{more}, and {where} fits"
    )
    tail = index.tail(first.path)
    if not tail:
        return UserError(
            f"{message} by its name: write paths relative to the list's folder, or give the folder"
            f" of the images as `source` with `labels=csv:{path}`, or name another `path_column`"
        )
    head = first.path.strip()[: -len(tail)]
    return UserError(f"{message}; only {tail!r} is here: remove {head!r} from the paths")


def digest(path: str) -> str:
    """Return the SHA-256 of a list, in hexadecimal digits; raise UserError if it is unreadable."""
    try:
        data = storage.read_whole(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path!r} cannot be read ({error}): name another list") from None
    if data is None:
        raise UserError(f"{path!r} does not exist: name a list of files and labels")
    return hashlib.sha256(data).hexdigest()


def _row(row: TableRow, found: ListColumns, are_sets: bool, separator: str) -> Row:
    try:
        path = _checked_path(row.cells[found.path])
        files = found.find(path)
        if len(files) > 1:
            raise BadRow(
                f"{path!r} may be {files[0]!r} or {files[1]!r}: write the folder too, or give only"
                " the right folder as `source`, and this list by `labels`"
            )
        label = ""
        if found.label is not None:
            cell = row.cells[found.label]
            label = label_cells.read(cell, path, are_sets=are_sets, separator=separator)
        group = "" if found.group is None else _checked_group(row.cells[found.group])
        split = "" if found.split is None else list_columns.split_of(row.cells[found.split]) or ""
    except BadRow as bad:
        raise BadRow(str(bad), row.line) from None
    file = files[0] if files else ""
    # Equal strings become one object: a list may have millions of rows.
    return Row(
        row.line, path, path if file == path else file, *map(sys.intern, (label, group, split))
    )


def _join_labels(rows: list[Row]) -> None:
    """Give all rows of a file the classes of all of them."""
    classes: dict[str, set[str]] = {}
    for row in rows:
        classes.setdefault(row.file or row.path, set()).update(label_set.names(row.label))
    for i, row in enumerate(rows):
        if row.label:
            label = sys.intern(label_set.join(classes[row.file or row.path]))
            rows[i] = row._replace(label=label)


def _check_agreement(rows: Iterable[Row], unit: str) -> None:
    first: dict[str, Row] = {}
    for row in rows:
        there = first.setdefault(row.file or row.path, row)
        for value, other in zip(row.annotation, there.annotation, strict=True):
            if value != other:
                several = "" if value != row.label else ", or join them by `multi_label`"
                raise BadRow(
                    f"{row.path!r} is {label_set.shown(value)!r} here and"
                    f" {label_set.shown(other)!r} in {unit} {there.line}; remove one of"
                    f" them{several}",
                    row.line,
                )


def _folder(path: str) -> str:
    """Return the absolute path, or the URL, of the folder of a list."""
    return os.path.dirname(_absolute(path))


def _absolute(path: str) -> str:
    return path if remote.is_remote(path) else os.path.abspath(path)


def _checked_path(cell: Any) -> str:
    path = list_columns.to_text(cell)
    if not path.strip():
        raise BadRow("no path: write an absolute path, or one relative to the list's folder")
    if "\0" in path or not _is_utf8(path):
        raise BadRow(f"{path[:200]!r} is not a valid path")
    if remote.is_remote(path) or not ("./" in path or "//" in path or path.endswith("/")):
        return path  # the common case, in a tenth of the time
    return str(pathlib.PurePosixPath(path))


def _checked_group(cell: Any) -> str:
    allowed = f"write a number, a name of at most {_MAX_NAME} printable characters, or nothing"
    group = "" if cell is None else list_columns.to_text(cell).strip()
    if cell is not None and not isinstance(cell, str) and not group:
        raise BadRow(f"the group is a {type(cell).__name__}: {allowed}")
    if not group.isprintable() or len(group) > _MAX_NAME:
        raise BadRow(f"{group[:40]!r} is not a group: {allowed}")
    return group


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
