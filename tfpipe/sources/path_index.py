"""Find files by a path, the end of a path, or a name without its ending."""

import collections
import functools
import os
import pathlib
import unicodedata
from collections.abc import Sequence

from tfpipe.core import remote
from tfpipe.sources.member import is_image_name


def clean(path: str) -> str:
    """Return a path in Unicode's form NFC, with `/` between folders and without `./` and `//`."""
    text = unicodedata.normalize("NFC", path.strip())
    return text if remote.is_remote(text) else str(pathlib.PurePosixPath(text.replace("\\", "/")))


class PathIndex:
    """Files of one or more folders, found by what a list writes for them."""

    def __init__(self, files: Sequence[tuple[str, str]], folder: str):
        """Index files.

        Args:
            files: the name of each in its source, and its path or URL.
            folder: absolute path or URL of the list's folder; a path may be relative to it.
        """
        self._names = [clean(name) for name, _ in files]
        self._paths = [clean(path) for _, path in files]
        self._folder = folder

    def find(self, path: str) -> list[int]:
        """Return the positions of the files that a path may mean; empty if there is none.

        It means the file of this name in its source, or else the file at this path below the list's
        folder, or else every file whose path ends with it. If there is none, the ending of the
        files is left out of the comparison; image files go before others then.
        """
        path = clean(path)
        base = path.rpartition("/")[2]
        if not base.strip("."):
            return []
        return self._narrow(path, self._by_base.get(base, ()), self._paths, self._names) or (
            self._narrow(path, self._by_stem.get(base, ()), *self._stems)
        )

    def tail(self, path: str) -> str:
        """Return the longest end of a path that means one file; "" if there is none."""
        parts = clean(path).split("/")
        tails = ("/".join(parts[start:]) for start in range(1, len(parts)))
        return next((tail for tail in tails if len(self.find(tail)) == 1), "")

    def _narrow(
        self, path: str, places: Sequence[int], paths: Sequence[str], names: Sequence[str]
    ) -> list[int]:
        absolute = os.path.normpath(os.path.join(self._folder, path))
        for fits in (
            [place for place in places if names[place] == path],
            [place for place in places if paths[place] == absolute],
            [place for place in places if f"/{paths[place]}".endswith(f"/{path}")],
        ):
            images = [place for place in fits if is_image_name(self._names[place])]
            if fits:
                return images or fits
        return []

    @functools.cached_property
    def _stems(self) -> tuple[list[str], list[str]]:
        """The paths and the names without their endings."""
        without = [[os.path.splitext(path)[0] for path in s] for s in (self._paths, self._names)]
        return without[0], without[1]

    @functools.cached_property
    def _by_base(self) -> dict[str, list[int]]:
        return _by_base(self._names)

    @functools.cached_property
    def _by_stem(self) -> dict[str, list[int]]:
        return _by_base(self._stems[1])


def _by_base(paths: Sequence[str]) -> dict[str, list[int]]:
    places = collections.defaultdict(list)
    for place, path in enumerate(paths):
        places[path.rpartition("/")[2]].append(place)
    return places
