"""A list of files and their labels: CSV with a header, or JSONL.

    path,label,photographer             {"path": "images/1.jpg", "label": "cat"}
    images/1.jpg,cat,ann                {"path": "/data/2.jpg", "label": "dog", "group": "7"}
    /data/2.jpg,dog,bob

Both are UTF-8. One more column, or key, may name the group of a file: what must not be parted by
the splits, as all photographs by ann. Others are allowed and ignored.
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

# Two million lines of 100 bytes; it bounds the memory too.
MAX_BYTES = 256 * 2**20

_MAX_NAME = 200  # characters of a label or a group
_CSV_FORM = "the first line names the columns, path and label among them, as in 'path,label'"
_JSONL_FORM = 'write {"path": "images/1.jpg", "label": "cat"} on one line'


class Row(NamedTuple):
    """One line.

    Attributes:
        line: its number, from 1.
        path: as written, less "./" and doubled "/" unless it is a URL.
        label: the name of its class, less space around it.
        group: what it shares with files that stay with it, less space around it; "" for none.
    """

    line: int
    path: str
    label: str
    group: str


class _Bad(Exception):  # noqa: N818 (always turned into a UserError)
    """What is wrong with the line at hand."""


def read(path: str, group_column: str = "", *, labelled: bool = True) -> list[Row]:
    """Reads a list, JSONL if its name ends so and CSV if not.

    Args:
        path: of the list.
        group_column: the column, or key, of the groups; a list may lack it, and "" is none.
        labelled: whether each file must have a label; else it is "" where there is none.

    Raises:
        UserError: it is unreadable, too large or not UTF-8, a line has another form, or a path is
            there twice with two labels or groups.
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
                f"{path} has more than {MAX_BYTES // 2**20} MiB, the most of a list: divide it,"
                " and give --source once for each part"
            )
        # -sig: spreadsheets put a byte order mark in front.
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
    except _At as bad:
        raise UserError(f"{path}, line {bad.line}: {bad}") from None
    except _Bad as bad:
        raise UserError(f"{path}, line {line}: {bad}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason}): save it as UTF-8") from None
    except (OSError, ValueError) as error:  # ValueError: a path that no file can have
        detail = getattr(error, "strerror", None) or error
        raise UserError(f"{path!r} cannot be read ({detail}): name another list") from None
    return rows


class _At(Exception):  # noqa: N818 (always turned into a UserError)
    """What is wrong with a line that could not even be taken apart."""

    def __init__(self, line: int, message: str):
        super().__init__(message)
        self.line = line


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
                for name in ("path", "label"):
                    if header.count(name) != 1 and (name in needed or name in header):
                        raise _At(
                            reader.line_num,
                            f"{header.count(name)} columns are called {name!r}: {_CSV_FORM}",
                        )
                if group_column and header.count(group_column) > 1:
                    raise _At(
                        reader.line_num,
                        f"{header.count(group_column)} columns are called {group_column!r}, the"
                        " column of the groups: rename all but one",
                    )
                grouped = group_column != "" and group_column in header
            elif len(cells) != len(header):
                raise _At(
                    reader.line_num,
                    f"{len(cells)} cells, and the first line has {len(header)}: quote a cell that"
                    ' holds a comma, as in "a,b.jpg"',
                )
            else:
                yield (
                    reader.line_num,
                    cells[header.index("path")],
                    cells[header.index("label")] if "label" in header else "",
                    cells[header.index(group_column)] if grouped else "",
                )
    except csv.Error as error:
        raise _At(reader.line_num, f"not CSV ({error}): {_CSV_FORM}") from None
    if not header:
        raise _At(1, f"the list is empty: {_CSV_FORM}")


def _jsonl(file: TextIO, group_column: str) -> Iterator[tuple[int, object, object, object]]:
    for line, text in enumerate(file, start=1):
        if not text.strip():
            continue
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            raise _At(line, f"not JSON: {_JSONL_FORM}") from None
        if not isinstance(value, dict):
            raise _At(line, f"not a JSON object: {_JSONL_FORM}")
        group = value.get(group_column) if group_column else None
        yield line, value.get("path", ""), value.get("label", ""), "" if group is None else group


def _size(path: str) -> int:
    try:
        return storage.size(path)  # refuses what is no file: a FIFO would wait for a writer
    except (OSError, ValueError):  # ValueError: a path that no file can have
        raise UserError(
            f"{path!r} is no file: name a list with the columns path and label"
        ) from None


def _checked_path(path: object) -> str:
    if not isinstance(path, str) or not path.strip():
        raise _Bad("no path: write a file's path, relative to the list's folder or absolute")
    if "\0" in path or not _is_utf8(path):
        raise _Bad(f"no file can have the path {path[:200]!r}")
    return path if remote.is_remote(path) else str(pathlib.PurePosixPath(path))


def _checked_label(label: object) -> str:
    allowed = f"write a name of at most {_MAX_NAME} printable characters, as in 'cat'"
    if not isinstance(label, str):
        raise _Bad(f"the label is a {type(label).__name__}, not a string: {allowed}")
    label = label.strip()
    if not label:
        raise _Bad("no label: write a name, as in 'cat', or remove the line")
    if not label.isprintable() or len(label) > _MAX_NAME:
        raise _Bad(f"{label[:40]!r} is no label: {allowed}")
    return label


def _checked_group(group: object) -> str:
    allowed = f"write a number, or a name of at most {_MAX_NAME} printable characters, or nothing"
    if isinstance(group, int) and not isinstance(group, bool):
        group = str(group)
    if not isinstance(group, str):
        raise _Bad(f"the group is a {type(group).__name__}: {allowed}")
    group = group.strip()
    if not group.isprintable() or len(group) > _MAX_NAME:
        raise _Bad(f"{group[:40]!r} is no group: {allowed}")
    return group


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
