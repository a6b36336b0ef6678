"""Where files come from: a folder or a zip archive, read member by member.

A source knows nothing of images or labels. Its members are named by their path relative to the
source's root, with `/` between folders. What cannot or must not be read is not dropped silently:
it is listed in `skipped`, or `read` raises `Rejected`.

To add a kind of source, write a subclass of `Source` and enter it in `KINDS`.
"""

import functools
import hashlib
import os
import pathlib
import stat
import zipfile
import zlib

from tfpipe.errors import UserError

# One file of a photo collection has a few MB; 64 MiB holds a 20-megapixel 24-bit BMP and bounds
# what a hostile file can make a worker allocate.
MAX_BYTES = 64 * 2**20

# Image data hardly shrinks in a zip, and a plain BMP seldom by more than 50:1; deflate's own limit,
# which bombs come near, is 1032:1. Small members may have any ratio.
MAX_RATIO = 200
RATIO_FREE_BYTES = 2**20

# An archive inside a source is reported, never opened.
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")

# What file managers leave behind. Nobody means these, so they are not even reported.
_IGNORED = {"__macosx", "thumbs.db", "desktop.ini"}


class Rejected(Exception):  # noqa: N818 (it is an outcome to be listed, not a failure)
    """One file that cannot be used, while the others can.

    Attributes:
        reason: one of a few short fixed phrases, to count by.
        detail: a sentence for the person who has to mend it; may hold any character.
    """

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class Source:
    """Files at one path, listed at first use and read one at a time; nothing is ever unpacked.

    It may be pickled: the copy holds only the path and lists the files anew.

    Attributes:
        path: as given by the user.
    """

    kind = ""  # for messages, as in "a zip archive"

    def __init__(self, path: str):
        self.path = path

    def __reduce__(self):
        return type(self), (self.path,)

    @classmethod
    def fits(cls, path: str) -> bool:
        """Returns whether what lies at `path`, which exists, is of this kind."""
        raise NotImplementedError

    def read(self, name: str) -> bytes:
        """Returns the contents of one member of `names()`, at most `MAX_BYTES`.

        Raises:
            Rejected: the member is too large, damaged or unreadable.
        """
        raise NotImplementedError

    def names(self) -> list[str]:
        """Returns the members that may be read, sorted."""
        return sorted(self._listing[0])

    @property
    def skipped(self) -> list[tuple[str, str, str]]:
        """Members that are not even tried, sorted: (name, reason, detail)."""
        return sorted(self._listing[1])

    def locate(self, name: str) -> str:
        """Returns where a member is, for a person: the source's path and the name."""
        return f"{self.path.rstrip('/')}/{name}"

    def fingerprint(self) -> str:
        """Returns a hex digest that changes when a member does, without reading any."""
        members, skipped = self._listing
        digest = hashlib.sha256()
        for line in [*sorted(members.items()), *sorted(skipped)]:
            digest.update(repr(line).encode())
        return digest.hexdigest()

    @functools.cached_property
    def _listing(self) -> tuple[dict[str, tuple], list[tuple[str, str, str]]]:
        """Members (name to a tuple that changes with the contents) and what is skipped."""
        raise NotImplementedError


class Folder(Source):
    """Files in a folder and the folders below it; links are reported, not followed."""

    kind = "a folder"

    @classmethod
    def fits(cls, path: str) -> bool:  # noqa: D102 (the base class says it)
        return os.path.isdir(path)

    def read(self, name: str) -> bytes:  # noqa: D102
        # The file may have changed since it was listed: a link is not followed, and opening a FIFO
        # does not wait for a writer.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            with os.fdopen(os.open(os.path.join(self.path, name), flags), "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise Rejected("special file", "not a regular file")
                return _bounded(file.read(MAX_BYTES + 1))
        except OSError as error:
            raise Rejected("unreadable", error.strerror or str(error)) from None

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
        if _is_ignored(name):
            return
        if entry.is_symlink():
            skipped.append((name, "symlink", "links are not followed; put the file itself there"))
        elif entry.is_dir(follow_symlinks=False):
            pending.append(name + "/")
        elif not entry.is_file(follow_symlinks=False):
            skipped.append((name, "special file", "a FIFO, socket or device is never opened"))
        elif _is_archive(name):
            skipped.append((name, "nested archive", "name the archive itself as a source"))
        else:
            status = entry.stat(follow_symlinks=False)
            members[name] = (status.st_size, status.st_mtime_ns)


