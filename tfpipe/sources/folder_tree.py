"""Find the splits among the folders of images.

    data/train/cat/          the split lies above the class folders
    data/cat/train/          or in them

A folder around everything is skipped, such as `data`.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

from tfpipe.core.errors import UserError
from tfpipe.sources import readings, split_name
from tfpipe.sources.folder_path import FolderPath, count, fold, source_name, trail

FOLDER = "folder"

# Prefix of the number of a folder: "folder:1" is the first one, "folder:0" the source itself.
NUMBERED = "folder:"


class FolderTree:
    """The folders of images, and their splits; `ClassFolders` adds their classes.

    Attributes:
        counts: the number of images in each folder.
        classes: names that are classes, folded.
        ask: whether a second reading of the labels is an error.
        trails: what is left of the path of each folder below what was read.
        splits: the split of each folder; "" for none.
        labels: the class of each folder; "" for none.
        above: the folders around everything, outermost first.
        split_folders: the names of the folders that are splits above the class folders.
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
        self.counts, self.ask, self._ask_splits = counts, ask, ask_splits
        self.classes = {fold(name) for name in classes}
        self.above: list[str] = []
        self.split_folders: list[str] = []
        self.trails = {key: trail(key.name) for key in counts}
        self.splits = dict.fromkeys(counts, "")
        self.labels = dict.fromkeys(counts, "")
        roots = {key.root: source_name(key.root) for key in counts}
        if each:
            for root in roots:
                self.unwrap([key for key in counts if key.root == root], innermost=False)
        named = {root: name for root, name in roots.items() if self.split(name)}
        self._rooted = len(roots) > 1 and bool(named)
        if self._rooted:
            self.trails = {
                key: (named[key.root], *rest) if key.root in named else rest
                for key, rest in self.trails.items()
            }

    def read(self) -> "FolderTree":
        """Find the splits.

        Raises:
            UserError: there is a second reading, and it is asked for.
        """
        self.above = self.unwrap(list(self.trails))
        if any(map(self.split, self.firsts())):
            self._read_splits_above()
        else:
            self._read_splits_below()
        return self

    def any_splits(self, *, everywhere: bool) -> dict[FolderPath, str]:
        """Return the split that some folder of each path names.

        Args:
            everywhere: whether a folder around everything may name the split of all.
        """
        self.unwrap(list(self.trails), through_splits=not everywhere)
        return {
            key: next(filter(None, map(self.split, rest)), "") for key, rest in self.trails.items()
        }

    def firsts(self, keys: Iterable[FolderPath] | None = None) -> set[str]:
        """Return the first folders of what is left of the paths."""
        rests = map(self.trails.get, self.trails if keys is None else keys)
        return {rest[0] for rest in rests if rest}

    def unwrap(
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
            inner = {self.split(rest[0]) for rest in rests if rest} - {"", self.split(only)}
            if fold(only) in self.classes or fold(only) in known:
                break
            if self.split(only) and not inner and not through_splits:
                break  # unlike test/train/cat
            if not innermost and not any(rests):
                break
            skipped.append(only)
            self.skip(keys)
        return skipped

    def skip(self, keys: Iterable[FolderPath]) -> None:
        """Skip the first folder of some paths."""
        for key in keys:
            self.trails[key] = self.trails[key][1:]

    def _read_splits_above(self) -> None:
        """Read splits above the class folders, as in train/cat/1.jpg."""
        before = dict(self.trails)
        first = {key: (rest or ("",))[0] for key, rest in before.items()}
        depth = len(self.above) + 1
        self.split_folders = sorted(filter(self.split, self.firsts()))
        for name in self.split_folders:
            inside = [key for key in first if first[key] == name]
            self.splits |= dict.fromkeys(inside, self.split(name))
            self.skip(inside)
            while len(inner := self.firsts(inside)) == 1:  # as in train/train/cat
                if {*map(self.split, inner)} != {self.split(name)}:
                    break
                self.skip(inside)
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
        if self.ask:
            why = f"{self.split_folders[0]}/ may be a split, but lies beside {beside}/"
            raise self.question(why, first, f"{NUMBERED}{depth}")

    def _read_splits_below(self) -> None:
        """Read splits inside the class folders, as in cat/train/1.jpg."""
        before, depth, below = dict(self.trails), len(self.above), {}
        for key, rest in before.items():
            place = next((i for i, name in enumerate(rest) if i and self.split(name)), 0)
            if place:
                self.splits[key] = self.split(rest[place])
                self.trails[key] = rest[:place] + rest[place + 1 :]
                below[key] = (rest[place + 1 :] or ("",))[0]
        if not below or not self.ask:
            return
        first = next(iter(below))
        inside = "/".join(before[first])
        if len(set(below.values())) > 1 and all(below.values()):
            number = depth + before[first].index(below[first]) + 1
            why = f"{inside}/ has folders above and below a split"
            raise self.question(why, below, f"{NUMBERED}{number}")
        plain = [key for key, rest in before.items() if rest and key not in below]
        if plain and self._ask_splits:
            raise UserError(
                f"{inside}/ names a split, but {'/'.join(before[plain[0]])}/ does not:"
                f" `labels=folder` keeps the given splits of {self.images(below)} images, and"
                f" takes the other {self.images(plain)} for training;"
                " `splits=train:0.8,val:0.2` ignores the given splits"
            )

    def question(self, why: str, other: Mapping[FolderPath, str], mode: str) -> UserError:
        """Return the error that shows the labels by "folder", and others.

        Args:
            why: what makes the labels unclear.
            other: labels of folders, which may be some only.
            mode: the value of the option `labels` for these.
        """
        settled = type(self)(self.counts, self.classes).read()
        others = {**self.labels, **other}
        counts = {FOLDER: count(settled.labels, self.counts), mode: count(others, self.counts)}
        return readings.question(why, counts)

    def images(self, keys: Iterable[FolderPath]) -> int:
        """Return the number of images in some folders."""
        return sum(self.counts[key] for key in keys)

    def split(self, name: str) -> str:
        """Return the split that a folder's name means; "" for none."""
        return "" if fold(name) in self.classes else split_name.recognize(name)
