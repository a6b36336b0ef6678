"""Check the name of a file in a folder or archive: is it safe, hidden, or an archive."""

import pathlib
import re
from collections.abc import Set

# An archive inside a source is reported, never opened.
ARCHIVE_SUFFIXES = (
    *(".zip", ".tar", ".tgz", ".tbz2", ".txz", ".gz", ".bz2", ".xz", ".zst", ".lz4"),
    *(".7z", ".rar"),
)

# Names that are meant as images. Some formats are not readable: listing them here makes such a file
# a reject, rather than a file that is no image.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".dib", ".webp", ".tif", ".tiff"),
    *(".mpo", ".pjpeg", ".ppm", ".pgm", ".pbm", ".pnm"),
    *(".avif", ".heic", ".heif", ".hif", ".jp2", ".j2k", ".jxl", ".tga"),
)

# Names of files that lie beside images or archives.
_DOCUMENTS = (
    *(".csv", ".tsv", ".txt", ".json", ".jsonl", ".md", ".html", ".pdf", ".xml", ".yaml", ".yml"),
    *("license", "readme"),
)

SYMLINK = "symlink"
COPY = "copy"  # of a member, such as a transformed one, or a second link; nothing is lost
NESTED = ("nested archive", "name the inner archive as a source")
REPEATED = ("repeated name", "only the last member of this name is used")

# Hidden files and folders (but not "." and ".."), and leftovers of file managers. They are never
# meant as input, so they are not reported.
_IGNORED = re.compile(
    r"(?:^|/)(?:\.(?!\.?(?:/|\Z))|(?:__macosx|thumbs\.db|desktop\.ini)(?:/|\Z))", re.IGNORECASE
)


def refuse_name(name: str, links: Set[str]) -> tuple[str, str] | None:
    """Return why the name of an archive's member is refused, as (reason, detail), or None.

    Nothing is unpacked, so an unsafe name does no harm here, but it signals a hostile archive.

    Args:
        name: name in the archive.
        links: names of the archive's links; members below a link are refused too.
    """
    if not (links or name.startswith("/") or ":" in name or "\\" in name or ".." in name):
        return None  # the common case, in a tenth of the time
    path = pathlib.PurePosixPath(name)
    windows = pathlib.PureWindowsPath(name)
    if path.is_absolute() or windows.drive or "\\" in name or ".." in path.parts:
        return "unsafe name", "names must be relative, with '/' between folders and no '..'"
    if name in links or links.intersection(map(str, path.parents)):
        return SYMLINK, "links are not followed: put the files themselves into the archive"
    return None


def is_image_name(name: str) -> bool:
    """Return whether a file name ends as an image's, in upper or lower case."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def is_document(name: str) -> bool:
    """Return whether a file name ends as a list's or a text's."""
    return name.lower().endswith(_DOCUMENTS)


def is_archive(name: str) -> bool:
    """Return whether a name ends as an archive's."""
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def is_ignored(name: str) -> bool:
    """Return whether a file or a folder above it is hidden, or left by a file manager."""
    return _IGNORED.search(name) is not None
