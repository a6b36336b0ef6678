"""Files in a folder."""

import functools
import os

from tfpipe.sources import member
from tfpipe.sources.file import read_file
from tfpipe.sources.source import Source


class Folder(Source):
    """Files in a folder and the folders below it; links are reported, not followed."""

    kind = "a folder"

    @classmethod
    def fits(cls, path: str) -> bool:  # noqa: D102 (the base class says it)
        return os.path.isdir(path)

    def read(self, name: str) -> bytes:  # noqa: D102
        return read_file(os.path.join(self.path, name), follow=False)

    @functools.cached_property
    def _listing(self):
        members, skipped = {}, []
        pending = [""]
        while pending:
            folder = pending.pop()
            try:
                with os.scandir(os.path.join(self.path, folder)) as entries:
                    for entry in entries:
                        self._enter(folder + entry.name, entry, pending, members, skipped)
            except OSError as error:
                skipped.append((folder or ".", "unreadable", error.strerror or str(error)))
        return members, skipped

    @staticmethod
    def _enter(name, entry, pending, members, skipped):
        if member.is_ignored(name):
            return
        if entry.is_symlink():
            skipped.append((name, "symlink", "links are not followed; put the file itself there"))
        elif entry.is_dir(follow_symlinks=False):
            pending.append(name + "/")
        elif not entry.is_file(follow_symlinks=False):
            skipped.append((name, "special file", "a FIFO, socket or device is never opened"))
        elif member.is_archive(name):
            skipped.append((name, *member.NESTED))
        else:
            status = entry.stat(follow_symlinks=False)
            members[name] = (status.st_size, status.st_mtime_ns)
