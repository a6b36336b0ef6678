"""Leave out the images that a text file names: the option `exclude`."""

import os
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from tfpipe.core.errors import UserError

# A million names of 64 bytes.
MAX_BYTES = 64 * 2**20


class Matches(NamedTuple):
    """The images that a list names.

    Attributes:
        indices: of these images, ascending.
        unmatched: the entries that name no image, in the list's order.
    """

    indices: list[int]
    unmatched: list[str]


def load(path: str) -> tuple[str, ...]:
    """Read a list with one name a line; skip empty lines and lines that begin with #.

    Args:
        path: of a UTF-8 text file, with the line ends of any system.

    Returns:
        The names, stripped, each once, in the list's order.

    Raises:
        UserError: the file is missing, unreadable, too large or not UTF-8.
    """
    advice = "name a text file with one image name on each line"
    try:
        if not os.path.isfile(path):  # a FIFO would wait for a writer
            raise UserError(f"`exclude={path}` is not a file: {advice}")
        # One byte more than allowed, because the file may grow meanwhile.
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise UserError(
                f"`exclude={path}` is larger than the allowed {MAX_BYTES // 2**20} MiB: {advice}"
            )
        text = data.decode("utf-8-sig")  # editors on Windows put a byte order mark in front
    except UnicodeDecodeError as error:
        raise UserError(
            f"`exclude={path}` is not UTF-8 text ({error.reason}): save it as UTF-8"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a path that no file can have
        detail = getattr(error, "strerror", None) or error
        raise UserError(f"`exclude={path}` cannot be read ({detail}): {advice}") from None
    # Not splitlines, which also splits at characters that names may hold, such as U+2028.
    lines = (line.strip() for line in text.split("\n"))
    return tuple(dict.fromkeys(line for line in lines if line and not line.startswith("#")))


def match(entries: Sequence[str], names: Sequence[str]) -> Matches:
    """Find the images that a list names.

    Args:
        entries: from `load`. An entry is the path of an image in its source, or a file name, which
            names all such images, in any folder and source. An entry that ends in / is the path or
            the name of a folder, for all images below it.
        names: paths of images in their sources, with `/` between folders.
    """
    wanted = {*map(_normal, entries)}
    has_folders = any(entry.endswith("/") for entry in wanted)
    indices, matched = [], set()
    for index, name in enumerate(map(_normal, names)):
        folder, _, file = name.rpartition("/")
        spellings = {name, file}
        if has_folders:
            parts = folder.split("/")
            spellings.update(f"{part}/" for part in parts)
            spellings.update("/".join(parts[: i + 1]) + "/" for i in range(len(parts)))
        found = spellings & wanted
        if found:
            indices.append(index)
            matched |= found
    return Matches(indices, [entry for entry in entries if _normal(entry) not in matched])


def _normal(name: str) -> str:
    """Return a name with accents as Linux writes them; macOS decomposes them."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)
