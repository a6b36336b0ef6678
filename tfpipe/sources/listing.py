"""Read the files that a list names, with their labels."""

import array
import functools
import os
import pathlib
import stat
import unicodedata
from collections.abc import Iterator, Sequence

from tfpipe.core import remote, storage
from tfpipe.sources import label_list
from tfpipe.sources.file import is_file, read_file, stamps
from tfpipe.sources.folder import Folder
from tfpipe.sources.label_list import LabelList
from tfpipe.sources.list_columns import FOUND, Columns
from tfpipe.sources.members import Members
from tfpipe.sources.path_index import LocatedFiles, PathIndex
from tfpipe.sources.source import Annotation, Source


class Listing(Source):
    """Files named by a list, each with an optional label; see `label_list`.

    Paths are absolute, relative to the list's folder, or URLs. They may lead anywhere, and links
    are followed, because a person wrote the list. Missing files are skipped. If most paths lead to
    nothing, files below the list's folder are found by the end of their path, such as the file
    name, with or without its ending.
    """

    kind = "a list (.csv, .tsv, .txt, .json or .jsonl)"

    @classmethod
    def fits(cls, path: str) -> bool:  # noqa: D102
        return path.lower().endswith(label_list.SUFFIXES) and is_file(path)

    def read(self, name: str) -> bytes:  # noqa: D102
        return read_file(self.locate(name), follow=True)

    def prepare(self) -> None:  # noqa: D102
        if self._url:
            storage.exists(self._url)  # loads TensorFlow

    def release(self) -> None:  # noqa: D102
        _ = self._url
        self._forget("_lists", "_listing", "_below", "_index")

    def _forget(self, *names: str) -> None:
        for name in names:
            self.__dict__.pop(name, None)

    def __reduce__(self):
        return type(self), (self.path, self.options), {"_url": self._url}

    def locate(self, name: str) -> str:
        """Return the path of a file, joined to the list's folder, or its URL."""
        return name if remote.is_remote(name) else os.path.join(os.path.dirname(self.path), name)

    def notes(self, columns: Columns | None) -> list[str]:  # noqa: D102
        return [self._read_list(columns).understood]

    def annotations(self, columns: Columns = FOUND) -> dict[str, Annotation]:
        """Return what the list says about every file; raise UserError if a label is missing."""
        said, members = {}, iter(self._listing[0])
        member = next(members, None)
        for row in self._read_list(columns).rows:
            name = row.file or row.path
            if name == member:  # one string for both: a list may have millions
                name, member = member, next(members, None)
            said[name] = row.annotation
        return said

    @functools.cached_property
    def _url(self) -> str:
        """The first URL in the list, or ""; workers get it without reading the list."""
        return next(
            filter(remote.is_remote, (self.locate(row.path) for row in self._list.rows)), ""
        )

    @property
    def _list(self) -> LabelList:
        return next(iter(self._lists.values()), None) or self._read_list(None)

    @functools.cached_property
    def _lists(self) -> dict[Columns | None, LabelList]:
        return {}

    def _read_list(self, columns: Columns | None) -> LabelList:
        """Read the list, once for all uses; without labels if `columns` is None."""
        if columns not in self._lists:
            wanted = (columns or FOUND)._replace(path=self.options.path_column)
            self._lists.clear()
            found = label_list.read(self.path, wanted, self._finders, labelled=columns is not None)
            self._lists[columns] = found
            if columns is not None:  # all that is asked of them
                self._forget("_below", "_index")
        return self._lists[columns]

    @property
    def _finders(self):
        if remote.is_remote(self.path):
            return [self._at_path]
        return [self._at_path, self._below_folder]

    def _at_path(self, path: str) -> list[str]:
        """Return the name of the file at a path, in the spelling that this file system has."""
        for spelling in _spellings(path):
            if remote.is_remote(self.locate(spelling)):
                return [spelling]  # its existence costs a request, so `_listing` asks for many
            try:
                if not stat.S_ISDIR(os.stat(self.locate(spelling)).st_mode):
                    return [spelling]
            except (OSError, ValueError):  # ValueError: a path that no file can have
                continue
        return []

    def _below_folder(self, path: str) -> list[str]:
        return self._at_path(path) or [self._below[place] for place in self._index.find(path)]

    @functools.cached_property
    def _below(self) -> list[str]:
        """The names of all files below the list's folder."""
        return Folder(os.path.dirname(self.path) or ".", self.options).names()

    @functools.cached_property
    def _index(self) -> PathIndex:
        folder = os.path.dirname(os.path.abspath(self.path))
        located = LocatedFiles(self._below, lambda name: (name, f"{folder}/{name}"))
        return PathIndex(located, folder)

    @functools.cached_property
    def _listing(self):
        members, skipped, lost = {}, [], set()
        numbers = array.array("q"), array.array("q")  # sizes and times
        rows = self._list.rows
        urls = sorted({*filter(remote.is_remote, (self.locate(row.path) for row in rows))})
        stamp_of = dict(zip(urls, stamps(urls), strict=True))
        for row in rows:
            name = row.file or row.path
            if name in members or name in lost:
                detail = f"line {row.line} of the list repeats an earlier line"
                skipped.append((name, "repeated name", detail))
                continue
            path = self.locate(name)
            try:
                if path in stamp_of:
                    if isinstance(stamp_of[path], OSError):
                        raise stamp_of[path]
                    _add(members, name, numbers, stamp_of[path])
                    continue
                status = os.stat(path)
                if stat.S_ISREG(status.st_mode):
                    _add(members, name, numbers, (status.st_size, status.st_mtime_ns))
                    continue
                why = ("special file", "not a regular file")
            except (FileNotFoundError, NotADirectoryError):
                why = ("missing", f"line {row.line} of {self.path} names it, but it does not exist")
            except (OSError, ValueError) as error:
                why = ("unreadable", getattr(error, "strerror", "") or str(error))
            skipped.append((name, *why))
            lost.add(name)
        if not members and all(reason == "missing" for _, reason, _ in skipped):
            where = f"none of the {len(self._below):,} files in {os.path.dirname(self.path) or '.'}"
            raise label_list.nothing_found(self._list, where, self._index)
        return Members(members, *numbers), skipped


def _add(
    members: dict[str, int], name: str, numbers: Sequence[array.array], stamp: Sequence[int]
) -> None:
    members[name] = len(members)
    for column, number in zip(numbers, stamp, strict=True):
        column.append(number)


def _spellings(path: str) -> Iterator[str]:
    """Yield a path as written, with the separators of Linux, and in both forms of its accents."""
    if remote.is_remote(path):
        yield path
        return
    stripped = path.strip()
    for separated in dict.fromkeys((path, stripped, stripped.replace("\\", "/"))):
        spellings = [
            separated,
            *(unicodedata.normalize(form, separated) for form in ("NFC", "NFD")),
        ]
        for spelling in dict.fromkeys(spellings):
            if spelling.strip():
                yield str(pathlib.PurePosixPath(spelling))
