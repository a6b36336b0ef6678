"""Which records are read: some splits of a data set, or all, with or without one of its folds."""

import collections
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

from tfpipe.core import storage, terminal
from tfpipe.core.errors import UserError, one_line
from tfpipe.records import example, tfrecord
from tfpipe.records.manifest import ALL_SPLITS, Manifest, Shard


@dataclasses.dataclass(frozen=True)
class Subset:
    """Some records of a data set.

    Without a fold the manifest tells how many they are; with one they are all read once, when
    that is first asked. A transformed copy is never in a held-out part, and has the fold of its
    image, so that none of an image that is held out is in the other part.

    Attributes:
        manifest: of the data set.
        splits: names of its splits, or "all".
        fold: of cross-validation; None for the records of every fold.
        held_out: with a fold, whether the part is that fold only, or all but that fold.

    Raises:
        UserError: there is no such split or fold.
    """

    manifest: Manifest
    splits: tuple[str, ...]
    fold: int | None = None
    held_out: bool = False

    def __post_init__(self):
        """Checks that the splits and the fold are there."""
        for split in self.splits:
            self.manifest.count(split)
        if self.fold is None:
            if self.held_out:
                raise ValueError("without a fold nothing can be held out")
            return
        folds = sorted(map(int, self.manifest.folds))
        if not folds:
            raise UserError(
                f"{self.manifest.folder} has no folds: build the records with --folds=N, as in"
                " --folds=5"
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
        if self.fold is None:
            return splits
        return (
            f"fold {self.fold} of {splits}"
            if self.held_out
            else f"{splits} without fold {self.fold}"
        )

    @property
    def shards(self) -> list[Shard]:
        """The shards that hold the records, and with a fold also others."""
        return [shard for split in self._names for shard in self.manifest.shards_of(split)]

    @property
    def paths(self) -> list[str]:
        """Where the shards lie: absolute paths, or URLs."""
        return [path for split in self._names for path in self.manifest.paths(split)]

    @property
    def bytes(self) -> int:
        """Of the records as they are stored; with a fold, their share by number."""
        stored = sum(shard.bytes for shard in self.shards)
        return stored * self.count // sum(shard.records for shard in self.shards)

    @property
    def count(self) -> int:
        """How many records there are."""
        return sum(self._counts.values())

    @property
    def images(self) -> int:
        """How many images there are: the records without copies."""
        return sum(count for (_, copy), count in self._counts.items() if not copy)

    @property
    def class_counts(self) -> dict[str, int]:
        """How many records each class has, in the order of the classes, 0 if need be."""
        counts = self._counts
        return {name: counts[name, False] + counts[name, True] for name in self.manifest.classes}

    def holds(self, fold: Any, copy: Any) -> Any:
        """Returns whether a record of the shards belongs to the part.

        Args:
            fold: the number of its fold; or an int64 tensor.
            copy: 1 for a transformed copy, 0 for an image; or an int64 tensor.

        Returns:
            A bool; for tensors a bool tensor, if there is a fold.
        """
        if self.fold is None:
            return True
        inside = (fold == self.fold) == self.held_out
        return inside & (copy == 0) if self.held_out else inside

    def records(self) -> Iterator[example.ImageExample]:
        """Reads the records, in the shards' order; raises UserError for a damaged shard."""
        return (fields for fields in self._read() if self.holds(fields.fold, fields.copy))

    @property
    def _names(self) -> list[str]:
        """The splits, each once."""
        return list(
            self.manifest.splits if ALL_SPLITS in self.splits else dict.fromkeys(self.splits)
        )

    @functools.cached_property
    def _counts(self) -> collections.Counter[tuple[str, bool]]:
        """How many records there are by (class, copy)."""
        return self._listed() if self.fold is None else self._scan()

    def _listed(self) -> collections.Counter[tuple[str, bool]]:
        counts = collections.Counter()
        for split in self._names:
            copies = self.manifest.copies.get(split, {})
            for name, records in self.manifest.splits[split].items():
                counts[name, True] += copies.get(name, 0)
                counts[name, False] += records - copies.get(name, 0)
        return counts

    def _scan(self) -> collections.Counter[tuple[str, bool]]:
        counts = collections.Counter()
        records = sum(shard.records for shard in self.shards)
        with terminal.progress(f"counting {self.name}", records, "records") as advance:
            for fields in self._read():
                if self.holds(fields.fold, fields.copy):
                    counts[fields.text, fields.copy] += 1
                advance()
        if not counts:
            raise UserError(
                f"{self.manifest.folder} has no records of {self.name}: name another fold or split"
            )
        return counts

    def _read(self) -> Iterator[example.ImageExample]:
        """Reads the records of every fold."""
        for path in self.paths:
            try:
                with storage.open_to_read(path) as file:
                    for _, record in tfrecord.read(file):
                        yield example.deserialize(record)
            except (OSError, ValueError, tfrecord.FrameError) as error:
                raise UserError(
                    f"{path} cannot be read ({one_line(error)}): `python -m tfpipe.verify_records"
                    f" --records={self.manifest.folder}` tells what is damaged"
                ) from None
