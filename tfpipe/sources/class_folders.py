"""Find the classes among the folders of images.

    data/train/cat/day1/     the class is the first folder below splits; deeper ones do not count

A folder around everything is skipped, such as `data`.
"""

import collections
from collections.abc import Collection, Mapping

from tfpipe.core.errors import UserError
from tfpipe.sources import split_name
from tfpipe.sources.folder_path import FolderPath, count, fold, trail
from tfpipe.sources.folder_tree import FOLDER, NUMBERED, FolderTree
from tfpipe.sources.readings import describe, question

# Folders that hold images of any class, or masks, or images of no class.
_CONTAINERS = frozenset(
    "annotations image images img imgs jpegimages labels masks segmentationclass"
    " segmentationobject thumbnails thumbs unlabeled unlabelled unsorted".split()
)


class ClassFolders(FolderTree):
    """The folders of images, with the class of each; `read` finds it."""

    def __init__(self, *arguments, **options):
        """Take the paths apart, as `FolderTree` does."""
        super().__init__(*arguments, **options)
        self._below: list[str] = []  # the folders around everything in the split folders

    def read(self) -> "ClassFolders":
        """Find the splits, then the classes.

        Raises:
            UserError: there is a second reading, and it is asked for.
        """
        super().read()
        self._read_classes()
        return self

    @property
    def origin(self) -> str:
        """Where the labels come from, such as "folder under train/"."""
        names = sorted(self.split_folders, key=lambda name: split_name.ALL.index(self.split(name)))
        paths = ([*self.above, *filter(None, [name]), *self._below] for name in names or [""])
        places = ", ".join(f"{'/'.join(path)}/" for path in paths if path)
        text = "folder" + (f" under {places}" if places else "")
        deep = next((rest for key, rest in self.trails.items() if self.labels[key] and rest[1:]), 0)
        return text + (f" (folders below it, such as {deep[1]}/, do not count)" if deep else "")

    def _read_classes(self) -> None:
        base = self._base()
        others = {
            split: [key for key, each in self.splits.items() if each == split]
            for split in {*self.splits.values()} - {self.splits[key] for key in base}
        }
        several = (self.firsts(keys) for keys in others.values())
        known = {fold(name) for names in several if len(names) > 1 for name in names}
        self._below = self.unwrap(base, known, through_splits=True)
        for key in base:
            self.labels[key] = (self.trails[key] or ("",))[0]
        classes = {*map(fold, self.firsts(base))} | self.classes
        if self.firsts(base):
            for split, keys in others.items():
                self._read_held_out(split, keys, classes)
        if self.ask:
            self._check_names()
            self._check_depths(base)

    def _base(self) -> list[FolderPath]:
        """Return the folders that decide the classes: those to train on, if there are any."""
        base = [key for key, split in self.splits.items() if split in ("", split_name.TRAIN)]
        has_train = split_name.TRAIN in self.splits.values()
        return base if has_train or self.firsts(base) else list(self.splits)

    def _read_held_out(self, split: str, keys: list[FolderPath], classes: Collection[str]) -> None:
        """Label a split by the classes to train on; without any of these it is unlabelled."""
        while len(names := self.firsts(keys)) == 1 and fold(min(names)) not in classes:
            self.skip(keys)
        strange = sorted(name for name in names if fold(name) not in classes)
        found = {key: (self.trails[key] or ("",))[0] for key in keys}
        if len(strange) < len(names):
            if strange and self.ask:
                raise UserError(
                    f"{split} has the folder {strange[0]}/, which train has not: `labels=folder`"
                    " takes it for a class; or leave it out by `exclude`, or rename it"
                )
            self.labels |= found
        elif strange and self.ask:
            number = len(trail(keys[0].name)) - len(self.trails[keys[0]]) + 1
            why = f"train has none of the classes of {split}, such as {strange[0]}"
            raise self.question(why, self.labels | found, f"{NUMBERED}{number}")

    def _check_names(self) -> None:
        """Raise UserError if a class has a name that seldom is one."""
        counts = count(self.labels, self.counts)
        odd = sorted(
            name
            for name in counts
            if name and (name.lower() in _CONTAINERS or self.split(name))
            if fold(name) not in self.classes
        )
        if odd:
            raise UserError(
                f"the folder {odd[0]}/ seldom is a class, but would be one: {describe(counts)}:"
                " `labels=folder` accepts it; or leave it out by `exclude`, name the folder of"
                f" the class by `labels={NUMBERED}N`, or give a list, `labels=csv:FILE`"
            )

    def _check_depths(self, base: Collection[FolderPath]) -> None:
        """Raise UserError if only some classes hold images, or most images are in no class."""
        loose = self.images(key for key in base if not self.trails[key])
        if loose > self.images(base) - loose > 0:
            raise UserError(
                f"{loose} images lie beside the class folders"
                f" ({describe(count(self.labels, self.counts))}): `labels=folder` leaves them"
                " unlabelled; or move them into class folders, or give a list, `labels=csv:FILE`"
            )
        inner = collections.defaultdict(set)
        for rest in filter(None, (self.trails[key] for key in base)):
            inner[rest[0]].add(rest[1] if rest[1:] else "")
        flat = sorted(name for name, below in inner.items() if "" in below)
        deep = {name: below for name, below in inner.items() if "" not in below}
        shared = len(deep) > 1 and set.intersection(*deep.values())
        again = sorted(name for name in deep if deep[name] & inner.keys() - {name})
        if again or (flat and any(len(below) > 1 for below in deep.values()) and not shared):
            name = (again or sorted(deep))[0]
            why = f"{(flat or [min(inner)])[0]}/ holds images, but {name}/ holds folders"
            last = {key: (rest or ("",))[-1] for key, rest in self.trails.items()}
            raise self.question(why, last, f"{NUMBERED}-1")


def read_folders(
    counts: Mapping[FolderPath, int], classes: Collection[str], *, ask: bool, ask_splits: bool
) -> ClassFolders:
    """Read the folders of one or several sources; each may have a folder around everything.

    Raises:
        UserError: `ask` is set, and there is a second reading.
    """
    options = {"ask": ask, "ask_splits": ask_splits}
    if len({key.root for key in counts}) == 1:
        return ClassFolders(counts, classes, **options).read()
    first_of = collections.defaultdict(set)
    for key in counts:
        first_of[key.root].add(trail(key.name)[:2])
    wrapped = {
        root: {pair[1] for pair in pairs if pair[1:]}
        for root, pairs in first_of.items()
        if len({pair[:1] for pair in pairs}) == 1 and any(pair[1:] for pair in pairs)
        if not split_name.recognize(min(pairs)[0])
    }
    if not wrapped:
        return ClassFolders(counts, classes, **options).read()
    each = ClassFolders(counts, classes, each=True, **options).read()
    if len({*each.labels.values()} - {""}) < 2:
        return ClassFolders(counts, classes, **options).read()
    literal = {key: (trail(key.name) or ("",))[0] for key in counts}
    plain = {literal[key] for key in counts if key.root not in wrapped}
    names = {literal[key] for key in counts if key.root in wrapped}
    if ask and len(names | plain) > 1 and not set.union(*wrapped.values()) <= plain:
        why = f"all of a source lies in {min(names)}/, which may be its class"
        readings = {FOLDER: count(each.labels, counts), f"{NUMBERED}1": count(literal, counts)}
        raise question(why, readings)
    return each
