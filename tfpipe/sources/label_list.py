"""Read a list of files and their labels.

    path,label,photographer             {"path": "images/1.jpg", "label": "cat"}
    images/1.jpg,cat,ann                {"path": "/data/2.jpg", "label": "dog", "group": "7"}
    /data/2.jpg,dog,bob

`text_table` reads every usual form, `list_columns` finds the columns. All files of a group, such as
the photos by ann, stay in one split. Other columns are ignored.
"""

import array
import collections
import hashlib
import os
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from tfpipe.core import remote, storage, terminal
from tfpipe.core.errors import UserError
from tfpipe.core.packed_texts import PackedTexts
from tfpipe.records import label_set
from tfpipe.sources import label_cells, list_columns, split_name, text_table
from tfpipe.sources.list_columns import Columns, Finder, ListColumns
from tfpipe.sources.path_index import PathIndex, absolute
from tfpipe.sources.source import Annotation
from tfpipe.sources.text_index import TextIndex
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
        annotation: what the row says about its file; its label is as of `label_set`.
    """

    line: int
    path: str
    file: str
    annotation: Annotation


class ListRows(Sequence[Row]):
    """The rows of a list, which may be millions: without objects, in a third of the memory.

    Attributes:
        annotations: those of the rows; there are far fewer, so equal ones are one object.
    """

    def __init__(self):
        self._lines, self._paths, self._files = array.array("Q"), PackedTexts(), PackedTexts()
        self.annotations: list[Annotation] = []
        self._shared: dict[Annotation, Annotation] = {}

    def append(self, row: Row) -> None:
        """Add a row."""
        self._lines.append(row.line)
        self._paths.append(row.path)
        self._files.append(row.file)
        self.annotations.append(self._shared.setdefault(row.annotation, row.annotation))

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> Row:
        annotation = self.annotations[index]
        return Row(self._lines[index], self._paths[index], self._files[index], annotation)

    def __iter__(self) -> Iterator[Row]:
        return map(Row, self._lines, self._paths, self._files, self.annotations)


class LabelList(NamedTuple):
    """A list.

    Attributes:
        path: of the list.
        rows: its rows.
        columns: how its columns are understood, for a message.
        unit: what messages call a row.
    """

    path: str
    rows: ListRows
    columns: str
    unit: str

    @property
    def understood(self) -> str:
        """One line that says how the list is understood."""
        counts = collections.Counter(each.split for each in self.rows.annotations)
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
        are_sets = found.label is not None and label_cells.are_sets(
            [_shared(row.cells[found.label]) for row in found.rows], columns
        )
        understood = (_row(row, found, are_sets, columns.separator) for row in found.rows)
        rows = ListRows()
        for row in _with_joined_labels([*understood]) if columns.many else understood:
            rows.append(row)
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
    index = PathIndex(files, os.path.dirname(absolute(path)))
    found = read(path, columns, [lambda cell: [files[i][1] for i in index.find(cell)]])
    annotations: list[Annotation | None] = [None] * len(files)
    places = TextIndex(place for _, place in files)
    for row in found.rows:
        for i in places.candidates(row.file):
            if files[i][1] == row.file:
                annotations[i] = row.annotation
    if not any(each.label for each in found.rows.annotations):
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
    return Row(row.line, path, files[0] if files else "", Annotation(label, group, split))


def _shared(cell: Any) -> Any:
    """Return the cell, the same object for equal texts: there are few labels in many rows."""
    return sys.intern(cell) if type(cell) is str else cell


def _with_joined_labels(rows: Sequence[Row]) -> Iterator[Row]:
    """Give all rows of a file the classes of all of them."""
    classes: dict[str, set[str]] = {}
    for row in rows:
        names = label_set.names(row.annotation.label)
        classes.setdefault(row.file or row.path, set()).update(names)
    for row in rows:
        said = row.annotation
        if said.label:
            said = said._replace(label=label_set.join(classes[row.file or row.path]))
        yield row._replace(annotation=said)


def _check_agreement(rows: ListRows, unit: str) -> None:
    first: dict[str, Row] = {}
    for row in map(rows.__getitem__, TextIndex(row.file or row.path for row in rows).repeated()):
        there = first.setdefault(row.file or row.path, row)
        for value, other in zip(row.annotation, there.annotation, strict=True):
            if value != other:
                several = "" if value != row.annotation.label else ", or join them by `multi_label`"
                raise BadRow(
                    f"{row.path!r} is {label_set.shown(value)!r} here and"
                    f" {label_set.shown(other)!r} in {unit} {there.line}; remove one of"
                    f" them{several}",
                    row.line,
                )


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
