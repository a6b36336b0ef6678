"""The order and the ids of the rows, as in Kaggle's submissions."""

import pathlib
from collections.abc import Iterable

from tfpipe.core.errors import ResumableError


def identity(name: str) -> str:
    """Return the id of a file: its name without folders and ending."""
    return pathlib.PurePosixPath(name).stem


def ordered(names: Iterable[str]) -> list[str]:
    """Sort files by id, numbers first and by value; then by name."""
    return sorted(names, key=_key)


def _key(name: str) -> tuple[bool, int, str, str, str]:
    found = identity(name)
    if not (found.isascii() and found.isdecimal()):
        return (True, 0, "", found, name)
    digits = found.lstrip("0")  # compared as text: a name may have thousands
    return (False, len(digits), digits, found, name)


def check_unique(names: Iterable[str]) -> None:
    """Raise ResumableError if two files have the same id; all columns can still be written."""
    name_of: dict[str, str] = {}
    for name in names:
        found = identity(name)
        if found in name_of:
            raise ResumableError(
                f"--source: {name_of[found]!r} and {name!r} have the same id {found!r}: give each"
                " image a name of its own, or write all columns (--columns=all), where the name"
                " tells them apart"
            )
        name_of[found] = name
