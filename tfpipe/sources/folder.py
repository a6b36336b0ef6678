"""Read the files of a folder."""

import functools
import hashlib
import os

from tfpipe.core import remote
from tfpipe.core.errors import UserError
from tfpipe.sources import member
from tfpipe.sources.file import is_folder, read_file, stamps
from tfpipe.sources.source import Source


class Folder(Source):
    """Files in a folder and its subfolders; links are reported, not followed."""

    kind = "a folder"

    @classmethod
    def fits(cls, path: str) -> bool:  # noqa: D102 (see Source)
        return os.path.isdir(path)

    def read(self, name: str) -> bytes:  # noqa: D102
        return read_file(os.path.join(self.path, name), follow=False)

    def head(self, name: str, size: int) -> bytes:  # noqa: D102
        return read_file(os.path.join(self.path, name), follow=False, size=size)

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
            skipped.append(
                (name, "symlink", "links are not followed; replace the link by the file")
            )
        elif entry.is_dir(follow_symlinks=False):
            pending.append(name + "/")
        elif not entry.is_file(follow_symlinks=False):
            skipped.append((name, "special file", "a FIFO, socket or device"))
        elif member.is_archive(name):
            skipped.append((name, *member.NESTED))
        else:
            status = entry.stat(follow_symlinks=False)
            members[name] = (status.st_size, status.st_mtime_ns)


class RemoteFolder(Source):
    """Files in a folder at a URL, such as gs://bucket/folder, and its subfolders."""

    kind = "a folder"

    @classmethod
    def fits(cls, path: str) -> bool:  # noqa: D102
        return remote.is_remote(path) and is_folder(path)

    def read(self, name: str) -> bytes:  # noqa: D102
        return read_file(self.locate(name), follow=True)

    def head(self, name: str, size: int) -> bytes:  # noqa: D102
        return read_file(self.locate(name), follow=True, size=size)

    def fingerprint(self) -> str:
        """Return a hex digest of the members' names, sizes and times."""
        digest = hashlib.sha256(super().fingerprint().encode())
        names = self.names()
        for name, found in zip(names, stamps([*map(self.locate, names)]), strict=True):
            if isinstance(found, OSError):
                raise UserError(
                    f"{self.locate(name)} was listed but cannot be read ({found.strerror}): run the"
                    " command again when nothing writes to `source`"
                )
            digest.update(repr(found).encode())
        return digest.hexdigest()

    @functools.cached_property
    def _listing(self):
        members, skipped = {}, []
        root = self.path.rstrip("/")
        with remote.gfile(root) as gfile:
            for folder, _, names in gfile.walk(root):
                for name in names:
                    name = f"{folder.rstrip('/')}/{name}"[len(root) + 1 :]
                    if member.is_ignored(name):
                        continue
                    if member.is_archive(name):
                        skipped.append((name, *member.NESTED))
                    else:
                        # Size and time cost a request each, and workers do not need them.
                        members[name] = ()
        return members, skipped
