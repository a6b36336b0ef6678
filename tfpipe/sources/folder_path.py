"""Take apart the paths of folders that hold images."""

import collections
import functools
import os
import unicodedata
from collections.abc import Mapping
from typing import NamedTuple

from tfpipe.sources import split_name

Trail = tuple[str, ...]


class FolderPath(NamedTuple):
    """A folder that holds images: the path of its source, and its path there."""

    root: str
    name: str


def count(
    labels: Mapping[FolderPath, str], counts: Mapping[FolderPath, int]
) -> collections.Counter[str]:
    """Return the number of images of each class."""
    found = collections.Counter()
    for key, label in labels.items():
        found[label] += counts[key]
    return found


def trail(path: str) -> Trail:
    """Return the folders of a path, in Unicode's form NFC and without surrounding blanks."""
    names = (name.strip() for name in unicodedata.normalize("NFC", path).split("/"))
    return tuple(name for name in names if name not in ("", "."))


@functools.lru_cache
def source_name(path: str) -> str:
    """Return the name of a source, without the ending of a file."""
    name = (trail(os.path.abspath(path)) or ("",))[-1]
    return split_name.without_suffix(name)


@functools.lru_cache(2**16)
def fold(name: str) -> str:
    """Return a form that is equal for names that differ only in case or Unicode's form."""
    return unicodedata.normalize("NFC", name).strip().casefold()
