"""Find the splits and classes among the folders of images.

    data/train/cat/day1/     the class is the first folder below `train`; deeper ones do not count
    data/cat/train/          the split may also lie in the class

A folder around everything is skipped, such as `data`.
"""

import collections
import functools
import os
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from tfpipe.core.errors import UserError
from tfpipe.sources import split_name
from tfpipe.sources.readings import describe, question

# Folders that hold images of any class, or masks, or images of no class.
_CONTAINERS = frozenset(
    "annotations image images img imgs jpegimages labels masks segmentationclass"
    " segmentationobject thumbnails thumbs unlabeled unlabelled unsorted".split()
)

FOLDER = "folder"

# Prefix of the number of a folder: "folder:1" is the first one, "folder:0" the source itself.
NUMBERED = "folder:"

Trail = tuple[str, ...]


class FolderPath(NamedTuple):
    """A folder that holds images: the path of its source, and its path there."""

    root: str
    name: str


class FolderTree:
    """The folders of images, and what they mean; `read` finds that out.

    Attributes:
        labels: the class of each folder; "" for none.
        splits: the split of each folder; "" for none.
        trails: what is left of the path of each folder below what was read.
    """

    def __init__(
        self,
        counts: Mapping[FolderPath, int],
        classes: Collection[str] = (),
        *,
        ask: bool = False,
        ask_splits: bool = False,
        each: bool = False,
    ):
        """Take the paths apart.

        Args:
            counts: the number of images in each folder.
            classes: names that are classes, whatever else they may mean.
            ask: whether a second reading of the labels is an error.
            ask_splits: whether a second reading of the splits is one.
            each: whether to skip a folder around everything in each source too.
        """
        self._counts, self._ask, self._ask_splits = counts, ask, ask_splits
        self._classes = {fold(name) for name in classes}
        self._above: list[str] = []  # folders around everything, outermost first
        self._below: list[str] = []  # likewise, in the split folders
        self._split_folders: list[str] = []
        self.trails = {key: trail(key.name) for key in counts}
        self.splits = dict.fromkeys(counts, "")
        self.labels = dict.fromkeys(counts, "")
        roots = {key.root: source_name(key.root) for key in counts}
        if each:
            for root in roots:
                self._unwrap([key for key in counts if key.root == root], innermost=False)
        named = {root: name for root, name in roots.items() if self._split(name)}
        self._rooted = len(roots) > 1 and bool(named)
        if self._rooted:
            self.trails = {
                key: (named[key.root], *rest) if key.root in named else rest
                for key, rest in self.trails.items()
            }

    def read(self) -> "FolderTree":
        """Find the splits, then the classes.

        Raises:
            UserError: there is a second reading, and it is asked for.
        """
        self._above = self._unwrap(list(self.trails))
        if any(map(self._split, self.firsts())):
            self._read_splits_above()
        else:
            self._read_splits_below()
        self._read_classes()
        return self

    def read_splits(self, *, everywhere: bool) -> dict[FolderPath, str]:
        """Return the split that some folder of each path names.

        Args:
            everywhere: whether a folder around everything may name the split of all.
        """
        self._unwrap(list(self.trails), through_splits=not everywhere)
        return {
            key: next(filter(None, map(self._split, rest)), "") for key, rest in self.trails.items()
        }

    def firsts(self, keys: Iterable[FolderPath] | None = None) -> set[str]:
        """Return the first folders of what is left of the paths."""
        rests = map(self.trails.get, self.trails if keys is None else keys)
        return {rest[0] for rest in rests if rest}

    @property
    def origin(self) -> str:
        """Where the labels come from, such as "folder under train/"."""
        names = sorted(
            self._split_folders, key=lambda name: split_name.ALL.index(self._split(name))
        )
        paths = ([*self._above, *filter(None, [name]), *self._below] for name in names or [""])
        places = ", ".join(f"{'/'.join(path)}/" for path in paths if path)
        text = "folder" + (f" under {places}" if places else "")
        deep = next((rest for key, rest in self.trails.items() if self.labels[key] and rest[1:]), 0)
        return text + (f" (folders below it, such as {deep[1]}/, do not count)" if deep else "")

    def _unwrap(
        self,
        keys: Sequence[FolderPath],
        known: Collection[str] = (),
        *,
        through_splits: bool = False,
        innermost: bool = True,
    ) -> list[str]:
        """Skip and return the folders that hold everything, up to a class or a split.

        Args:
            keys: what they hold.
            known: names that are classes.
            through_splits: whether to skip names of splits too.
            innermost: whether to skip a folder that holds the images themselves.
        """
        skipped = []
        while len(firsts := self.firsts(keys)) == 1:
            (only,) = firsts
            rests = [self.trails[key][1:] for key in keys]
            inner = {self._split(rest[0]) for rest in rests if rest} - {"", self._split(only)}
            if fold(only) in self._classes or fold(only) in known:
                break
            if self._split(only) and not inner and not through_splits:
                break  # unlike test/train/cat
            if not innermost and not any(rests):
                break
            skipped.append(only)
            self._skip(keys)
        return skipped

    def _skip(self, keys: Iterable[FolderPath]) -> None:
        for key in keys:
            self.trails[key] = self.trails[key][1:]

    def _read_splits_above(self) -> None:
        """Read splits above the class folders, as in train/cat/1.jpg."""
        before = dict(self.trails)
        first = {key: (rest or ("",))[0] for key, rest in before.items()}
        depth = len(self._above) + 1
        self._split_folders = sorted(filter(self._split, self.firsts()))
        for name in self._split_folders:
            inside = [key for key in first if first[key] == name]
            self.splits |= dict.fromkeys(inside, self._split(name))
            self._skip(inside)
            while len(inner := self.firsts(inside)) == 1:  # as in train/train/cat
                if {*map(self._split, inner)} != {self._split(name)}:
                    break
                self._skip(inside)
        inner = {*map(fold, self.firsts(key for key in first if self.splits[key]))}
        strange = [
            key
            for key, name in first.items()
            if name and not self.splits[key] and fold(name) not in inner
        ]
        if not strange or self._rooted:
            return
        beside = min(first[key] for key in strange)
        if inner:  # folders without a split have no class either
            second = {key: (rest[1:] or ("",))[0] for key, rest in before.items()}
            if all(fold(second[key]) in inner for key in strange):
                first, depth = second, depth + 1
            self.trails |= dict.fromkeys(strange, ())
        if self._ask:
            why = f"{self._split_folders[0]}/ may be a split, but lies beside {beside}/"
            raise self._question(why, first, f"{NUMBERED}{depth}")

    def _read_splits_below(self) -> None:
        """Read splits inside the class folders, as in cat/train/1.jpg."""
        before, depth, below = dict(self.trails), len(self._above), {}
        for key, rest in before.items():
            place = next((i for i, name in enumerate(rest) if i and self._split(name)), 0)
            if place:
                self.splits[key] = self._split(rest[place])
                self.trails[key] = rest[:place] + rest[place + 1 :]
                below[key] = (rest[place + 1 :] or ("",))[0]
        if not below or not self._ask:
            return
        first = next(iter(below))
        inside = "/".join(before[first])
        if len(set(below.values())) > 1 and all(below.values()):
            number = depth + before[first].index(below[first]) + 1
            why = f"{inside}/ has folders above and below a split"
            raise self._question(why, below, f"{NUMBERED}{number}")
        plain = [key for key, rest in before.items() if rest and key not in below]
        if plain and self._ask_splits:
            raise UserError(
                f"{inside}/ names a split, but {'/'.join(before[plain[0]])}/ does not:"
                f" `labels=folder` keeps the given splits of {self._images(below)} images, and"
                f" takes the other {self._images(plain)} for training;"
                " `splits=train:0.8,val:0.2` ignores the given splits"
            )

    def _read_classes(self) -> None:
        base = self._base()
        others = {
            split: [key for key, each in self.splits.items() if each == split]
            for split in {*self.splits.values()} - {self.splits[key] for key in base}
        }
        several = (self.firsts(keys) for keys in others.values())
        known = {fold(name) for names in several if len(names) > 1 for name in names}
        self._below = self._unwrap(base, known, through_splits=True)
        for key in base:
            self.labels[key] = (self.trails[key] or ("",))[0]
        classes = {*map(fold, self.firsts(base))} | self._classes
        if self.firsts(base):
            for split, keys in others.items():
                self._read_held_out(split, keys, classes)
        if self._ask:
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
            self._skip(keys)
        strange = sorted(name for name in names if fold(name) not in classes)
        found = {key: (self.trails[key] or ("",))[0] for key in keys}
        if len(strange) < len(names):
            if strange and self._ask:
                raise UserError(
                    f"{split} has the folder {strange[0]}/, which train has not: `labels=folder`"
                    " takes it for a class; or leave it out by `exclude`, or rename it"
                )
            self.labels |= found
        elif strange and self._ask:
            number = len(trail(keys[0].name)) - len(self.trails[keys[0]]) + 1
            why = f"train has none of the classes of {split}, such as {strange[0]}"
            raise self._question(why, self.labels | found, f"{NUMBERED}{number}")

    def _check_names(self) -> None:
        """Raise UserError if a class has a name that seldom is one."""
        counts = self._count(self.labels)
        odd = sorted(
            name
            for name in counts
            if name and (name.lower() in _CONTAINERS or self._split(name))
            if fold(name) not in self._classes
        )
        if odd:
            raise UserError(
                f"the folder {odd[0]}/ seldom is a class, but would be one: {describe(counts)}:"
                " `labels=folder` accepts it; or leave it out by `exclude`, name the folder of"
                f" the class by `labels={NUMBERED}N`, or give a list, `labels=csv:FILE`"
            )

    def _check_depths(self, base: Collection[FolderPath]) -> None:
        """Raise UserError if only some classes hold images, or most images are in no class."""
        loose = [key for key in base if not self.trails[key]]
        if self._images(loose) > self._images(base) - self._images(loose) > 0:
            raise UserError(
                f"{self._images(loose)} images lie beside the class folders"
                f" ({describe(self._count(self.labels))}): `labels=folder` leaves them unlabelled;"
                " or move them into class folders, or give a list, `labels=csv:FILE`"
            )
        inner = collections.defaultdict(set)
        for rest in filter(None, (self.trails[key] for key in base)):
            inner[rest[0]].add(rest[1] if rest[1:] else "")
        flat = sorted(name for name, below in inner.items() if "" in below)
        deep = {name: below for name, below in inner.items() if "" not in below}
        shared = len(deep) > 1 and set.intersection(*deep.values())
        if flat and any(len(below) > 1 for below in deep.values()) and not shared:
            why = f"{flat[0]}/ holds images, but {min(deep)}/ holds folders"
            last = {key: (rest or ("",))[-1] for key, rest in self.trails.items()}
            raise self._question(why, last, f"{NUMBERED}-1")

    def _question(self, why: str, other: Mapping[FolderPath, str], mode: str) -> UserError:
        settled = FolderTree(self._counts, self._classes).read()
        return question(
            why, {FOLDER: self._count(settled.labels), mode: self._count({**self.labels, **other})}
        )

    def _count(self, labels: Mapping[FolderPath, str]) -> collections.Counter[str]:
        return count(labels, self._counts)

    def _images(self, keys: Iterable[FolderPath]) -> int:
        return sum(self._counts[key] for key in keys)

    def _split(self, name: str) -> str:
        return "" if fold(name) in self._classes else split_name.recognize(name)


