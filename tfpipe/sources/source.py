"""Define the interface of all sources, and limits for one file."""

import functools
import hashlib
from collections.abc import Mapping
from typing import BinaryIO, NamedTuple

from tfpipe.core import remote, storage
from tfpipe.core.errors import Rejected
from tfpipe.sources.list_columns import FOUND, Columns
from tfpipe.sources.member import SYMLINK
from tfpipe.sources.options import DEFAULTS, Options

# A photo has a few MB; 64 MiB holds a 20-megapixel 24-bit BMP. The limit bounds the memory that a
# hostile file can cost a worker.
MAX_BYTES = 64 * 2**20

# Image data hardly shrinks in an archive, a plain BMP rarely by more than 50:1. Zip bombs approach
# the limit of deflate, 1032:1. Small files may have any ratio.
MAX_RATIO = 200
RATIO_FREE_BYTES = 2**20


class Annotation(NamedTuple):
    """What a source itself says about one of its files.

    Attributes:
        label: as of `label_set`; "" if the source names none.
        group: files of one group stay in one split; "" for none.
        split: name of the split that the file belongs to; "" for none.
    """

    label: str = ""
    group: str = ""
    split: str = ""


class Source:
    """Files at one path, listed at first use and read one at a time.

    A pickled copy holds only the path and the options, and lists the files again.

    Attributes:
        path: given by the user.
        options: how to read it.
    """

    kind = ""  # for messages, such as "a zip archive"
    holds_images_only = False  # whether every member is an image, whatever its name

    def __init__(self, path: str, options: Options = DEFAULTS):
        self.path = path
        self.options = options

    def __reduce__(self):
        return type(self), (self.path, self.options)

    @classmethod
    def fits(cls, path: str) -> bool:
        """Return whether this class can read `path`, which exists."""
        raise NotImplementedError

    def read(self, name: str) -> bytes:
        """Return the contents of one member of `names()`, at most `MAX_BYTES`.

        Raises:
            Rejected: the member is too large, damaged or unreadable.
        """
        raise NotImplementedError

    def head(self, name: str, size: int) -> bytes:
        """Return the first `size` bytes of a member, or all; raise as `read`."""
        return self.read(name)[:size]

    def names(self) -> list[str]:
        """Return the sorted names of the members."""
        return sorted(self._listing[0])

    @property
    def skipped(self) -> list[tuple[str, str, str]]:
        """Files that are not members, sorted: (name, reason, detail)."""
        return sorted(self._listing[1])

    def annotations(self, columns: Columns = FOUND) -> dict[str, Annotation]:
        """Return what the source says about its files, skipped or not; empty if it says nothing.

        Args:
            columns: the columns of a list that a person names.
        """
        del columns
        return {}

    def notes(self, columns: Columns | None) -> list[str]:
        """Return lines that say how the source is understood.

        Args:
            columns: as for `annotations`; None if labels are not needed.
        """
        del columns
        return []

    def warnings(self) -> list[str]:
        """Return lines that say what a person may not expect."""
        links = [(name, detail) for name, reason, detail in self.skipped if reason == SYMLINK]
        if not links:
            return []
        count = "1 symbolic link" if len(links) == 1 else f"{len(links):,} symbolic links"
        return [f"{self.path}: {count}, the first {links[0][0]!r}: {links[0][1]}"]

    def locate(self, name: str) -> str:
        """Return the path of a member for messages: the source's path and the name."""
        return f"{self.path.rstrip('/')}/{name}"

    def prepare(self) -> None:
        """Do slow work before the first `read`, such as listing an archive."""
        if remote.is_remote(self.path):
            storage.exists(self.path)  # loads TensorFlow

    def release(self) -> None:
        """Free the memory of a large listing; the next use lists the files again."""
        self.__dict__.pop("_listing", None)

    def fingerprint(self) -> str:
        """Return a hex digest that changes when a member changes, without reading members."""
        members, skipped = self._listing
        digest = hashlib.sha256()
        for name in sorted(members):
            digest.update(repr((name, members[name])).encode())
        for line in sorted(skipped):
            digest.update(repr(line).encode())
        return digest.hexdigest()

    @functools.cached_property
    def _listing(self) -> tuple[Mapping[str, tuple], list[tuple[str, str, str]]]:
        """Members (name to a tuple that changes with the contents), and skipped files."""
        raise NotImplementedError


def check_size(size: int) -> None:
    """Raise Rejected for a file of more than `MAX_BYTES`."""
    if size > MAX_BYTES:
        raise Rejected("too large", f"more than {MAX_BYTES // 2**20} MiB")


def read_bounded(file: BinaryIO) -> bytes:
    """Return the rest of a file; raises Rejected if it has more than `MAX_BYTES`."""
    data = file.read(MAX_BYTES + 1)
    check_size(len(data))
    return data
