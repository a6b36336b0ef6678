"""Decide which images become records, and their splits and folds, from their descriptions."""

import dataclasses
from collections.abc import Iterable, Sequence

from tfpipe import sources
from tfpipe.building import balance, exclude, splits, stratify
from tfpipe.building.catalog import Catalog
from tfpipe.building.shards import ExampleSpec
from tfpipe.core import terminal
from tfpipe.core.errors import UserError, one_line
from tfpipe.images import duplicates
from tfpipe.images.duplicates import Member
from tfpipe.images.image_info import ImageInfo, InfoColumn
from tfpipe.records.rejects import Reject

EXCLUDED, DUPLICATE, SCREENED, UNBALANCED = "excluded", "duplicate", "screened", "rebalanced"

# Reasons for images that are left out as asked; they are no failure.
CHOSEN = (EXCLUDED, DUPLICATE, SCREENED, UNBALANCED, sources.COPY)

DUPLICATE_MODES = ("keep", "drop", "group")


@dataclasses.dataclass
class Selection:
    """The images of a build; each step takes some out.

    Attributes:
        catalog: their files.
        infos: the images that are left.
        rejects: all other files.
        clusters: for each image a number that it shares with its duplicates; None before
            `find_duplicates`, and if duplicates need not stay together.
        duplicates: the clusters of duplicates, from `duplicates.members`.
    """

    catalog: Catalog
    infos: list[ImageInfo]
    rejects: list[Reject]
    clusters: list[int] | None = None
    duplicates: list[Member] = dataclasses.field(default_factory=list)

    @property
    def labels(self) -> list[str]:
        """The label of each image."""
        return [self.catalog.label_of[each.ref] for each in self.infos]

    @property
    def keys(self) -> Sequence[str]:
        """The hash of each image's file."""
        return InfoColumn(self.infos, lambda each: each.file_sha256)

    @property
    def paths(self) -> Sequence[str]:
        """Where each image is, for a person."""
        return InfoColumn(self.infos, lambda each: self.catalog.locate(each.ref))

    def drop(self, indices: Iterable[int], reason: str, details: Sequence[str]) -> None:
        """Take images out.

        Args:
            indices: which.
            reason: for all of them.
            details: for each of them.
        """
        detail_of = dict(zip(indices, details, strict=True))
        self.rejects += [
            Reject(self.catalog.locate(self.infos[i].ref), reason, detail)
            for i, detail in detail_of.items()
        ]
        self.infos = [each for i, each in enumerate(self.infos) if i not in detail_of]
        if self.clusters is not None:
            self.clusters = [each for i, each in enumerate(self.clusters) if i not in detail_of]

    def exclude(self, path: str) -> None:
        """Take out the images that a list names; warn about names that match none."""
        matches = exclude.match(exclude.load(path), [each.ref.name for each in self.infos])
        self.drop(matches.indices, EXCLUDED, [f"{path} names it"] * len(matches.indices))
        if matches.unmatched:
            terminal.warn(
                f"{len(matches.unmatched)} of the names in {path} match no good image, the first"
                f" {matches.unmatched[0]!r}"
            )

    def find_duplicates(self, mode: str) -> None:
        """Find duplicates; for "drop" take out all but the first of each cluster."""
        hashes = InfoColumn(self.infos, lambda each: each.hash)
        paths, labels = self.paths, self.labels
        clusters = duplicates.clusters(self.keys, hashes)
        self.duplicates = duplicates.members(clusters, self.keys, hashes, paths, labels, mode)
        conflicts = duplicates.conflicts(clusters, labels)
        if conflicts:
            terminal.warn(
                f"{len(conflicts)} groups of duplicates have images with different labels, the"
                f" first {' and '.join(one_line(paths[i]) for i in conflicts[0][:2])};"
                f" {duplicates.DUPLICATES} lists them"
            )
        if mode == "drop":
            copies = duplicates.copies(clusters)
            self.drop(copies, DUPLICATE, [f"a duplicate of {paths[clusters[i]]}" for i in copies])
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
    ) -> list[ExampleSpec]:
        """Decide the split and fold of each image, and balance the training split.

        Args:
            classes: in the order of their numbers.
            fractions: of the splits.
            folds: their number; 0 for none.
            rebalance: one of `balance.MODES`.
            seed: of all choices.

        Returns:
            The records to write.

        Raises:
            UserError: a split would be empty.
        """
        groups = stratify.join(
            [self.catalog.group_of.get(each.ref) for each in self.infos],
            self.clusters or [None] * len(self.infos),
        )
        labels, number = self.labels, {name: index for index, name in enumerate(classes)}
        split_of = splits.assign(self.keys, labels, fractions, seed, groups)
        fold_of = splits.folds(self.keys, labels, folds, seed, groups)
        empty = [split for split in fractions if split not in split_of]
        if empty:
            raise UserError(
                f"split {empty[0]!r} would have none of the {len(self.infos)} images: add images,"
                " or give fewer `splits`"
            )
        examples = [
            ExampleSpec(info, number[label], label, split, fold)
            for info, label, split, fold in zip(self.infos, labels, split_of, fold_of, strict=True)
        ]
        if rebalance == "none":
            return examples
        first = next(iter(fractions))
        training = [index for index, split in enumerate(split_of) if split == first]
        if rebalance == "copies":
            copies = balance.copies(self.keys, labels, training, seed)
            return examples + [examples[c.original]._replace(copy=c.number) for c in copies]
        dropped = set(balance.drop(self.keys, labels, training, seed))
        detail = "its class has more images than the smallest"
        self.drop(dropped, UNBALANCED, [detail] * len(dropped))
        return [each for index, each in enumerate(examples) if index not in dropped]
