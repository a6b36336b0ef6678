"""Find the class of each image: from its name (`cat.0.jpg`, `cat/0.jpg`) or from a list."""

import hashlib
import os
import re
from collections.abc import Collection, Sequence

from tfpipe.core.errors import UserError
from tfpipe.sources import label_list

MODES = ("auto", "filename", "folder")

# Prefix of a list's path in the option `labels`.
CSV = "csv:"

# Names that are meant as images. Some formats are not readable: listing them here makes such a file
# a reject, rather than a file that is no image.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".dib", ".webp", ".tif", ".tiff"),
    *(".mpo", ".pjpeg", ".ppm", ".pgm", ".pbm", ".pnm"),
    *(".avif", ".heic", ".heif", ".hif", ".jp2", ".j2k", ".jxl", ".tga"),
)

_WORD_NUMBER = re.compile(r"(?P<label>[^\W\d_][\w -]*)\.\d+\.\w+")
_ALLOWED = f"{', '.join(MODES)} or {CSV}FILE"


def is_image_name(name: str) -> bool:
    """Return whether a file name ends as an image's, in upper or lower case."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def check(mode: str) -> None:
    """Raise UserError if `assign` does not know `mode`."""
    if mode not in MODES and not (mode.startswith(CSV) and mode != CSV):
        raise UserError(f"`labels={mode}`: give {_ALLOWED}", status=2)


def fingerprint(mode: str, group_column: str = "") -> str:
    """Return a hex digest of the labels and groups in the list of `mode`; "" without a list."""
    if not mode.startswith(CSV):
        return ""
    rows = label_list.read(mode[len(CSV) :], group_column)
    return hashlib.sha256(repr([row[1:] for row in rows]).encode()).hexdigest()


def assign(names: Sequence[str], mode: str, own: Sequence[str | None] | None = None) -> list[str]:
    """Label images. One rule labels all images that their source does not label.

    Args:
        names: paths relative to their source, with `/` between folders.
        mode: "filename" takes the word of `word.number.ext`; "folder" the name of the innermost
            folder; "auto" the file name if every name has that form, else the folder; "csv:FILE"
            looks up the path, or the file name alone, in a list.
        own: the source's label of each name; None to apply the rule.

    Returns:
        One label for each name.

    Raises:
        UserError: a name has no label, or all names have the same label.
    """
    check(mode)
    own = own or [None] * len(names)
    unlabelled = [name for name, label in zip(names, own, strict=True) if label is None]
    if not unlabelled:
        ruled, origin = [], "list given as `source`"
    elif mode.startswith(CSV):
        ruled, origin = [row.label for row in _rows(unlabelled, mode)], "list"
    else:
        ruled, origin = _from_names(unlabelled, mode)
    rest = iter(ruled)
    labels = [next(rest) if label is None else label for label in own]
    classes = sorted(set(labels))
    if len(classes) < 2:
        raise UserError(
            f"`labels={mode}`: {classes[0]!r} is the only class by the {origin}, but at least two"
            f" are needed: add images of another class, or choose another of `labels`: {_ALLOWED}"
        )
    return labels


def groups(
    names: Sequence[str], mode: str, group_column: str, own: Sequence[str | None] | None = None
) -> list[str]:
    """Find the group of each image. Images of one group stay in one split.

    Args:
        names: paths relative to their source.
        mode: as for `assign`; only "csv:FILE" has groups.
        group_column: column of the groups, which the list may lack; "" for no groups.
        own: the source's group of each name, or ""; None if the source has no labels.

    Returns:
        One group for each name; "" for none.

    Raises:
        UserError: the list lacks a name.
    """
    own = own or [None] * len(names)
    if not mode.startswith(CSV) or not group_column:
        return [group or "" for group in own]
    missing = [name for name, group in zip(names, own, strict=True) if group is None]
    rest = iter(_rows(missing, mode, group_column))
    return [next(rest).group if group is None else group for group in own]


def order(found: Collection[str], classes: str) -> tuple[str, ...]:
    """Return the classes in the order of their indices.

    Args:
        found: labels of all images.
        classes: names separated by commas; "" sorts the labels.

    Raises:
        UserError: `classes` repeats a name, lacks a label, or names a class without images.
    """
    found = set(found)
    if not classes:
        return tuple(sorted(found))
    named = [name.strip() for name in classes.split(",")]
    hint = "name every class once, such as `classes=dog,cat`, or omit `classes` to sort them"
    twice = next((name for name in named if named.count(name) > 1 or not name), None)
    if twice is not None:
        what = "appears twice" if twice else "is not a class"
        raise UserError(f"`classes={classes}`: {twice!r} {what}: {hint}", status=2)
    missing, strange = sorted(found.difference(named)), [n for n in named if n not in found]
    if missing:
        raise UserError(f"`classes={classes}` lacks the images' class {missing[0]!r}: {hint}")
    if strange:
        raise UserError(
            f"`classes={classes}`: no image has class {strange[0]!r}, only"
            f" {_some(sorted(found))}: {hint}"
        )
    return tuple(named)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(map(repr, names[:10])) + more


def _from_names(names: Sequence[str], mode: str) -> tuple[list[str], str]:
    """Return the labels and, for a message, their origin."""
    from_filename = [_filename_label(name) for name in names]
    odd = next((name for name, label in zip(names, from_filename, strict=True) if not label), None)
    if mode == "filename" or (mode == "auto" and odd is None):
        if odd is not None:
            raise UserError(
                f"`labels=filename`: {odd!r} has no label, because it is not word.number.ext like"
                " 'cat.0.jpg': rename or remove it, or use `labels=folder`"
            )
        return from_filename, "file names"
    labels = [_folder_label(name) for name in names]
    bare = next((name for name, label in zip(names, labels, strict=True) if not label), None)
    if bare is not None:
        also = f", and {odd!r} is not word.number.ext like 'cat.0.jpg'" if mode == "auto" else ""
        raise UserError(
            f"`labels={mode}`: {bare!r} has no label, because it is in no folder like"
            f" 'cat/0.jpg'{also}: move, rename or remove it"
        )
    origin = "folder names"
    if mode == "auto":
        origin += f" (because {odd!r} is not word.number.ext like 'cat.0.jpg')"
    return labels, origin


def _rows(names: Sequence[str], mode: str, group_column: str = "") -> list[label_list.Row]:
    path = mode[len(CSV) :]
    known = {row.path: row for row in label_list.read(path, group_column)}
    rows, user = [], {}
    for name in names:
        key = name
        if name not in known:
            key = os.path.basename(name)
            if key not in known:
                raise UserError(
                    f"`labels={CSV}{path}`: the list has neither {name!r} nor {key!r}: add a line,"
                    " or remove the file"
                )
            if user.setdefault(key, name) != name:  # files of one name may have two classes
                raise UserError(
                    f"`labels={CSV}{path}`: {key!r} may be {user[key]!r} or {name!r}: write both"
                    " with their folders"
                )
        rows.append(known[key])
    return rows


def _filename_label(name: str) -> str:
    match = _WORD_NUMBER.fullmatch(os.path.basename(name))
    return match["label"] if match else ""


def _folder_label(name: str) -> str:
    return os.path.basename(os.path.dirname(name))
