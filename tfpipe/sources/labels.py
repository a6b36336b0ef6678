"""What class an image belongs to: from its name (`cat.0.jpg`, `cat/0.jpg`) or from a list."""

import hashlib
import os
import re
from collections.abc import Collection, Sequence

from tfpipe.core.errors import UserError
from tfpipe.sources import label_list

MODES = ("auto", "filename", "folder")

# What precedes the path of a list in --labels.
CSV = "csv:"

# A file is meant as an image if its name says so; whether it is one, only its contents tell. The
# list holds formats that are not read too, so that such a file is rejected by its contents.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".dib", ".webp", ".tif", ".tiff"),
    *(".avif", ".heic", ".heif", ".jp2", ".j2k", ".jxl"),
)

_WORD_NUMBER = re.compile(r"(?P<label>[^\W\d_][\w -]*)\.\d+\.\w+")
_ALLOWED = f"{', '.join(MODES)} or {CSV}FILE"


def is_image_name(name: str) -> bool:
    """Returns whether a file's name ends as an image's does, in any case."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def check(mode: str) -> None:
    """Raises UserError if `mode` is none that `assign` knows."""
    if mode not in MODES and not (mode.startswith(CSV) and mode != CSV):
        raise UserError(f"--labels={mode}: give {_ALLOWED}", status=2)


def fingerprint(mode: str, group_column: str = "") -> str:
    """Returns a hex digest of the labels and groups in the list that `mode` names, "" for none."""
    if not mode.startswith(CSV):
        return ""
    rows = label_list.read(mode[len(CSV) :], group_column)
    return hashlib.sha256(repr([row[1:] for row in rows]).encode()).hexdigest()


def assign(names: Sequence[str], mode: str, own: Sequence[str | None] | None = None) -> list[str]:
    """Labels images, by one rule for all whose source does not label them itself.

    Args:
        names: paths relative to their source, with `/` between folders.
        mode: "filename" takes the word of `word.number.ext`, "folder" the innermost folder's name,
            and "auto" the file name if every name has that form, else the folder; "csv:FILE" looks
            the name, or else the file name alone, up in a list.
        own: for each name its source's label, None for one that the rule is to label.

    Returns:
        One label for each name.

    Raises:
        UserError: a name has no label, or all have the same.
    """
    check(mode)
    own = own or [None] * len(names)
    unlabelled = [name for name, label in zip(names, own, strict=True) if label is None]
    if not unlabelled:
        ruled, origin = [], "list given as --source"
    elif mode.startswith(CSV):
        ruled, origin = [row.label for row in _rows(unlabelled, mode)], "list"
    else:
        ruled, origin = _from_names(unlabelled, mode)
    rest = iter(ruled)
    labels = [next(rest) if label is None else label for label in own]
    classes = sorted(set(labels))
    if len(classes) < 2:
        raise UserError(
            f"--labels={mode}: {classes[0]!r} is the only class by the {origin}, and at least two"
            f" are needed: add images of another, or choose another of --labels={'|'.join(MODES)}"
        )
    return labels


def groups(
    names: Sequence[str], mode: str, group_column: str, own: Sequence[str | None] | None = None
) -> list[str]:
    """Finds the groups of images, which splits do not part, where `assign` finds their labels.

    Args:
        names: paths relative to their source.
        mode: as for `assign`; "csv:FILE" looks the name up in a list, all others know no groups.
        group_column: the column of the groups in the list; the list may lack it, "" is none.
        own: for each name its source's group or "", None where the source has no labels itself.

    Returns:
        For each name its group, "" for none.

    Raises:
        UserError: the list does not have a name.
    """
    own = own or [None] * len(names)
    if not mode.startswith(CSV) or not group_column:
        return [group or "" for group in own]
    missing = [name for name, group in zip(names, own, strict=True) if group is None]
    rest = iter(_rows(missing, mode, group_column))
    return [next(rest).group if group is None else group for group in own]


def order(found: Collection[str], classes: str) -> tuple[str, ...]:
    """Returns the classes in the order of their indices.

    Args:
        found: the labels of all images, each once or more.
        classes: names divided by commas, as from `--classes`; "" sorts them.

    Raises:
        UserError: a name is there twice, or is of no image, or an image's is not there.
    """
    found = set(found)
    if not classes:
        return tuple(sorted(found))
    named = [name.strip() for name in classes.split(",")]
    hint = "name every class once, as in --classes=dog,cat, or leave the flag out to sort them"
    twice = next((name for name in named if named.count(name) > 1 or not name), None)
    if twice is not None:
        what = "is there twice" if twice else "is no class"
        raise UserError(f"--classes={classes}: {twice!r} {what}: {hint}", status=2)
    missing, strange = sorted(found.difference(named)), [n for n in named if n not in found]
    if missing:
        raise UserError(
            f"--classes={classes}: the images' class {missing[0]!r} is not there: {hint}"
        )
    if strange:
        raise UserError(
            f"--classes={classes}: no image is of class {strange[0]!r}; they are of"
            f" {_some(sorted(found))}: {hint}"
        )
    return tuple(named)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(map(repr, names[:10])) + more


def _from_names(names: Sequence[str], mode: str) -> tuple[list[str], str]:
    """Returns the labels and, for a message, where they are from."""
    from_filename = [_filename_label(name) for name in names]
    odd = next((name for name, label in zip(names, from_filename, strict=True) if not label), None)
    if mode == "filename" or (mode == "auto" and odd is None):
        if odd is not None:
            raise UserError(
                f"--labels=filename: {odd!r} has no label, as it is not word.number.ext like"
                " 'cat.0.jpg': rename or remove it, or use --labels=folder"
            )
        return from_filename, "file names"
    labels = [_folder_label(name) for name in names]
    bare = next((name for name, label in zip(names, labels, strict=True) if not label), None)
    if bare is not None:
        also = f", and {odd!r} is not word.number.ext like 'cat.0.jpg'" if mode == "auto" else ""
        raise UserError(
            f"--labels={mode}: {bare!r} has no label, as it lies in no folder like"
            f" 'cat/0.jpg'{also}: move, rename or remove it"
        )
    origin = "folder names"
    if mode == "auto":
        origin += f" (as {odd!r} is not word.number.ext like 'cat.0.jpg')"
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
                    f"--labels={CSV}{path}: the list does not have {name!r}, nor {key!r}: add a"
                    " line for it, or remove the file"
                )
            if user.setdefault(key, name) != name:  # two files of one name may be of two classes
                raise UserError(
                    f"--labels={CSV}{path}: {key!r} may be {user[key]!r} or {name!r}: write each"
                    " with its folders"
                )
        rows.append(known[key])
    return rows


def _filename_label(name: str) -> str:
    match = _WORD_NUMBER.fullmatch(os.path.basename(name))
    return match["label"] if match else ""


def _folder_label(name: str) -> str:
    return os.path.basename(os.path.dirname(name))
