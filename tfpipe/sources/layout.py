"""Read the classes and splits of images from their paths: `train/cat/1.jpg`, `cat.0.jpg`.

Where paths can be read in two ways, `read` does not choose: its error shows both readings.
"""

import collections
import dataclasses
import os
import re
import statistics
import sys
from collections.abc import Collection, Mapping, Sequence

from tfpipe.core.errors import UserError
from tfpipe.sources import class_folders, folder_path, split_name
from tfpipe.sources.folder_path import FolderPath
from tfpipe.sources.folder_tree import FOLDER, NUMBERED, FolderTree
from tfpipe.sources.readings import describe, question

AUTO, FILENAME = "auto", "filename"

_WORD_NUMBER = re.compile(r"(?P<label>[^\W\d_][\w -]*)\.\d+\.\w+")
_FORM = "word.number.ext like 'cat.0.jpg'"

# A single image with its own word is taken for a stray file if half the words have this many.
_MANY = 10

_SHOWN = 3  # folders or lists of a message


@dataclasses.dataclass(frozen=True)
class Layout:
    """What the paths of some images say.

    Attributes:
        labels: the class of each image; "" for none.
        splits: "train", "val", "test" or "" for each image.
        origin: where the labels come from, such as "folder under train/".
    """

    labels: list[str]
    splits: list[str]
    origin: str


def read(
    images: Sequence[tuple[str, str]],
    mode: str = AUTO,
    classes: Collection[str] = (),
    *,
    ask_splits: bool = True,
    lists: Sequence[str] = (),
) -> Layout:
    """Find the class and the split of each image.

    Args:
        images: the path of the source of each image, and its name there.
        mode: "folder" for the first folder below the splits, "filename" for the word of
            `word.number.ext`, "folder:N" for the Nth folder of the path (0 for the source's own
            name, -1 for the innermost), or "auto" for "folder" if there are class folders, else
            "filename".
        classes: names that are classes, whatever else they may mean.
        ask_splits: whether splits that can be read in two ways are an error too.
        lists: paths of lists beside the images, for the message of an error.

    Raises:
        UserError: no image has a class, or "auto" has two readings.
    """
    folders = _folders(images)
    counts = collections.Counter(folders)
    if mode == FILENAME:
        splits = FolderTree(counts).any_splits(everywhere=True)
        return _by_filename(folders, images, splits, ask=False)
    if mode.startswith(NUMBERED):
        return _by_number(folders, counts, int(mode[len(NUMBERED) :]))
    ask = mode == AUTO
    tree = class_folders.read_folders(counts, classes, ask=ask, ask_splits=ask and ask_splits)
    if any(tree.labels.values()):
        found = _layout(folders, tree.labels, tree.splits, tree.origin)
        if ask:
            _check_names(images, found)
        _check_sources(images, found)
        return found
    if ask and any(_word(name) for _, name in images):
        return _by_filename(folders, images, tree.splits, ask=True)
    raise UserError(f"`labels={mode}`: {_why_no_class(counts, ask, lists)}")


def read_splits(images: Sequence[tuple[str, str]], *, everywhere: bool = True) -> list[str]:
    """Return the split that some folder of each image's path names; "" for none.

    Args:
        images: as for `read`.
        everywhere: whether a folder around all images may name the split of all.
    """
    folders = _folders(images)
    splits = FolderTree(collections.Counter(folders)).any_splits(everywhere=everywhere)
    return [splits[key] for key in folders]


def _folders(images: Sequence[tuple[str, str]]) -> list[FolderPath]:
    """Return the folder of each image; there are far fewer than images, so equal ones are one."""
    found: dict[FolderPath, FolderPath] = {}
    paths = (FolderPath(root, os.path.dirname(name)) for root, name in images)
    return [found.setdefault(path, path) for path in paths]


def _by_number(
    folders: Sequence[FolderPath], counts: Mapping[FolderPath, int], number: int
) -> Layout:
    """Read the Nth folder of each path as its class, and the other folders as splits."""
    several = len({key.root for key in counts}) > 1
    labels, splits = {}, {}
    for key in counts:
        inside = folder_path.trail(key.name)
        if number < 0:  # counted from the innermost that is no split
            inside = [name for name in inside if not split_name.recognize(name)] or inside
        names = inside if number else [folder_path.source_name(key.root)]
        place = number - (number > 0)
        labels[key] = names[place] if -len(names) <= place < len(names) else ""
        others = [name for name in folder_path.trail(key.name) if name != labels[key]]
        if several:
            above = os.path.dirname(os.path.abspath(key.root))
            others = [folder_path.source_name(above), folder_path.source_name(key.root), *others]
        splits[key] = next(filter(None, map(split_name.recognize, others)), "")
    if not any(labels.values()):
        first = folders[0]
        raise UserError(
            f"`labels={NUMBERED}{number}`: no image has that many folders; the first lies in"
            f" {first.root}/{first.name}: give 0 for the source itself, 1 for the first folder in"
            " it, or -1 for the innermost"
        )
    return _layout(folders, labels, splits, f"{NUMBERED}{number}")