def best_tree(
    counts: Mapping[FolderPath, int], classes: Collection[str], *, ask: bool, ask_splits: bool
) -> FolderTree:
    """Read the folders of one or several sources; each may have a folder around everything.

    Raises:
        UserError: `ask` is set, and there is a second reading.
    """
    options = {"ask": ask, "ask_splits": ask_splits}
    if len({key.root for key in counts}) == 1:
        return FolderTree(counts, classes, **options).read()
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
        return FolderTree(counts, classes, **options).read()
    each = FolderTree(counts, classes, each=True, **options).read()
    if len({*each.labels.values()} - {""}) < 2:
        return FolderTree(counts, classes, **options).read()
    literal = {key: (trail(key.name) or ("",))[0] for key in counts}
    plain = {literal[key] for key in counts if key.root not in wrapped}
    names = {literal[key] for key in counts if key.root in wrapped}
    if ask and len(names | plain) > 1 and not set.union(*wrapped.values()) <= plain:
        why = f"all of a source lies in {min(names)}/, which may be its class"
        readings = {FOLDER: count(each.labels, counts), f"{NUMBERED}1": count(literal, counts)}
        raise question(why, readings)
    return each


def count(
    labels: Mapping[FolderPath, str], counts: Mapping[FolderPath, int]
) -> collections.Counter[str]:
    """Return the number of images of each class."""
    found = collections.Counter()
    for key, label in labels.items():
        found[label] += counts[key]
    return found


def trail(path: str) -> Trail:
    """Return the folders of a path, in Unicode's form NFC and without surrounding blanks."""
    names = (name.strip() for name in unicodedata.normalize("NFC", path).split("/"))
    return tuple(name for name in names if name not in ("", "."))


@functools.lru_cache
def source_name(path: str) -> str:
    """Return the name of a source, without the ending of a file."""
    name = (trail(os.path.abspath(path)) or ("",))[-1]
    return split_name.without_suffix(name)


@functools.lru_cache(2**16)
def fold(name: str) -> str:
    """Return a form that is equal for names that differ only in case or Unicode's form."""
    return unicodedata.normalize("NFC", name).strip().casefold()
