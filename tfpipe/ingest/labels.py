"""What class an image belongs to, read from its name: `cat.0.jpg` or `cat/0.jpg`."""

import os
import re
from collections.abc import Sequence

from tfpipe.errors import UserError

MODES = ("auto", "filename", "folder")

# A file is meant as an image if its name says so; whether it is one, only its contents tell. The
# list holds formats that are not read too, so that such a file is rejected by its contents.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".dib", ".webp", ".tif", ".tiff"),
    *(".avif", ".heic", ".heif", ".jp2", ".j2k", ".jxl"),
)

_WORD_NUMBER = re.compile(r"(?P<label>[^\W\d_][\w -]*)\.\d+\.\w+")


def is_image_name(name: str) -> bool:
    """Returns whether a file's name ends as an image's does, in any case."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def assign(names: Sequence[str], mode: str) -> list[str]:
    """Labels images by one rule for all of them.

    Args:
        names: paths relative to their source, with `/` between folders.
        mode: "filename" takes the word of `word.number.ext`, "folder" the innermost folder's name,
            and "auto" the file name if every name has that form, else the folder.

    Returns:
        One label for each name.

    Raises:
        UserError: a name has no label, or all have the same.
    """
    from_filename = [_filename_label(name) for name in names]
    odd = next((name for name, label in zip(names, from_filename, strict=True) if not label), None)
    if mode == "filename" or (mode == "auto" and odd is None):
        if odd is not None:
            raise UserError(
                f"--labels=filename: {odd!r} has no label, as it is not word.number.ext like"
                " 'cat.0.jpg': rename or remove it, or use --labels=folder"
            )
        labels, origin = from_filename, "file names"
    else:
        labels = [_folder_label(name) for name in names]
        bare = next((name for name, label in zip(names, labels, strict=True) if not label), None)
        if bare is not None:
            also = (
                f", and {odd!r} is not word.number.ext like 'cat.0.jpg'" if mode == "auto" else ""
            )
            raise UserError(
                f"--labels={mode}: {bare!r} has no label, as it lies in no folder like"
                f" 'cat/0.jpg'{also}: move, rename or remove it"
            )
        origin = "folder names"
        if mode == "auto":
            origin += f" (as {odd!r} is not word.number.ext like 'cat.0.jpg')"
    classes = sorted(set(labels))
    if len(classes) < 2:
        raise UserError(
            f"--labels={mode}: {classes[0]!r} is the only class by the {origin}, and at least two"
            f" are needed: add images of another, or choose another of --labels={'|'.join(MODES)}"
        )
    return labels


def _filename_label(name: str) -> str:
    match = _WORD_NUMBER.fullmatch(os.path.basename(name))
    return match["label"] if match else ""


def _folder_label(name: str) -> str:
    return os.path.basename(os.path.dirname(name))
