"""Images that a person has decided to leave out: `--exclude=FILE`, a text file of names."""

import collections
import os
from collections.abc import Sequence
from typing import NamedTuple

from tfpipe.core.errors import UserError

# A million names of 64 bytes; it bounds the memory too.
MAX_BYTES = 64 * 2**20


class Matches(NamedTuple):
    """What a list of names does.

    Attributes:
        indices: of the images that it names, ascending.
        unmatched: the entries that name no image, in the list's order.
    """

    indices: list[int]
    unmatched: list[str]


def load(path: str) -> tuple[str, ...]:
    """Reads a list: a name on each line; what begins with # and empty lines do not count.

    Args:
        path: of a UTF-8 text file; its lines may end as on Windows.

    Returns:
        The names without space around them, each once, in the list's order.

    Raises:
        UserError: the file is unreadable, too large or not UTF-8.
    """
    advice = "name a text file with one image name on each line"
    try:
        if not os.path.isfile(path):  # a FIFO would wait for a writer
            raise UserError(f"--exclude={path}: there is no such file: {advice}")
        # One byte more than is allowed, as the file may grow meanwhile.
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise UserError(
                f"--exclude={path} has more than {MAX_BYTES // 2**20} MiB, the most of such a list:"
                f" {advice}"
            )
        text = data.decode("utf-8-sig")  # editors on Windows put a byte order mark in front
    except UnicodeDecodeError as error:
        raise UserError(
            f"--exclude={path} is not UTF-8 text ({error.reason}): save it as UTF-8"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a path that no file can have
        detail = getattr(error, "strerror", None) or error
        raise UserError(f"--exclude={path!r} cannot be read ({detail}): {advice}") from None
    # Not splitlines: names may hold what it takes for the end of a line, such as U+2028.
    lines = (line.strip() for line in text.split("\n"))
    return tuple(dict.fromkeys(line for line in lines if line and not line.startswith("#")))


def match(entries: Sequence[str], names: Sequence[str]) -> Matches:
    """Finds the images that a list names.

    Args:
        entries: as from `load`. An entry names an image by its whole path in its source, or by its
            file name alone; then all images of that name are meant, in whatever folder or source.
        names: paths of images relative to their sources, with `/` between folders.

    Returns:
        The images that are named, and the entries that name none.
    """
    places = collections.defaultdict(list)
    for index, name in enumerate(names):
        for spelling in {name, os.path.basename(name)}:
            places[spelling].append(index)
    found = {index for entry in entries for index in places.get(entry, ())}
    return Matches(sorted(found), [entry for entry in entries if entry not in places])