def _by_filename(
    folders: Sequence[FolderPath],
    images: Sequence[tuple[str, str]],
    splits: Mapping[FolderPath, str],
    *,
    ask: bool,
) -> Layout:
    found = Layout(
        [_word(name) for _, name in images], [splits[key] for key in folders], "file name"
    )
    held_out = (split_name.VAL, split_name.TEST)
    base = [i for i, split in enumerate(found.splits) if split not in held_out]
    base = base or list(range(len(images)))
    counts = collections.Counter(filter(None, (found.labels[i] for i in base)))
    if not counts:
        raise UserError(
            f"`labels=filename`: none of {len(base)} names is {_FORM}: rename the images, sort them"
            " into folders (`labels=folder`), or give a list by `labels=csv:FILE`"
        )
    odd = [images[i][1] for i in base if not found.labels[i]]
    if odd and ask:
        raise UserError(
            f"`labels=auto`: {len(odd)} of {len(base)} images have no label, the first {odd[0]!r}:"
            f" they are in no class folder, and their names are not {_FORM}, as the others are"
            f" ({describe(counts)}): `labels=filename` leaves them unlabelled; or name them in"
            " `exclude`"
        )
    stray = [word for word, count in counts.items() if count == 1]
    if ask and stray and statistics.median(counts.values()) >= _MANY:
        name = next(name for _, name in images if _word(name) == stray[0])
        raise UserError(
            f"`labels=auto`: by its name, {name!r} would be a class of one image:"
            f" {describe(counts)}: `labels=filename` accepts that; or name it in `exclude`"
        )
    return found


def _check_names(images: Sequence[tuple[str, str]], found: Layout) -> None:
    """Raise UserError if the names of the labelled images divide them in another way."""
    chosen = [i for i, label in enumerate(found.labels) if label]
    words = []
    for i in chosen:
        words.append(_word(images[i][1]))
        if not words[-1]:
            return
    labels = [found.labels[i] for i in chosen]
    if len(set(words)) < 2:
        return
    if not len(set(zip(words, labels, strict=True))) == len(set(words)) == len(set(labels)):
        why = f"the images lie in folders, and their names are {_FORM}"
        readings = {FOLDER: collections.Counter(labels), FILENAME: collections.Counter(words)}
        raise question(why, readings)


def _check_sources(images: Sequence[tuple[str, str]], found: Layout) -> None:
    """Raise UserError if a whole source has no label, unless it is a split to hold out."""
    fine = {
        root
        for (root, _), label, split in zip(images, found.labels, found.splits, strict=True)
        if label or split in (split_name.VAL, split_name.TEST)
    }
    lost = next((root for root, _ in images if root not in fine), None)
    if lost is not None:
        raise UserError(
            f"`source={lost}`: none of its images lies in a class folder, as those of the other"
            f" sources do: name the folder above it; or give `labels={NUMBERED}0` if each source"
            " is a class"
        )


def _why_no_class(counts: Mapping[FolderPath, int], ask: bool, lists: Sequence[str]) -> str:
    """Return why no image has a label, and what to do."""
    text = f"none of the {sum(counts.values())} images lies in a class folder like 'cat/0.jpg'"
    inner = sorted({key.name for key in counts if key.name})
    if len(inner) == 1:
        text += f" ({inner[0]}/ counts as a folder around everything, unless `classes` names it)"
    elif inner:
        more = f" and {len(inner) - _SHOWN} more" if len(inner) > _SHOWN else ""
        text += f" (they are in {', '.join(f'{name}/' for name in inner[:_SHOWN])}{more})"
    text += f", and no name is {_FORM}" if ask else ""
    if lists:
        return f"{text}: if {lists[0]} holds the labels, give `labels=csv:{lists[0]}`"
    sources = collections.Counter()
    for key, count in counts.items():
        sources[folder_path.source_name(key.root)] += count
    if len(sources) > 1 and not any(map(split_name.recognize, sources)):
        text += f": take each source for a class by `labels={NUMBERED}0` ({describe(sources)}),"
    else:
        text += ":"
    return f"{text} sort the images into class folders, or give a list by `labels=csv:FILE`"


def _layout(
    folders: Sequence[FolderPath],
    labels: Mapping[FolderPath, str],
    splits: Mapping[FolderPath, str],
    origin: str,
) -> Layout:
    return Layout([labels[key] for key in folders], [splits[key] for key in folders], origin)


def _word(name: str) -> str:
    match = _WORD_NUMBER.fullmatch(name.rpartition("/")[2])
    return sys.intern(match["label"]) if match else ""
