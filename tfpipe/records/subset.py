"""Select records of a data set: some splits, with or without one of the folds."""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from tfpipe.core import storage, terminal
from tfpipe.core.errors import UserError, one_line
from tfpipe.records import example, label_set, tfrecord
from tfpipe.records.manifest import ALL_SPLITS, Manifest, Shard

_ALL = ""  # counts the records of all classes; no class has this name


class ShardPiece(NamedTuple):
    """Consecutive records of one shard: its path or URL, the first record, and their number."""

    path: str
    first: int
    count: int


@dataclasses.dataclass(frozen=True)
class Subset:
    """Some records of a data set.

    The counts come from the manifest. If it lacks those of the folds, as that of an older version
    or of damaged shards does, the first count reads all records once. A transformed copy has the
    fold of its image and is never held out, so no image is on both sides of a fold.

    Attributes:
        manifest: of the data set.
        splits: names of splits, or "all".
        fold: number of a cross-validation fold; None for all folds.
        held_out: True selects only the fold; False selects all records but the fold.
        slices: the first record of each of `splits`, and the one after the last; empty for whole
            splits. Not with a fold.

    Raises:
        UserError: a split or the fold does not exist.
    """

    manifest: Manifest
    splits: tuple[str, ...]
    fold: int | None = None
    held_out: bool = False
    slices: tuple[tuple[int, int], ...] = ()

    def __post_init__(self):
        """Check the splits and the fold."""
        for split in self.splits:
            self.manifest.count(split)
        if self.fold is None:
            if self.held_out:
                raise ValueError("`held_out` needs a fold")
            return
        folds = sorted(map(int, self.manifest.folds))
        if not folds:
            raise UserError(
                f"{self.manifest.folder} has no folds: build the data set with"
                " `python -m tfpipe.build_records --folds=N`"
            )
        if self.fold not in folds:
            raise UserError(
                f"{self.manifest.folder} has no fold {self.fold}; it has"
                f" {', '.join(map(str, folds))}"
            )

    @property
    def name(self) -> str:
        """For messages: "train+val", "fold 2 of train+val" or "train+val without fold 2"."""
        splits = "+".join(self.splits)
        if self.slices:
            parts = zip(self.splits, self.slices, strict=True)
            return "+".join(f"{split}[{start}:{stop}]" for split, (start, stop) in parts)
        if self.fold is None:
            return splits
        if self.held_out:
            return f"fold {self.fold} of {splits}"
        return f"{splits} without fold {self.fold}"

    @property
    def shards(self) -> list[Shard]:
        """The shards of the splits. With a fold or slices, they hold other records too."""
        return [shard for split in self._names for shard in self.manifest.shards_of(split)]

    @property
    def pieces(self) -> list[ShardPiece]:
        """The records' places in the shards. With a fold, other records are there too."""
        found = []
        slices = self.slices or itertools.repeat((0, None))
        for split, (start, stop) in zip(self._names, slices, strict=False):
            begin = 0
            paths = self.manifest.paths(split)
            for path, shard in zip(paths, self.manifest.shards_of(split), strict=True):
                first = max(start - begin, 0)
                last = shard.records if stop is None else min(stop - begin, shard.records)
                if first < last:
                    found.append(ShardPiece(path, first, last - first))
                begin += shard.records
        return found

    @property
    def paths(self) -> list[str]:
        """Absolute paths or URLs of the shards."""
        return [piece.path for piece in self.pieces]

    @property
    def bytes(self) -> int:
        """Bytes of the stored records; with a fold or slices, estimated by the share of records."""
        stored = sum(shard.bytes for shard in self.shards)
        return stored * self.count // sum(shard.records for shard in self.shards)

    @property
    def count(self) -> int:
        """Number of records."""
        if self.slices:
            return sum(stop - start for start, stop in self.slices)
        return self._counts[_ALL, False] + self._counts[_ALL, True]

    @property
    def images(self) -> int:
        """Number of images: records without copies."""
        return self._counts[_ALL, False]

    @property
    def class_counts(self) -> dict[str, int]:
        """Number of records of each class, in the order of the classes."""
        counts = self._counts
        return {name: counts[name, False] + counts[name, True] for name in self.manifest.classes}

    @property
    def class_images(self) -> dict[str, int]:
        """Number of images of each class, without copies, in the order of the classes."""
        return {name: self._counts[name, False] for name in self.manifest.classes}

    def holds(self, fold: Any, copy: Any) -> Any:
        """Return whether the subset contains a record of its shards.

        Args:
            fold: number of the record's fold; or an int64 tensor.
            copy: 1 for a transformed copy, 0 for an image; or an int64 tensor.

        Returns:
            A bool; a bool tensor if the arguments are tensors and the subset has a fold.
        """
        if self.fold is None:
            return True
        inside = (fold == self.fold) == self.held_out
        return inside & (copy == 0) if self.held_out else inside

    def stored_labels(self) -> np.ndarray:
        """Return the label of each record of `pieces`, int64; -1 if the fold is another.

        Raises UserError for a damaged shard.
        """
        found = []
        with terminal.progress(f"labels of {self.name}", self.count, "records") as advance:
            for record in self._read():
                found.append(record.label if self.holds(record.fold, record.copy) else -1)
                advance()
        return np.array(found, np.int64)

    def records(self) -> Iterator[example.ImageExample]:
        """Yield the records in the order of the shards; raises UserError for a damaged shard."""
        return (record for record in self._read() if self.holds(record.fold, record.copy))

    @property
    def _names(self) -> list[str]:
        """The splits, without repetition unless there are slices of them."""
        if self.slices:
            return list(self.splits)
        return list(
            self.manifest.splits if ALL_SPLITS in self.splits else dict.fromkeys(self.splits)
        )

    @functools.cached_property
    def _counts(self) -> collections.Counter[tuple[str, bool]]:
        """Number of records by (class, copy), and of all records by (_ALL, copy)."""
        if self.slices:
            return self._scan()
        if self.fold is None:
            return self._listed()
        counts = self._listed_by_fold() if self.manifest.fold_records else self._scan()
        if not (counts[_ALL, False] or counts[_ALL, True]):
            raise UserError(
                f"{self.manifest.folder} has no records of {self.name}: name another fold or split"
            )
        return counts

    def _listed(self) -> collections.Counter[tuple[str, bool]]:
        counts = collections.Counter()
        for split in self._names:
            copies = self.manifest.copies.get(split, {})
            for name, records in self.manifest.splits[split].items():
                counts[name, True] += copies.get(name, 0)
                counts[name, False] += records - copies.get(name, 0)
            images = self.manifest.images(split)
            counts[_ALL, False] += images
            counts[_ALL, True] += self.manifest.count(split) - images
        return counts

    def _listed_by_fold(self) -> collections.Counter[tuple[str, bool]]:
        counts = collections.Counter()
        for split in self._names:
            for fold, classes in self.manifest.fold_records.get(split, {}).items():
                for name, records in classes.items():
                    for copy, kind in ((False, "images"), (True, "copies")):
                        if self.holds(int(fold), copy):
                            counts[name, copy] += records[kind]
                            if name and self.manifest.labels == label_set.ONE:
                                counts[_ALL, copy] += records[kind]
        return counts

    def _scan(self) -> collections.Counter[tuple[str, bool]]:
        counts = collections.Counter()
        total = sum(piece.count for piece in self.pieces)
        with terminal.progress(f"counting {self.name}", total, "records") as advance:
            for record in self._read():
                if self.holds(record.fold, record.copy):
                    counts[_ALL, record.copy] += 1
                    for name in label_set.names(record.text):
                        counts[name, record.copy] += 1
                advance()
        return counts

    def _read(self) -> Iterator[example.ImageExample]:
        """Yield the records of every fold."""
        for path, first, count in self.pieces:
            try:
                with storage.open_to_read(path, sequential=True) as file:
                    for _, record in itertools.islice(tfrecord.read(file), first, first + count):
                        yield example.deserialize(record)
            except (OSError, ValueError, tfrecord.FrameError) as error:
                raise UserError(
                    f"{path} cannot be read ({one_line(error)}): run `python -m"
                    f" tfpipe.verify_records --records={self.manifest.folder}` to list the damage"
                ) from None
