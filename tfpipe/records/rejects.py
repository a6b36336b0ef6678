"""List the files that could not become records: `rejects.csv`."""

import csv
import io
from collections.abc import Iterable
from typing import NamedTuple

from tfpipe.core import remote, storage
from tfpipe.core.errors import UserError, one_line

REJECTS = "rejects.csv"

# The reason for a file that is not meant as an image, such as a read-me.
NOT_AN_IMAGE_NAME = "not an image name"

# The reason for a file that could not be read: a fault of the disk or network, not of the file.
UNREADABLE = "unreadable"


class Reject(NamedTuple):
    """One file that cannot be used.

    Attributes:
        path: the source's path and the file's name in it.
        reason: a short fixed phrase.
        detail: a sentence that helps to fix the file.
    """

    path: str
    reason: str
    detail: str


def save(path: remote.Path, rejects: Iterable[tuple[str, str, str]]) -> None:
    """Write rejects to a CSV file, sorted by path, each escaped to fill one line."""
    with storage.atomic_file(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Reject._fields)
        writer.writerows([one_line(cell) for cell in reject] for reject in sorted(rejects))


def load(folder: remote.Path) -> list[Reject]:
    """Read `rejects.csv`; escapes stay. Raises UserError if it is missing or damaged."""
    path = folder / REJECTS
    try:
        with io.TextIOWrapper(storage.open_to_read(path), encoding="utf-8", newline="") as file:
            return [Reject(*row) for row in list(csv.reader(file))[1:]]
    except (OSError, TypeError, ValueError, csv.Error) as error:
        raise UserError(
            f"{path} is missing or damaged ({error}): build the data set again with `python -m"
            " tfpipe.build_records --overwrite`"
        ) from None
