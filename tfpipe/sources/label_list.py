"""Read a list of files and their labels: CSV with a header, or JSONL.

    path,label,photographer             {"path": "images/1.jpg", "label": "cat"}
    images/1.jpg,cat,ann                {"path": "/data/2.jpg", "label": "dog", "group": "7"}
    /data/2.jpg,dog,bob

Both are UTF-8. One more column or key may name the group of a file. All files of a group, such as
the photos by ann, stay in one split. Other columns are ignored.
"""

import csv
import functools
import io
import json
import pathlib
from collections.abc import Iterator
from typing import NamedTuple, TextIO

from tfpipe.core import remote, storage
from tfpipe.core.errors import UserError

SUFFIXES = (".csv", ".jsonl")

# Two million lines of 100 bytes. Bounds the memory too.
MAX_BYTES = 256 * 2**20

_MAX_NAME = 200  # characters of a label or a group
_CSV_FORM = "the first line must name the columns path and label, such as 'path,label'"
_JSONL_FORM = 'write {"path": "images/1.jpg", "label": "cat"} on one line'


class Row(NamedTuple):
    """One line of a list.

    Attributes:
        line: its number, from 1.
        path: path without "./" and repeated "/"; or a URL as written.
        label: name of the class, without surrounding space.
        group: name of the group, without surrounding space; "" for none.
    """

    line: int
    path: str
    label: str
    group: str


class _Bad(Exception):  # noqa: N818 (always turned into a UserError)
    """An error in one line; `line` is None for the line that `read` checks."""

    def __init__(self, message: str, line: int | None = None):
        super().__init__(message)
        self.line = line


def read(path: str, group_column: str = "", *, labelled: bool = True) -> list[Row]:
    """Read a list: JSONL if the path ends in ".jsonl", CSV otherwise.

    Args:
        path: path or URL of the list.
        group_column: column or key of the groups, which a list may lack; "" for no groups.
        labelled: whether every file must have a label; otherwise a missing label is "".

    Raises:
        UserError: the list is unreadable, too large or not UTF-8, a line has another form, or a
            path appears with two labels or groups.
    """
    needed = ("path", "label") if labelled else ("path",)
    is_jsonl = path.lower().endswith(".jsonl")
    parse = _jsonl if is_jsonl else functools.partial(_csv, needed=needed)
    rows: list[Row] = []
    first: dict[str, Row] = {}
    line = 0
    try:
        if _size(path) > MAX_BYTES:
            raise UserError(
                f"{path} has more than {MAX_BYTES // 2**20} MiB, the limit of a list: divide it,"
                " and give `source` once for each part"
            )
        # -sig skips the byte order mark that spreadsheets write.
        with io.TextIOWrapper(storage.open_to_read(path), encoding="utf-8-sig", newline="") as file:
            for line, name, label, group in parse(file, group_column):
                label = _checked_label(label) if labelled or label else ""
                row = Row(line, _checked_path(name), label, _checked_group(group))
                there = first.setdefault(row.path, row)
                for value, other in ((row.label, there.label), (row.group, there.group)):
                    if value != other:
                        raise _Bad(
                            f"{row.path!r} is {value!r} here and {other!r} in line {there.line};"
                            " remove one of them"
                        )
                rows.append(row)
    except _Bad as bad:
        raise UserError(f"{path}, line {bad.line or line}: {bad}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason}): save it as UTF-8") from None
    except (OSError, ValueError) as error:  # ValueError: a path that no file can have
        detail = getattr(error, "strerror", None) or error
        raise UserError(f"{path!r} cannot be read ({detail}): name another list") from None
    return rows


def _csv(
    file: TextIO, group_column: str, needed: tuple[str, ...]
) -> Iterator[tuple[int, object, object, object]]:
    reader = csv.reader(file, strict=True)
    header: list[str] = []
    try:
        for cells in reader:
            if not cells:  # an empty line
                continue
            if not header:
                header = [cell.strip() for cell in cells]
                _check_header(header, group_column, needed, reader.line_num)
                continue
            if len(cells) != len(header):
                raise _Bad(
                    f"{len(cells)} cells, but the first line has {len(header)}: quote a cell that"
                    ' contains a comma, such as "a,b.jpg"',
                    reader.line_num,
                )
            row = dict(zip(header, cells, strict=True))
            group = row.get(group_column, "") if group_column else ""
            yield reader.line_num, row["path"], row.get("label", ""), group
    except csv.Error as error:
        raise _Bad(f"not CSV ({error}): {_CSV_FORM}", reader.line_num) from None
    if not header:
        raise _Bad(f"the list is empty: {_CSV_FORM}", 1)


def _check_header(header: list[str], group_column: str, needed: tuple[str, ...], line: int) -> None:
    for name in ("path", "label"):
        if header.count(name) > 1 or (name in needed and name not in header):
            raise _Bad(f"{header.count(name)} columns are called {name!r}: {_CSV_FORM}", line)
    if group_column and header.count(group_column) > 1:
        raise _Bad(
            f"{header.count(group_column)} columns are called {group_column!r}, the column of the"
            " groups: rename all but one",
            line,
        )


def _jsonl(file: TextIO, group_column: str) -> Iterator[tuple[int, object, object, object]]:
    for line, text in enumerate(file, start=1):
        if not text.strip():
            continue
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            raise _Bad(f"not JSON: {_JSONL_FORM}", line) from None
        if not isinstance(value, dict):
            raise _Bad(f"not a JSON object: {_JSONL_FORM}", line)
        group = value.get(group_column) if group_column else None
        yield line, value.get("path", ""), value.get("label", ""), "" if group is None else group


def _size(path: str) -> int:
    try:
        return storage.size(path)  # refuses a pipe, which would block
    except (OSError, ValueError):  # ValueError: a path that no file can have
        raise UserError(
            f"{path!r} is not a file: name a list with the columns path and label"
        ) from None


def _checked_path(path: object) -> str:
    if not isinstance(path, str) or not path.strip():
        raise _Bad("no path: write an absolute path, or one relative to the list's folder")
    if "\0" in path or not _is_utf8(path):
        raise _Bad(f"{path[:200]!r} is not a valid path")
    return path if remote.is_remote(path) else str(pathlib.PurePosixPath(path))


def _checked_label(label: object) -> str:
    allowed = f"write a name of at most {_MAX_NAME} printable characters, such as 'cat'"
    if not isinstance(label, str):
        raise _Bad(f"the label is a {type(label).__name__}, not a string: {allowed}")
    label = label.strip()
    if not label:
        raise _Bad("no label: write a name, such as 'cat', or remove the line")
    if not label.isprintable() or len(label) > _MAX_NAME:
        raise _Bad(f"{label[:40]!r} is not a label: {allowed}")
    return label


def _checked_group(group: object) -> str:
    allowed = f"write a number, a name of at most {_MAX_NAME} printable characters, or nothing"
    if isinstance(group, int) and not isinstance(group, bool):
        group = str(group)
    if not isinstance(group, str):
        raise _Bad(f"the group is a {type(group).__name__}: {allowed}")
    group = group.strip()
    if not group.isprintable() or len(group) > _MAX_NAME:
        raise _Bad(f"{group[:40]!r} is not a group: {allowed}")
    return group


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