class Zip(Source):
    """Members of a zip archive, read in place."""

    kind = "a zip archive"

    @classmethod
    def fits(cls, path: str) -> bool:  # noqa: D102
        return os.path.isfile(path) and zipfile.is_zipfile(path)

    def read(self, name: str) -> bytes:  # noqa: D102
        try:
            info = self._archive.getinfo(name)
        except KeyError:  # in a worker that opened the archive anew
            raise Rejected("unreadable", "the archive has changed") from None
        _bounded_size(info.file_size)
        ratio = info.file_size / max(info.compress_size, 1)
        if info.file_size > RATIO_FREE_BYTES and ratio > MAX_RATIO:
            raise Rejected(
                "too large", f"unpacks to {ratio:.0f} times its size; {MAX_RATIO} at most"
            )
        try:
            with self._archive.open(info) as file:  # checks the CRC at its end
                return _bounded(file.read(MAX_BYTES + 1))
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise Rejected("damaged member", str(error)) from None
        except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: encrypted after all
            raise Rejected("unreadable", str(error)) from None

    @functools.cached_property
    def _archive(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        # A hostile central directory gets past `is_zipfile` and raises a variety of these.
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise UserError(
                f"{self.path} is a damaged zip archive ({error}): copy or download it again"
            ) from None

    @functools.cached_property
    def _listing(self):
        members, skipped = {}, []
        infos = [info for info in self._archive.infolist() if not info.is_dir()]
        links = {info.filename for info in infos if _is_link(info)}
        for info in infos:
            name = info.filename
            if _is_ignored(name):
                continue
            refusal = _refuse_member(info, links)
            if refusal:
                skipped.append((name, *refusal))
            elif name in members:
                skipped.append((name, "repeated name", "the last member of this name counts"))
            else:
                last = self._archive.getinfo(name)
                members[name] = (last.file_size, last.CRC)
        return members, skipped


# In the order in which they are tried.
KINDS: tuple[type[Source], ...] = (Folder, Zip)


def open_source(path: str) -> Source:
    """Opens a folder or an archive for reading.

    Raises:
        UserError: `path` does not exist, is of no known kind, or holds no file that can be read.
    """
    allowed = " or ".join(kind.kind for kind in KINDS)
    if not os.path.exists(path):
        raise UserError(
            f"{path!r} does not exist, or its folder may not be read: name {allowed} with images"
        )
    found = next((kind for kind in KINDS if kind.fits(path)), None)
    if found is None:
        raise UserError(
            f"{path!r} is not {allowed}, or it is damaged or unreadable: name {allowed} with images"
        )
    source = found(path)
    if not source.names():
        skipped = source.skipped
        first = f", only {skipped[0][0]!r} ({skipped[0][1]})" if skipped else ""
        raise UserError(
            f"{path!r} holds no files that can be read{first}: name {allowed} with images"
        )
    return source


def _refuse_member(info: zipfile.ZipInfo, links: set[str]) -> tuple[str, str] | None:
    """Returns why a zip member is not even tried, as (reason, detail), or None."""
    path = pathlib.PurePosixPath(info.filename)
    windows = pathlib.PureWindowsPath(info.filename)
    if path.is_absolute() or windows.drive or "\\" in info.filename or ".." in path.parts:
        return "unsafe name", "names must be relative, with '/' between folders and no '..'"
    if info.filename in links or links.intersection(map(str, path.parents)):
        return "symlink", "links are not followed; put the file itself into the archive"
    if info.flag_bits & 0x1:
        return "encrypted", "make the archive without a password"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "unsupported", f"compression method {info.compress_type}; use store or deflate"
    if _is_archive(info.filename):
        return "nested archive", "name the inner archive itself as a source"
    return None


def _is_link(info: zipfile.ZipInfo) -> bool:
    return stat.S_ISLNK(info.external_attr >> 16)


def _is_archive(name: str) -> bool:
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def _is_ignored(name: str) -> bool:
    """Returns whether a file, or a folder above it, is hidden or left there by a file manager."""
    return any(
        part.lower() in _IGNORED or (part.startswith(".") and part not in (".", ".."))
        for part in name.split("/")
    )


def _bounded_size(size: int) -> None:
    if size > MAX_BYTES:
        raise Rejected("too large", f"more than {MAX_BYTES // 2**20} MiB")


def _bounded(data: bytes) -> bytes:
    _bounded_size(len(data))
    return data
