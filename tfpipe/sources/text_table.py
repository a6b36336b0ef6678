"""Read a table from a text file: separated cells, JSON, JSONL, or a name and a label a line.

    path;label         {"path": "1.jpg", "label": "cat"}      {"1.jpg": "cat",      1.jpg cat
    1.jpg;cat          {"path": "2.jpg", "label": "dog"}       "2.jpg": "dog"}      2.jpg dog
    2.jpg;dog

The contents decide the form, not the name of the file. A byte order mark decides the encoding.
"""

import array
import codecs
import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TextIO

from tfpipe.core import storage
from tfpipe.core.errors import UserError
from tfpipe.core.packed_texts import PackedTexts
from tfpipe.sources import foreign
from tfpipe.sources.member import is_image_name

# Two million lines of 100 bytes. Bounds the memory too.
MAX_BYTES = 256 * 2**20

_JSONL_SUFFIXES = (".jsonl", ".ndjson")
_SEPARATORS = ",;\t|"
# `photos/my cat.jpg big cat`: the path ends with its first ending, or else with its first word.
_PATH_AND_LABEL = re.compile(r"(.*?\.\w{2,5}|\S+)(?:\s+(.*))?")
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # begins as UTF-16 does, so it comes first
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_JSON_FORM = 'write {"path": "images/1.jpg", "label": "cat"} for each file'


class TableRow(NamedTuple):
    """One row of a table.

    Attributes:
        line: its line in the file, or its place in a JSON array, from 1.
        cells: the values of its columns; strings, or any JSON value; None where it has none.
    """

    line: int
    cells: tuple[Any, ...]


class TextRows(Sequence[TableRow]):
    """Rows of a table of texts: without objects, in a fifth of the memory; slices share it."""

    def __init__(self, lines: array.array, columns: Sequence[PackedTexts], places: range):
        """Take the lines and cells of all rows, and the places of those that count."""
        self._lines, self._columns, self._places = lines, columns, places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return TextRows(self._lines, self._columns, self._places[index])
        return self._row(self._places[index])

    def __iter__(self) -> Iterator[TableRow]:
        return map(self._row, self._places)

    def _row(self, place: int) -> TableRow:
        return TableRow(self._lines[place], tuple([column[place] for column in self._columns]))


class ParsedTable(NamedTuple):
    """The rows of a file.

    Attributes:
        columns: their names; None if the first row may hold the names.
        rows: all rows that are not empty.
        unit: what messages call a row.
    """

    columns: tuple[str, ...] | None
    rows: Sequence[TableRow]
    unit: str = "line"


class BadRow(Exception):  # noqa: N818 (always turned into a UserError)
    """An error in one row.

    Attributes:
        line: its line or place; None for the row that the reader knows.
        unit: what a row is called; "" for that of the table.
    """

    def __init__(self, message: str, line: int | None = None, unit: str = ""):
        super().__init__(message)
        self.line, self.unit = line, unit


def read(path: str) -> ParsedTable:
    """Read a table.

    Args:
        path: path or URL of the file.

    Raises:
        UserError: the file is unreadable, too large or no text.
        BadRow: a row has another form.
    """
    text = _text(path)
    if text.lstrip()[:1] in ("{", "["):
        return _json_table(text, path)
    return _separated(text)


def _text(path: str) -> str:
    try:
        size = storage.size(path)  # refuses a pipe, which would block
    except (OSError, ValueError):  # ValueError: a path that no file can have
        raise UserError(f"{path!r} is not a file: name a list of files and labels") from None
    if size > MAX_BYTES:
        raise UserError(
            f"{path} has more than {MAX_BYTES // 2**20} MiB, the limit of a list: divide it, and"
            " give `source` once for each part"
        )
    try:
        data = storage.read_whole(path) or b""
    except OSError as error:
        raise UserError(f"{path!r} cannot be read ({error.strerror}): name another list") from None
    if data.startswith(b"PK\3\4"):
        raise UserError(
            f"{path} is an Excel workbook or a zip archive, not text: save it as CSV in UTF-8"
        )
    if what := foreign.describe(path):
        raise UserError(f"{path} is {what}")
    try:
        return data.decode(_encoding(data))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}, line {line}, is not {error.encoding} text ({error.reason}): save the list as"
            " UTF-8"
        ) from None


def _encoding(data: bytes) -> str:
    marked = (name for mark, name in _BYTE_ORDER_MARKS.items() if data.startswith(mark))
    if data[1:2] == b"\0":  # UTF-16 without a mark: the first character is ASCII
        return next(marked, "utf-16-le")
    return next(marked, "utf-16-be" if data[:1] == b"\0" else "utf-8")


def _separated(text: str) -> ParsedTable:
    """Read lines of cells; the first line decides the separator."""
    if mark := re.match(r"\s*sep=(.)[\r\n]", text, re.IGNORECASE):  # Excel writes and reads it
        text = text.replace(mark[0], "\n", 1)
    first = next((line for line in _lines(text) if line.strip()), "")
    if not first:
        return ParsedTable(None, [])
    separator = mark[1] if mark else _separator(first)
    words = first.split()
    joins_classes = separator == "|" and is_image_name(words[0]) and words[1:2] != ["|"]
    by_words = (separator not in first or joins_classes) and len(words) > 1
    lines, columns = array.array("Q"), []
    for line, cells in _paths_and_labels(text) if by_words else _cells(text, separator):
        columns = columns or [PackedTexts() for _ in cells]
        lines.append(line)
        for column, cell in zip(columns, cells, strict=True):
            column.append(cell)
    return ParsedTable(None, TextRows(lines, columns, range(len(lines))))


