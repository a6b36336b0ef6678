"""Read the files of a folder."""

import functools
import hashlib
import os
import stat

from tfpipe.core import remote
from tfpipe.core.errors import UserError
from tfpipe.sources import member
from tfpipe.sources.file import is_folder, read_file, stamps
from tfpipe.sources.source import Source

_NOT_FOLLOWED = "links are not followed: give --follow_links, or name the files in a list"
_TWICE = "it leads to what is read already"


class Folder(Source):
    """Files in a folder and its subfolders; links are reported, and followed if asked.

    Nothing is read twice: a link to what is read already is reported.
    """

    kind = "a folder"

    @classmethod
    def fits(cls, path: str) -> bool:  # noqa: D102 (see Source)
        return os.path.isdir(path)

    def read(self, name: str) -> bytes:  # noqa: D102
        return read_file(os.path.join(self.path, name), follow=self.options.follow_links)

    def head(self, name: str, size: int) -> bytes:  # noqa: D102
        return read_file(os.path.join(self.path, name), follow=False, size=size)

    @functools.cached_property
    def _listing(self):
        walk = _Walk(self.path, follow_links=self.options.follow_links)
        walk.run()
        return walk.members, walk.skipped


class _Walk:
    """The files of a folder: those that lie there, then those that links lead to."""

    def __init__(self, root: str, *, follow_links: bool):
        self.members: dict[str, tuple] = {}
        self.skipped: list[tuple[str, str, str]] = []
        self._root, self._follow_links = root, follow_links
        self._links: list[str] = []
        self._read: set[tuple[int, int]] = set()  # devices and inodes, to read nothing twice

    def run(self) -> None:
        """Find all files. Links come in the order of their names, those found by links last."""
        self._read_folder("")
        while self._links and self._follow_links:
            links, self._links = sorted(self._links), []
            for name in links:
                self._follow(name)
        self.skipped += [(name, member.SYMLINK, _NOT_FOLLOWED) for name in self._links]

    def _read_folder(self, folder: str, *, by_link: bool = False) -> None:
        pending = [folder]
        while pending:
            folder = pending.pop()
            path = os.path.join(self._root, folder)
            try:
                if self._follow_links and self._is_read(os.stat(path)):
                    continue
                with os.scandir(path) as entries:
                    for entry in entries:
                        name = folder + entry.name
                        if member.is_ignored(name):
                            continue
                        if entry.is_symlink():
                            self._links.append(name)
                        elif entry.is_dir(follow_symlinks=False):
                            pending.append(f"{name}/")
                        else:
                            self._add(name, entry.stat(follow_symlinks=False), by_link=by_link)
            except OSError as error:
                self.skipped.append((folder or ".", "unreadable", error.strerror or str(error)))

    def _follow(self, name: str) -> None:
        try:
            status = os.stat(os.path.join(self._root, name))
        except OSError as error:
            self.skipped.append((name, member.SYMLINK, f"it leads nowhere ({error.strerror})"))
            return
        if not stat.S_ISDIR(status.st_mode):
            self._add(name, status, by_link=True)
        elif (status.st_dev, status.st_ino) in self._read:
            self.skipped.append((name, member.COPY, _TWICE))
        else:
            self._read_folder(f"{name}/", by_link=True)

    def _add(self, name: str, status: os.stat_result, *, by_link: bool) -> None:
        """Add a file; the same one by a second link is skipped, hard links are not."""
        is_read = self._follow_links and self._is_read(status)
        if is_read and by_link:
            self.skipped.append((name, member.COPY, _TWICE))
        elif not stat.S_ISREG(status.st_mode):
            self.skipped.append((name, "special file", "a FIFO, socket or device"))
        elif member.is_archive(name):
            self.skipped.append((name, *member.NESTED))
        else:
            self.members[name] = (status.st_size, status.st_mtime_ns)

    def _is_read(self, status: os.stat_result) -> bool:
        """Return whether a file or folder was read before; from now on it is."""
        key = status.st_dev, status.st_ino
        is_read = key in self._read
        self._read.add(key)
        return is_read


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
