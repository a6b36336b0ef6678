"""Find the class, group and split of each image: from its source, a list, or its path."""

import collections
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence

from tfpipe.core.errors import UserError
from tfpipe.records import label_set
from tfpipe.sources import class_name, label_list, layout, split_name
from tfpipe.sources.folder_path import source_name
from tfpipe.sources.folder_tree import FOLDER, NUMBERED
from tfpipe.sources.layout import AUTO, FILENAME
from tfpipe.sources.list_columns import FOUND, Columns
from tfpipe.sources.path_index import LocatedFiles
from tfpipe.sources.source import Annotation

# Prefix of a list's path in the option `labels`.
CSV = "csv:"

_ALLOWED = f"{AUTO}, {FILENAME}, {FOLDER}, {NUMBERED}N or {CSV}FILE"
_NUMBER = re.compile(rf"{NUMBERED}(0|-?[1-9]\d?)")


def check(mode: str) -> None:
    """Raise UserError if `annotate` does not know `mode`."""
    known = mode in (AUTO, FILENAME, FOLDER) or _NUMBER.fullmatch(mode)
    if not known and not (mode.startswith(CSV) and mode != CSV):
        raise UserError(f"`labels={mode}`: give {_ALLOWED}", status=2)


def fingerprint(mode: str) -> str:
    """Return a hex digest of the list of `mode`; "" without a list."""
    return label_list.digest(mode[len(CSV) :]) if mode.startswith(CSV) else ""


def annotate(
    files: Sequence[tuple[str, str]],
    mode: str,
    own: Sequence[Annotation | None] | None = None,
    *,
    columns: Columns = FOUND,
    classes: Sequence[str] = (),
    ask_splits: bool = True,
    lists: Sequence[str] = (),
) -> tuple[list[Annotation], str]:
    """Find the class, group and split of each image. One rule is for all that no source labels.

    Args:
        files: the path of the source of each image, and its name there.
        mode: a mode of `layout.read`, or "csv:FILE" to look up the image in a list, see
            `label_list.annotate`.
        own: what the source says about each image; None if nothing.
        columns: the columns of the list that a person names.
        classes: names that are classes, whatever else they may mean.
        ask_splits: whether splits that are unclear are an error.
        lists: paths of lists beside the images, for the message of an error.

    Returns:
        An annotation for each image, whose label is "" if it has none, and where the labels come
        from.

    Raises:
        UserError: no image has a label, all have the same, or the labels have two readings.
    """
    check(mode)
    nothing = Annotation()
    found = [each or nothing for each in own or [None] * len(files)]
    labelled = [i for i, each in enumerate(found) if each.label]
    plain = [i for i, each in enumerate(found) if not each.label] if labelled else range(len(found))
    origins = ["the source says"] if labelled else []
    images = _among(files, plain)
    if mode.startswith(CSV) and not plain:
        raise UserError(
            f"`labels={mode}` labels no image, because each `source` has its own labels: omit it"
        )
    listed: Iterable[Annotation] = ()
    if mode.startswith(CSV):
        listed = _look_up(mode[len(CSV) :], images, columns)
        origins.append("list")
    elif plain:
        read = layout.read(images, mode, classes, ask_splits=ask_splits, lists=lists)
        origins.append(read.origin)
        pairs = zip(read.labels, read.splits, strict=True)
        listed = (Annotation(label, "", split) for label, split in pairs)
    shared: dict[Annotation, Annotation] = {}  # there are far fewer than images
    for i, each in zip(plain, listed, strict=True):
        group, split = found[i].group or each.group, found[i].split or each.split
        said = Annotation(each.label, group, split)
        found[i] = shared.setdefault(said, said)
    by_root = collections.defaultdict(list)
    for i in labelled:
        by_root[files[i][0]].append(i)
    several = len({root for root, _ in files}) > 1
    for root, indices in by_root.items():
        split = split_name.recognize(source_name(root)) if several else ""
        _add_splits(files, found, indices, split)
    if mode.startswith(CSV):
        _add_splits(files, found, plain, everywhere=True)
    found = _clean(files, found, ask_splits)
    names = {name for text in {each.label for each in found} for name in label_set.names(text)}
    if len(names) < 2 and len(classes) < 2:
        raise UserError(
            f"`labels={mode}`: {min(names, default='')!r} is the only class"
            f" ({' and '.join(origins)}), but at least two are needed: add images of another class,"
            f" name all classes in `classes`, or choose another of `labels`: {_ALLOWED}"
        )
    return found, " and ".join(origins)


