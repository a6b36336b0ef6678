"""Files that could not become records, and the list of them: `rejects.csv`."""

import csv
import io
from collections.abc import Iterable
from typing import NamedTuple

from tfpipe.core import remote, storage
from tfpipe.core.errors import UserError, one_line

REJECTS = "rejects.csv"

# The reason for a file that was never meant as an image, as a read-me; it is listed, no more.
NOT_AN_IMAGE_NAME = "not an image name"


class Reject(NamedTuple):
    """One file that cannot be used.

    Attributes:
        path: of its source and in it, for a person.
        reason: a short fixed phrase.
        detail: what a person needs to mend it.
    """

    path: str
    reason: str
    detail: str


def save(path: remote.Path, rejects: Iterable[tuple[str, str, str]]) -> None:
    """Writes a list of rejects, sorted by path and escaped so that each file is one line."""
    with storage.atomic_file(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Reject._fields)
        writer.writerows([one_line(cell) for cell in reject] for reject in sorted(rejects))


def load(folder: remote.Path) -> list[Reject]:
    """Reads `rejects.csv`; escapes stay. Raises UserError if it is missing or damaged."""
    path = folder / REJECTS
    try:
        with io.TextIOWrapper(storage.open_to_read(path), encoding="utf-8", newline="") as file:
            return [Reject(*row) for row in list(csv.reader(file))[1:]]
    except (OSError, TypeError, ValueError, csv.Error) as error:
        raise UserError(
            f"{path} is missing or damaged ({error}): build the data set again with --overwrite"
        ) from None
