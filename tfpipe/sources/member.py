"""What the name of a file in a folder or archive says: that it is safe, meant, and no archive."""

import pathlib
import re
from collections.abc import Set

# An archive inside a source is reported, never opened.
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")

NESTED = ("nested archive", "name the archive itself as a source")
REPEATED = ("repeated name", "the last member of this name counts")

# A part of a path that is hidden, but not "." or "..", or that file managers leave behind. Nobody
# means these, so they are not even reported.
_IGNORED = re.compile(
    r"(?:^|/)(?:\.(?!\.?(?:/|\Z))|(?:__macosx|thumbs\.db|desktop\.ini)(?:/|\Z))", re.IGNORECASE
)


def refuse_name(name: str, links: Set[str]) -> tuple[str, str] | None:
    """Returns why an archive's member of this name is not even tried, as (reason, detail), or None.

    Nothing is unpacked, so that such a name could do no harm here; but whoever made it meant some.

    Args:
        name: as the archive has it.
        links: the names of its links; what lies below one is refused like the link.
    """
    if not (links or name.startswith("/") or ":" in name or "\\" in name or ".." in name):
        return None  # as almost always, and at a tenth of the time
    path = pathlib.PurePosixPath(name)
    windows = pathlib.PureWindowsPath(name)
    if path.is_absolute() or windows.drive or "\\" in name or ".." in path.parts:
        return "unsafe name", "names must be relative, with '/' between folders and no '..'"
    if name in links or links.intersection(map(str, path.parents)):
        return "symlink", "links are not followed; put the file itself into the archive"
    return None


def is_archive(name: str) -> bool:
    """Returns whether a file is an archive, by its name."""
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def is_ignored(name: str) -> bool:
    """Returns whether a file, or a folder above it, is hidden or left there by a file manager."""
    return _IGNORED.search(name) is not None
