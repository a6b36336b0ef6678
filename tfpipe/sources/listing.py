"""Read the files that a list names, with their labels."""

import functools
import os
import stat

from tfpipe.core import remote, storage
from tfpipe.sources import label_list
from tfpipe.sources.file import is_file, read_file, stamps
from tfpipe.sources.source import Annotation, Source


class Listing(Source):
    """Files named by a CSV or JSONL file, each with an optional label; see `label_list`.

    Paths are absolute, relative to the list's folder, or URLs. They may lead anywhere, and links
    are followed, because a person wrote the list. Missing files are skipped.
    """

    kind = "a list (.csv or .jsonl)"

    @classmethod
    def fits(cls, path: str) -> bool:  # noqa: D102
        return path.lower().endswith(label_list.SUFFIXES) and is_file(path)

    def read(self, name: str) -> bytes:  # noqa: D102
        return read_file(self.locate(name), follow=True)

    def prepare(self) -> None:  # noqa: D102
        if self._url:
            storage.exists(self._url)  # loads TensorFlow

    def __reduce__(self):
        return type(self), (self.path,), {"_url": self._url}

    def locate(self, name: str) -> str:
        """Return the path of a file, joined to the list's folder, or its URL."""
        return name if remote.is_remote(name) else os.path.join(os.path.dirname(self.path), name)

    def annotations(self, group_column: str = "") -> dict[str, Annotation]:
        """Return the label and group of every file; raise UserError if a label is missing."""
        rows = label_list.read(self.path, group_column)
        return {row.path: Annotation(row.label, row.group) for row in rows}

    @functools.cached_property
    def _url(self) -> str:
        """The first URL in the list, or ""; workers get it without reading the list."""
        return next(filter(remote.is_remote, (self.locate(row.path) for row in self._rows)), "")

    @functools.cached_property
    def _rows(self) -> list[label_list.Row]:
        return label_list.read(self.path, labelled=False)  # predictions need no labels

    @functools.cached_property
    def _listing(self):
        members, skipped = {}, []
        urls = sorted({*filter(remote.is_remote, (self.locate(row.path) for row in self._rows))})
        stamp_of = dict(zip(urls, stamps(urls), strict=True))
        seen = set()
        for row in self._rows:
            if row.path in seen:
                detail = f"line {row.line} of the list repeats an earlier line"
                skipped.append((row.path, "repeated name", detail))
                continue
            seen.add(row.path)
            path = self.locate(row.path)
            try:
                if path in stamp_of:
                    if isinstance(stamp_of[path], OSError):
                        raise stamp_of[path]
                    members[row.path] = (*stamp_of[path], row.label)
                    continue
                status = os.stat(path)
            except (FileNotFoundError, NotADirectoryError):
                detail = f"line {row.line} of {self.path} names it, but it does not exist"
                skipped.append((row.path, "missing", detail))
                continue
            except OSError as error:
                skipped.append((row.path, "unreadable", error.strerror or str(error)))
                continue
            if stat.S_ISREG(status.st_mode):
                members[row.path] = (status.st_size, status.st_mtime_ns, row.label)
            else:
                skipped.append((row.path, "special file", "not a regular file"))
        return members, skipped
