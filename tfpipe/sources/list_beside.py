"""Compare a list that lies beside images in class folders with these folders.

Folders such as `part_1/` and `part_2/` are no classes if `metadata.csv` says the class of each
image.
"""

import collections
import csv
import os
import re
from collections.abc import Sequence

from tfpipe.sources.readings import question

SUFFIXES = (".csv", ".tsv")

_LABEL_COLUMN = re.compile(
    r"label|class|categor|target|species|breed|variety|emotion|diagnos|^dx$|^tag$|^type$", re.I
)

# Images of the list, at least, before it counts.
_MATCHES = 2


def check(path: str, data: bytes, images: Sequence[tuple[str, str]]) -> None:
    """Raise UserError if a list says other classes of images than their folders.

    Args:
        path: of the list, for the message.
        data: its contents; without a column of labels, or names of these images, it says nothing.
        images: the name of each image, and its class by its folder.
    """
    header, *rows = _rows(data) or [[]]
    columns = [i for i, name in enumerate(header) if _LABEL_COLUMN.search(name.strip())]
    if not columns:
        return
    known = {}
    for name, label in images:
        stem = os.path.splitext(name)[0]
        keys = {name, stem, os.path.basename(name), os.path.basename(stem)}
        known |= {key: label for key in keys if not key.isdecimal()}
    found = []
    for row in rows:
        match = next((i for i, cell in enumerate(row) if _key(cell) in known), None)
        if match is not None and len(row) == len(header):
            found.append((known[_key(row[match])], row))
    by_folder = collections.Counter(label for label, _ in found)
    for column in columns:
        by_list = collections.Counter(row[column].strip() for _, row in found)
        pairs = {(label, row[column].strip()) for label, row in found}
        if len(found) < _MATCHES or len(by_list) < 2:
            continue
        if not len(pairs) == len(by_list) == len(by_folder):
            readings = {"folder": by_folder, f"csv:{path}": by_list}
            raise question(f"{path} has a column {header[column].strip()!r}", readings)
        return


def _rows(data: bytes) -> list[list[str]]:
    """Return the cells of a list; [] if it is none."""
    lines = [line for line in data.decode("utf-8-sig", "replace").splitlines() if line.strip()]
    try:
        return [*csv.reader(lines, delimiter=max(",;\t", key=lines[0].count))] if lines else []
    except csv.Error:
        return []


def _key(cell: str) -> str:
    return cell.strip().replace("\\", "/").removeprefix("./")
