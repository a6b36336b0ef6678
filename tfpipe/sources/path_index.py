"""Find files by a path, the end of a path, or a name without its ending."""

import functools
import os
import pathlib
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import TypeVar

from tfpipe.core import remote
from tfpipe.sources.member import is_image_name
from tfpipe.sources.text_index import TextIndex

T = TypeVar("T")

# What `clean` changes in a path, besides accents.
_UNCLEAN = re.compile(r"\\|//|(?:^|/)\.(?:/|$)|/$")


def clean(path: str) -> str:
    """Return a path in Unicode's form NFC, with `/` between folders and without `./` and `//`."""
    text = unicodedata.normalize("NFC", path.strip())
    if remote.is_remote(text) or not _UNCLEAN.search(text):
        return text
    return str(pathlib.PurePosixPath(text.replace("\\", "/")))


def absolute(path: str) -> str:
    """Return the absolute form of a path; a URL as it is."""
    return path if remote.is_remote(path) else os.path.abspath(path)


class LocatedFiles(Sequence[tuple[str, str]]):
    """The name of each file in its source, and its path or URL, which is joined when needed."""

    def __init__(self, files: Sequence[T], locate: Callable[[T], tuple[str, str]]):
        """Make a sequence that computes `locate` of an element when it is read."""
        self._files, self._locate = files, locate

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[str, str]:
        return self._locate(self._files[index])


class PathIndex:
    """Files of one or more folders, found by what a list writes for them."""

    def __init__(self, files: Sequence[tuple[str, str]], folder: str):
        """Index files.

        Args:
            files: the name of each in its source, and its path or URL.
            folder: absolute path or URL of the list's folder; a path may be relative to it.
        """
        self._files = files
        self._folder = folder

    def find(self, path: str) -> list[int]:
        """Return the positions of the files that a path may mean; empty if there is none.

        It means the file of this name in its source, or else the file at this path below the list's
        folder, or else every file whose path ends with it. If there is none, the ending of the
        files is left out of the comparison; image files go before others then.
        """
        path = clean(path)
        base = _base(path)
        if not base.strip("."):
            return []
        return self._narrow(path, self._by_base.candidates(base), clean) or (
            self._narrow(path, self._by_stem.candidates(base), _stem)
        )

    def tail(self, path: str) -> str:
        """Return the longest end of a path that means one file; "" if there is none."""
        parts = clean(path).split("/")
        tails = ("/".join(parts[start:]) for start in range(1, len(parts)))
        return next((tail for tail in tails if len(self.find(tail)) == 1), "")

    def _narrow(
        self, path: str, places: Sequence[int], form: Callable[[str], str]
    ) -> Sequence[int]:
        """Return the files that fit best, in a form of their names and paths."""
        fits = [i for i in places if form(self._files[i][0]) == path]
        if not fits:
            wanted = os.path.normpath(os.path.join(self._folder, path))
            there = {i: form(absolute(self._files[i][1])) for i in places}
            fits = [i for i in places if there[i] == wanted]
            fits = fits or [i for i in places if f"/{there[i]}".endswith(f"/{path}")]
        return [i for i in fits if is_image_name(self._files[i][0])] or fits

    @functools.cached_property
    def _by_base(self) -> TextIndex:
        return TextIndex(_base(clean(name)) for name, _ in self._files)

    @functools.cached_property
    def _by_stem(self) -> TextIndex:
        return TextIndex(_base(_stem(name)) for name, _ in self._files)


def _base(path: str) -> str:
    return path.rpartition("/")[2]


def _stem(path: str) -> str:
    """Return a clean path without its ending."""
    return os.path.splitext(clean(path))[0]