def _cells(text: str, separator: str) -> Iterator[TableRow]:
    """Yield the rows that are not empty; raise BadRow if they are not of one length."""
    reader = csv.reader(_lines(text), delimiter=separator, strict=True)
    width = 0
    try:
        for cells in reader:
            line = reader.line_num
            if not any(cell.strip() for cell in cells):  # spreadsheets write empty rows at the end
                continue
            width = width or len(cells)
            while len(cells) > width and not cells[-1].strip():
                cells.pop()
            if len(cells) != width:
                raise BadRow(
                    f"{len(cells)} cells, but the first line has {width}: quote a cell that"
                    f' contains {separator!r}, such as "a{separator}b.jpg"',
                    line,
                )
            yield TableRow(line, tuple(cells))
    except csv.Error as error:
        detail = f"not CSV ({error}): quote cells that contain quotes or line breaks"
        raise BadRow(detail, reader.line_num) from None


def _lines(text: str) -> TextIO:
    """Return the lines of a text, ended by LF, CR or both."""
    # A StringIO takes 4 bytes for each character.
    return io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8", newline="")


def _separator(line: str) -> str:
    """Return the separator of cells: in `1.jpg,cat|dog|bird` the comma, before those of classes."""
    named = (each for each in _SEPARATORS if is_image_name(line.split(each)[0].strip(' "')))
    likely = next(named, "")
    return likely or max(_SEPARATORS, key=lambda each: _width(line, each))


def _width(line: str, separator: str) -> int:
    try:
        return len(next(csv.reader([line], delimiter=separator)))
    except csv.Error:  # a cell that is too long; reading the rows says so
        return 0


def _paths_and_labels(text: str) -> Iterator[TableRow]:
    for line, each in enumerate(text.split("\n"), start=1):
        if found := _PATH_AND_LABEL.fullmatch(each.strip()):
            yield TableRow(line, (found[1], found[2] or ""))


def _json_table(text: str, path: str) -> ParsedTable:
    """Read an array of objects or arrays, an object, or an object a line."""
    if not (path.lower().endswith(_JSONL_SUFFIXES) and _is_object(text.lstrip().split("\n")[0])):
        try:
            return _from_value(json.loads(text))
        except json.JSONDecodeError as error:
            if not error.msg.startswith("Extra data"):  # the next line is an object of its own
                raise BadRow(f"not JSON ({error.msg}): {_JSON_FORM}", error.lineno) from None
        except RecursionError:
            raise BadRow(f"not JSON: {_JSON_FORM}", 1) from None
    values = []
    for line, each in enumerate(text.split("\n"), start=1):
        if not each.strip():
            continue
        try:
            values.append((line, json.loads(each)))
        except (ValueError, RecursionError):
            raise BadRow(f"not JSON: {_JSON_FORM}", line) from None
        if not isinstance(values[-1][1], dict):
            raise BadRow(f"not a JSON object: {_JSON_FORM}", line)
    return _objects(values, "line")


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _from_value(value: Any) -> ParsedTable:
    if isinstance(value, dict):
        value = _records_of(value)
    values = list(enumerate(value, start=1))
    if values and all(isinstance(each, list) for each in value):
        width = len(value[0])
        odd = next((place for place, each in values if len(each) != width), None)
        if odd:
            raise BadRow(f"its array has another length than the first: {_JSON_FORM}", odd, "entry")
        return ParsedTable(None, [TableRow(place, tuple(each)) for place, each in values], "entry")
    odd = next((place for place, each in values if not isinstance(each, dict)), None)
    if odd:
        raise BadRow(f"not a JSON object: {_JSON_FORM}", odd, "entry")
    return _objects(values, "entry")


def _records_of(value: dict[str, Any]) -> list[Any]:
    """Return the rows of a JSON object, which may hold rows, columns, or values by path."""
    tables = [each for each in value.values() if isinstance(each, list) and _has_objects(each)]
    if len(tables) == 1:  # {"data": [{...}, ...], "version": 1}
        return tables[0]
    columns = list(value.values())
    if {"path", "label"} <= value.keys() and isinstance(value["path"], str):
        return [value]
    names_files = any(map(is_image_name, value))
    lists = not (tables or names_files) and all(isinstance(each, list) for each in columns)
    if lists and len({len(each) for each in columns}) == 1:  # {"path": [...], "label": [...]}
        return [dict(zip(value, cells, strict=True)) for cells in zip(*columns, strict=True)]
    if columns and not any(isinstance(each, (list, dict)) for each in columns):
        return [{"path": path, "label": label} for path, label in value.items()]
    if columns and all(isinstance(each, dict) for each in columns):
        # pandas writes {"path": {"0": "1.jpg", ...}, "label": {"0": "cat", ...}}.
        keys = [list(each) for each in columns]
        if keys.count(keys[0]) == len(keys) and keys[0] == [*map(str, range(len(keys[0])))]:
            return [{name: each[key] for name, each in value.items()} for key in keys[0]]
        return [{"path": path, **each} for path, each in value.items()]
    raise BadRow(
        f"an object with the keys {', '.join(map(repr, list(value)[:5]))}, which is no list of"
        f" files: {_JSON_FORM}, in an array",
        1,
    )


def _has_objects(value: list[Any]) -> bool:
    return bool(value) and all(isinstance(each, dict) for each in value)


def _objects(values: Sequence[tuple[int, dict[str, Any]]], unit: str) -> ParsedTable:
    columns = tuple(dict.fromkeys(name for _, each in values for name in each))
    rows = [TableRow(line, tuple(map(each.get, columns))) for line, each in values]
    return ParsedTable(columns, rows, unit)
