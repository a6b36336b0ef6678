"""What every kind of source is, and how much of one file is read."""

import functools
import hashlib
from typing import BinaryIO

from tfpipe.core.errors import Rejected

# One file of a photo collection has a few MB; 64 MiB holds a 20-megapixel 24-bit BMP and bounds
# what a hostile file can make a worker allocate.
MAX_BYTES = 64 * 2**20

# Image data hardly shrinks in an archive, and a plain BMP seldom by more than 50:1; deflate's own
# limit, which bombs come near, is 1032:1. What is small may have any ratio.
MAX_RATIO = 200
RATIO_FREE_BYTES = 2**20


class Source:
    """Files at one path, listed at first use and read one at a time.

    It may be pickled: the copy holds only the path and lists the files anew.

    Attributes:
        path: as given by the user.
    """

    kind = ""  # for messages, as in "a zip archive"
    holds_images_only = False  # whether every member is meant as an image, whatever its name

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

    @property
    def labels(self) -> dict[str, str]:
        """The label of every member, skipped or not, where the source itself names labels."""
        return {}

    def groups(self, column: str) -> dict[str, str]:
        """The group of each member that has one, where the source itself names groups.

        Args:
            column: of the source's list, where it is one; "" is none.
        """
        del column
        return {}

    def locate(self, name: str) -> str:
        """Returns where a member is, for a person: the source's path and the name."""
        return f"{self.path.rstrip('/')}/{name}"

    def prepare(self) -> None:
        """Does once what `read` would do first, if that takes time, as to list an archive."""

    def release(self) -> None:
        """Frees the memory that listing took, if it is much; it is listed anew when needed."""

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


def check_size(size: int) -> None:
    """Raises Rejected for a file of more than `MAX_BYTES`."""
    if size > MAX_BYTES:
        raise Rejected("too large", f"more than {MAX_BYTES // 2**20} MiB")


def read_bounded(file: BinaryIO) -> bytes:
    """Returns the rest of a file; raises Rejected if that is more than `MAX_BYTES`."""
    data = file.read(MAX_BYTES + 1)
    check_size(len(data))
    return data
