"""Which images become records, and where each goes: decided from their descriptions alone."""

import dataclasses
from collections.abc import Iterable, Sequence

from tfpipe import sources
from tfpipe.building import balance, exclude, splits, stratify
from tfpipe.building.catalog import Catalog
from tfpipe.building.tasks import Entry
from tfpipe.core import terminal
from tfpipe.core.errors import UserError, one_line
from tfpipe.images import duplicates
from tfpipe.images.duplicates import Member
from tfpipe.images.found import Found
from tfpipe.records.rejects import Reject

EXCLUDED, DUPLICATE, SCREENED, UNBALANCED = "excluded", "duplicate", "screened", "rebalanced"

# Why a person, not a fault, keeps an image out; such rejects are no failure.
CHOSEN = (EXCLUDED, DUPLICATE, SCREENED, UNBALANCED, sources.COPY)

DUPLICATE_MODES = ("keep", "drop", "group")


@dataclasses.dataclass
class Selection:
    """The images of a build, from which each step takes some out.

    Attributes:
        catalog: where they are, and what they are called.
        found: those that are left.
        rejects: all files that are not.
        clusters: for each image that is left a number that it shares with its duplicates; None
            until they have been looked for, and where they are not kept together.
        duplicates: the clusters that were found, as `duplicates.members` gives them.
    """

    catalog: Catalog
    found: list[Found]
    rejects: list[Reject]
    clusters: list[int] | None = None
    duplicates: list[Member] = dataclasses.field(default_factory=list)

    @property
    def labels(self) -> list[str]:
        """The label of each image."""
        return [self.catalog.label_of[each.item] for each in self.found]

    @property
    def keys(self) -> list[str]:
        """The hash of each image's file."""
        return [each.file_sha256 for each in self.found]

    @property
    def paths(self) -> list[str]:
        """Where each image is, for a person."""
        return [self.catalog.locate(each.item) for each in self.found]

    def drop(self, indices: Iterable[int], reason: str, details: Sequence[str]) -> None:
        """Takes images out.

        Args:
            indices: which.
            reason: for all of them.
            details: for each of them.
        """
        detail_of = dict(zip(indices, details, strict=True))
        self.rejects += [
            Reject(self.catalog.locate(self.found[i].item), reason, detail)
            for i, detail in detail_of.items()
        ]
        self.found = [each for i, each in enumerate(self.found) if i not in detail_of]
        if self.clusters is not None:
            self.clusters = [each for i, each in enumerate(self.clusters) if i not in detail_of]

    def exclude(self, path: str) -> None:
        """Takes out what a list names (`--exclude`); tells of entries that name nothing."""
        matches = exclude.match(exclude.load(path), [each.item.name for each in self.found])
        self.drop(matches.indices, EXCLUDED, [f"{path} names it"] * len(matches.indices))
        if matches.unmatched:
            terminal.warn(
                f"--exclude={path}: {len(matches.unmatched)} of its names match no good image, the"
                f" first {matches.unmatched[0]!r}"
            )

    def find_duplicates(self, mode: str) -> None:
        """Finds images that are there more than once, and drops all but one of each for "drop"."""
        hashes = [each.hash for each in self.found]
        clusters = duplicates.clusters(self.keys, hashes)
        self.duplicates = duplicates.members(
            clusters, self.keys, hashes, self.paths, self.labels, mode
        )
        conflicts = duplicates.conflicts(clusters, self.labels)
        if conflicts:
            paths = [one_line(self.paths[index]) for index in conflicts[0][:2]]
            terminal.warn(
                f"{len(conflicts)} groups of duplicates have images with different labels, the"
                f" first {' and '.join(paths)}; {duplicates.DUPLICATES} lists them"
            )
        if mode == "drop":
            paths = self.paths
            gone = duplicates.copies(clusters)
            self.drop(gone, DUPLICATE, [f"a duplicate of {paths[clusters[i]]}" for i in gone])
        elif mode == "group":
            self.clusters = clusters

    def assign(
        self,
        classes: Sequence[str],
        fractions: dict[str, float],
        *,
        folds: int,
        rebalance: str,
        seed: int,
    ) -> list[Entry]:
        """Decides the split and fold of each image, and balances the training split.

        Args:
            classes: in the order of their numbers.
            fractions: of the splits.
            folds: their number; 0 for none.
            rebalance: one of `balance.MODES`.
            seed: of all choices.

        Returns:
            The records to be.

        Raises:
            UserError: a split would be empty.
        """
        groups = stratify.join(
            [self.catalog.group_of.get(each.item) for each in self.found],
            self.clusters or [None] * len(self.found),
        )
        split_of = splits.assign(self.keys, self.labels, fractions, seed, groups)
        fold_of = splits.folds(self.keys, self.labels, folds, seed, groups)
        empty = [split for split in fractions if split not in split_of]
        if empty:
            raise UserError(
                f"split {empty[0]!r} would have none of the {len(self.found)} images: add images,"
                " or give fewer --splits"
            )
        labels, number = self.labels, {name: index for index, name in enumerate(classes)}
        entries = [
            Entry(found, number[label], label, split, fold)
            for found, label, split, fold in zip(self.found, labels, split_of, fold_of, strict=True)
        ]
        if rebalance == "none":
            return entries
        first = next(iter(fractions))
        training = [index for index, split in enumerate(split_of) if split == first]
        if rebalance == "copies":
            made = balance.copies(self.keys, labels, training, seed)
            return entries + [entries[each.original]._replace(copy=each.number) for each in made]
        gone = set(balance.drop(self.keys, labels, training, seed))
        self.drop(gone, UNBALANCED, ["its class has more images than the smallest"] * len(gone))
        return [entry for index, entry in enumerate(entries) if index not in gone]
