"""Find the columns of a list: the path, the label, the split and the group of each file.

A column that a person names counts. Else the path is the column whose values are files; where
several are, the one with a usual name. The label is a column with a usual name, or the only one
that is left. Two candidates are an error.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from tfpipe.core.errors import UserError
from tfpipe.sources import split_name
from tfpipe.sources.member import is_image_name
from tfpipe.sources.text_table import BadRow, ParsedTable, TableRow

# Returns the names of the files that a path may mean: none, one, or several.
Finder = Callable[[str], Sequence[str]]

# Usual names, in lower case and without other characters, so that File_Name is filename.
_PATHS = (
    *("path", "filename", "filepath", "file", "fname", "image", "imagepath", "imagefile"),
    *("imagefilename", "imagefilepath", "imagename", "img", "imgpath", "imgname", "imgfile"),
    *("picture", "photo"),
)
_IDS = ("id", "imageid", "imgid", "photoid", "fileid", "uuid", "key", "name")
_CLASSES = (
    *("label", "labels", "class", "classname", "classlabel", "category", "categoryname"),
    *("tags", "classes", "categories"),
    *("labelname", "target", "y", "tag", "breed", "species", "emotion", "expression", "variety"),
    *("diagnosis", "dx", "disease", "genre", "style", "type"),
)
_SUBSETS = ("split", "subset", "partition", "set")

_SAMPLE = 100  # rows that decide whether a column names files


class Columns(NamedTuple):
    """The columns that a person names, each "" to be found, and how labels are understood.

    Attributes:
        path: names the files.
        label: the class of each file.
        split: the split of each file.
        group: files with equal values stay in one split; a list may lack this column, and "" means
            that there are no groups.
        many: whether an image may have several classes, or none; None to decide by the labels.
        separator: joins the classes of an image in its label.
    """

    path: str = ""
    label: str = ""
    split: str = ""
    group: str = ""
    many: bool | None = None
    separator: str = "|"


FOUND = Columns()  # no column is named, so all are found


class ListColumns(NamedTuple):
    """The columns of a list.

    Attributes:
        names: of all columns.
        rows: the rows without the header.
        path: position of the column of the paths.
        label, split, group: positions, or None.
        find: finds the files that a cell of the path column may mean.
        ignored: what a person may expect, but is not so, for a message; "" for nothing.
    """

    names: tuple[str, ...]
    rows: Sequence[TableRow]
    path: int
    label: int | None
    split: int | None
    group: int | None
    find: Finder
    ignored: str

    def __str__(self) -> str:
        """Return what is understood, such as "'image' is the path, 'emotion' the label"."""
        roles = ((self.label, "label"), (self.split, "split"), (self.group, "group"))
        more = "".join(f", {self.names[at]!r} the {what}" for at, what in roles if at is not None)
        return f"{self.names[self.path]!r} is the path{more}{self.ignored}"


def choose(
    table: ParsedTable, given: Columns, finders: Sequence[Finder], *, labelled: bool
) -> ListColumns:
    """Find the columns of a list.

    Args:
        table: the list.
        given: the columns that a person names.
        finders: ways to find a file by a cell; the first that finds half of the sample is used.
        labelled: whether to look for a label, which may be missing.

    Raises:
        UserError: a named column is missing, or a column fits twice or not at all.
        BadRow: two columns have one name.
    """
    if not table.rows:
        raise BadRow("the list is empty: write the columns path and label", 1)
    names, rows = _header(table, finders)
    if not rows:
        raise BadRow("the list has a header, but no rows", table.rows[0].line)
    line = rows[0].line
    group = _named(names, given.group, line) if given.group else None
    path, find = _path(names, rows, given.path, finders, line)
    split, ignored = _split(names, rows, given.split)
    taken = {path, split, group}
    label = _label(names, rows, given.label, taken) if labelled else None
    return ListColumns(names, rows, path, label, split, group, find, ignored)


def to_text(cell: Any) -> str:
    """Return a cell as text; "" if it is neither text nor a whole number."""
    if isinstance(cell, int) and not isinstance(cell, bool):
        return str(cell)
    return cell if isinstance(cell, str) else ""


def _header(
    table: ParsedTable, finders: Sequence[Finder]
) -> tuple[tuple[str, ...], Sequence[TableRow]]:
    """Return the names of the columns and the rows without the header."""
    if table.columns is not None:
        return table.columns, table.rows
    first = [to_text(cell).strip() for cell in table.rows[0].cells]
    known = any(_simple(cell) in (*_PATHS, *_IDS, *_CLASSES) for cell in first)
    if any(map(is_image_name, first)) or (not known and any(map(finders[-1], first))):
        return tuple(str(number + 1) for number in range(len(first))), table.rows
    return tuple(first), table.rows[1:]


def _path(
    names: Sequence[str], rows: Sequence[TableRow], given: str, finders: Sequence[Finder], line: int
) -> tuple[int, Finder]:
    sample = rows[:_SAMPLE]
    simple = [_simple(name) for name in names]
    known = {*_PATHS, *_IDS, *_CLASSES, *_SUBSETS, ""}
    candidates = [
        [c for c, name in enumerate(simple) if name in _PATHS],
        [c for c, name in enumerate(simple) if name in _IDS],
        [c for c, name in enumerate(simple) if name not in known],
    ]
    if given:
        candidates = [[_wanted(names, given, "path", line)]]
    for columns in candidates:
        for find in finders:
            fits = [c for c in columns if _counts(sample, c, find) * 2 >= len(sample)]
            if fits:
                return _only(names, _distinct(sample, fits, find), "path"), find
    # The files are missing, which a later error says; a usual name is enough.
    for columns in [*candidates[:2], [0] if len(names) == 1 else []]:
        if columns:
            return _only(names, columns, "path"), finders[-1]
    raise UserError(
        f"no column names files that are here, as a path, by the file name or without its ending:"
        f" {_found(names)}: give `path_column`"
    )


def _counts(sample: Iterable[TableRow], column: int, find: Finder) -> int:
    return sum(bool(text) and bool(find(text)) for text in _texts(sample, column))


def _distinct(rows: Sequence[TableRow], columns: Sequence[int], find: Finder) -> Sequence[int]:
    """Return the first column if all of them name the same files, else all of them."""
    files = [[find(text) for text in _texts(rows, column)] for column in columns]
    return columns[:1] if files.count(files[0]) == len(files) else columns


def _texts(rows: Iterable[TableRow], column: int) -> Iterable[str]:
    return (to_text(row.cells[column]).strip() for row in rows)


def _label(
    names: Sequence[str], rows: Sequence[TableRow], given: str, taken: set[int | None]
) -> int | None:
    if given:
        return _wanted(names, given, "label", rows[0].line)
    left = [c for c, name in enumerate(names) if c not in taken and name]
    usual = [c for c in left if _simple(names[c]) in _CLASSES]
    repeated = [c for c in left if _repeats(rows, c)]
    others = [c for c in left if _simple(names[c]) not in _IDS]
    left = usual or [c for c in others if c in repeated or len(others) == 1] or others or repeated
    return _only(names, left, "label") if left else None


def _repeats(rows: Sequence[TableRow], column: int) -> bool:
    """Return whether values repeat, as those of classes do."""
    seen: set[str] = set()
    return len(rows) < 3 or any(text in seen or seen.add(text) for text in _texts(rows, column))


def _split(names: Sequence[str], rows: Sequence[TableRow], given: str) -> tuple[int | None, str]:
    """Return the column of the splits, and what is ignored."""
    columns = [c for c, name in enumerate(names) if _simple(name) in _SUBSETS]
    if given:
        columns = [_wanted(names, given, "split", rows[0].line)]
    ignored = ""
    for column in columns:
        odd = next((row for row in rows if split_of(row.cells[column]) is None), None)
        if odd is None and any(_texts(rows, column)):
            return column, ""
        value = odd and str(odd.cells[column])[:40]
        if given and odd:
            raise BadRow(
                f"{value!r} in column {given!r} is no split: write one of"
                f" {', '.join(split_name.ALL)}, or nothing",
                odd.line,
            )
        if odd:
            ignored += f", {names[column]!r} is ignored, because {value!r} is no split"
    return None, ignored


def split_of(cell: Any) -> str | None:
    """Return the split that a cell names, "" for none; None if it is no split."""
    text = "" if cell is None else str(cell).strip()
    return (split_name.recognize(text) or None) if text else ""


def _only(names: Sequence[str], columns: Sequence[int], role: str) -> int:
    """Return the only column, or the one whose name is the role's; raise UserError for several."""
    exact = [column for column in columns if names[column].strip().lower() == role]
    columns = exact if len(exact) == 1 else columns
    if len(columns) == 1:
        return columns[0]
    some = " or ".join(repr(names[column]) for column in columns[:5])
    raise UserError(f"the {role} may be {some}: {_found(names)}: give `{role}_column`")


def _wanted(names: Sequence[str], given: str, role: str, line: int) -> int:
    position = _named(names, given, line)
    if position is None:
        raise UserError(f"`{role}_column={given}` is not there: {_found(names)}")
    return position


def _named(names: Sequence[str], given: str, line: int) -> int | None:
    """Return the position of a column, in any case if no other name is closer."""
    exact = [c for c, name in enumerate(names) if name == given]
    found = exact or [c for c, name in enumerate(names) if name.lower() == given.lower()]
    if len(found) > 1:
        raise BadRow(f"{len(found)} columns are called {given!r}: rename all but one", line)
    return found[0] if found else None


def _found(names: Sequence[str]) -> str:
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f"the columns are {', '.join(map(repr, names[:10]))}{more}"


def _simple(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.lower())
