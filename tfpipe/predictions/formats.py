"""The formats of predictions, one entry of a registry each.

To add one, write a function that writes a table into a binary file, and give the endings of its
files:

    @register("my_format", ".my")
    def _mine(table: Table, file: BinaryIO) -> None: ...
"""

import csv
import io
import itertools
import json
import pathlib
from collections.abc import Callable
from typing import BinaryIO, NamedTuple

from tfpipe.core.errors import UserError
from tfpipe.core.registry import Registry
from tfpipe.predictions.table import Cell, Table

AUTO = "auto"

# Rows of a Parquet file in memory.
_GROUP_ROWS = 65_536


class Format(NamedTuple):
    """A format: its writer, and the endings of its files."""

    write: Callable[[Table, BinaryIO], None]
    suffixes: tuple[str, ...]


formats: Registry[Format] = Registry("format")


def register(name: str, *suffixes: str) -> Callable:
    """Return a decorator that registers a writer under the name of a format."""

    def enter(write: Callable[[Table, BinaryIO], None]) -> Callable:
        formats.add(name, Format(write, suffixes))
        return write

    return enter


def choose(name: str, path: str) -> str:
    """Return the name of the format of a file.

    Args:
        name: a format, or "auto" for that of the file's ending.
        path: the file.

    Raises:
        UserError: the ending belongs to no format, or a package is not installed.
    """
    if name == AUTO:
        ending = pathlib.PurePosixPath(path).suffix.lower()
        name = next((each for each in formats if ending in formats[each].suffixes), "")
        if not name:
            known = ", ".join(suffix for each in formats for suffix in formats[each].suffixes)
            raise UserError(
                f"--out={path} ends like no format ({known}): name it so, or give"
                f" --format={'|'.join(formats)}",
                status=2,
            )
    if name == "parquet":
        _pyarrow()
    return name


@register("csv", ".csv")
def _csv(table: Table, file: BinaryIO) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.header)
    for row in table:
        writer.writerow([_spelled(cell, table.digits) for cell in row])
    text.detach()


@register("jsonl", ".jsonl", ".ndjson")
def _jsonl(table: Table, file: BinaryIO) -> None:
    for row in table:
        values = (
            float(_spelled(cell, table.digits)) if isinstance(cell, float) else cell for cell in row
        )
        line = json.dumps(dict(zip(table.header, values, strict=True)), ensure_ascii=False)
        file.write(f"{line}\n".encode())


@register("parquet", ".parquet")
def _parquet(table: Table, file: BinaryIO) -> None:
    arrow = _pyarrow()
    from pyarrow import parquet

    kinds = [arrow.float32() if name in table.numbers else arrow.string() for name in table.header]
    schema = arrow.schema(list(zip(table.header, kinds, strict=True)))
    rows = iter(table)
    with parquet.ParquetWriter(file, schema) as writer:
        while group := list(itertools.islice(rows, _GROUP_ROWS)):
            columns = zip(kinds, zip(*group, strict=True), strict=True)
            arrays = [
                arrow.array([_joined(cell) for cell in cells], kind) for kind, cells in columns
            ]
            writer.write_batch(arrow.record_batch(arrays, schema=schema))


def _spelled(cell: Cell, digits: int) -> str | None:
    return f"{cell:.{digits}g}" if isinstance(cell, float) else _joined(cell)


def _joined(cell: Cell) -> str | float | None:
    """Return the classes of an image as one text, as in lists of labels."""
    return "|".join(cell) if isinstance(cell, tuple) else cell


def _pyarrow():
    try:
        import pyarrow
    except ImportError:
        raise UserError(
            "--format=parquet needs PyArrow, which is not installed: pip install 'tfpipe[parquet]'"
        ) from None
    return pyarrow