def spellings(names: Iterable[str], classes: Iterable[str]) -> list[str]:
    """Return a note about folders whose names were cleaned to become classes.

    Args:
        names: the names of the images, with their folders.
        classes: the classes.
    """
    forms = collections.defaultdict(set)
    for part in {part for path in {*map(os.path.dirname, names)} for part in path.split("/")}:
        forms[unicodedata.normalize("NFC", part).strip()].add(part)
    odd = sorted(
        name
        for name in set(classes) & forms.keys()
        if len(forms[name]) > 1 or any(part != part.strip() for part in forms[name])
    )
    if not odd:
        return []
    shown = ", ".join(map(ascii, sorted(forms[odd[0]])))
    more = f", and {len(odd) - 1} other classes are alike" if len(odd) > 1 else ""
    return [f"folders of class {odd[0]!r} are written {shown}, which counts as one name{more}"]


def _look_up(path: str, files: Sequence[tuple[str, str]], columns: Columns) -> list[Annotation]:
    """Return what a list says about images; nothing for those that it does not name."""
    nothing = Annotation()
    located = LocatedFiles(files, lambda file: (file[1], os.path.join(*file)))
    said = label_list.annotate(path, located, columns)
    return [each or nothing for each in said]


def _add_splits(
    files: Sequence[tuple[str, str]],
    found: list[Annotation],
    indices: Sequence[int],
    split: str = "",
    *,
    everywhere: bool = False,
) -> None:
    """Add splits to some annotations, unless a list says them.

    Args:
        files: as for `annotate`.
        found: the annotations, which change.
        indices: which of them.
        split: of all; "" to take what the folders say.
        everywhere: whether a folder around all of them may say it.
    """
    if any(found[i].split for i in indices):
        return
    splits = [split] * len(indices)
    if not split:
        splits = layout.read_splits(_among(files, indices), everywhere=everywhere)
    for i, each in zip(indices, splits, strict=True):
        if each:
            found[i] = found[i]._replace(split=each)


def _among(files: Sequence[tuple[str, str]], indices: Sequence[int]) -> Sequence[tuple[str, str]]:
    """Return some of the files; if it is all of them, they are not copied."""
    return files if len(indices) == len(files) else [files[i] for i in indices]


def _clean(
    files: Sequence[tuple[str, str]], found: Sequence[Annotation], ask_splits: bool
) -> list[Annotation]:
    """Return annotations with normal names of classes and splits."""
    labels, splits, clean = {"": ""}, {"": ""}, []
    shared: dict[Annotation, Annotation] = {}
    for file, each in zip(files, found, strict=True):
        if each.label not in labels:
            labels[each.label] = label_set.mapped(
                each.label, lambda name, file=file: class_name.normalize(name, "/".join(file))
            )
        if each.split not in splits:
            splits[each.split] = split_name.recognize(each.split)
            if each.split.strip() and not splits[each.split] and ask_splits:
                raise UserError(
                    f"{'/'.join(file)}: {each.split!r} is no split: write"
                    f" {', '.join(split_name.ALL)}, or nothing; or divide all images anew by"
                    " `splits=train:0.8,val:0.2`"
                )
        said = Annotation(labels[each.label], each.group, splits[each.split])
        clean.append(shared.setdefault(said, said))
    return clean
