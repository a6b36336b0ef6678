"""Decide which images become records, and their splits and folds, from their descriptions."""

import collections
import dataclasses
from collections.abc import Hashable, Iterable, Sequence

from tfpipe import sources
from tfpipe.building import balance, divisions, splits
from tfpipe.building.catalog import EXCLUDED, Catalog
from tfpipe.building.shards import ExampleSpec
from tfpipe.building.splits import SplitPlan
from tfpipe.core import terminal
from tfpipe.core.errors import UserError, one_line
from tfpipe.images import duplicates
from tfpipe.images.duplicates import Member
from tfpipe.images.image_info import ImageInfo, InfoColumn
from tfpipe.records.rejects import Reject
from tfpipe.sources import split_name

DUPLICATE, SCREENED, UNBALANCED = "duplicate", "screened", "rebalanced"

# Reasons for images that are left out as asked; they are no failure.
CHOSEN = (EXCLUDED, DUPLICATE, SCREENED, UNBALANCED, sources.COPY)

# What happens to duplicates, by mode.
_MEANING = {
    "keep": "they may be in several splits",
    "drop": "only the first of each group is used",
    "group": "each group stays in one split",
}
DUPLICATE_MODES = tuple(_MEANING)


@dataclasses.dataclass
class Selection:
    """The images of a build; each step takes some out.

    Attributes:
        catalog: their files.
        infos: the images that are left.
        rejects: all other files.
        keep_splits: whether given splits are kept.
        clusters: for each image a number that it shares with its duplicates; None before
            `find_duplicates`, and if duplicates need not stay together.
        duplicates: the clusters of duplicates, from `duplicates.members`.
    """

    catalog: Catalog
    infos: list[ImageInfo]
    rejects: list[Reject]
    keep_splits: bool = False
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

    @property
    def given(self) -> list[str]:
        """The given split of each image; those to be divided have "train"."""
        found = self.catalog.split_of if self.keep_splits else {}
        return [found.get(each.ref, split_name.TRAIN) for each in self.infos]

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

    def find_duplicates(self, mode: str) -> None:
        """Find duplicates; for "drop" keep only the first of each cluster in each given split."""
        hashes = InfoColumn(self.infos, lambda each: each.hash)
        keys, paths, labels = self.keys, self.paths, self.labels
        found = duplicates.clusters(keys, hashes)
        alike = duplicates.alike_by_nature(found, keys, labels)
        if mode != "keep":
            divisions.tell_alike(list(alike.values()), labels)
        clusters = duplicates.loosen(found, keys, alike)
        self.duplicates = duplicates.members(found, clusters, keys, hashes, paths, labels, mode)
        kept = self.keep_splits and mode == "group"
        divisions.tell_duplicates(
            clusters, labels, "given splits are kept" if kept else _MEANING[mode]
        )
        conflicts = duplicates.conflicts(clusters, labels)
        if conflicts:
            terminal.warn(
                f"{len(conflicts)} groups of duplicates have images with different labels, the"
                f" first {' and '.join(one_line(paths[i]) for i in conflicts[0][:2])};"
                f" {duplicates.DUPLICATES} lists them"
            )
        self._tell_shared(f"duplicates ({duplicates.DUPLICATES})", clusters)
        self._tell_shared(
            "one group column", [self.catalog.group_of.get(each.ref) for each in self.infos]
        )
        if mode == "drop":
            firsts: dict[tuple[int, str], int] = {}
            pairs = enumerate(zip(clusters, self.given, strict=True))
            firsts_of = {i: firsts.setdefault(pair, i) for i, pair in pairs}
            copies = [i for i, first in firsts_of.items() if i != first]
            kept = {paths[i] for i in firsts.values()}
            self.duplicates = [
                each._replace(action="keep") if each.path in kept else each
                for each in self.duplicates
            ]
            self.drop(copies, DUPLICATE, [f"a duplicate of {paths[firsts_of[i]]}" for i in copies])
        elif mode == "group":
            self.clusters = clusters

    def _tell_shared(self, kind: str, joined: Sequence[Hashable]) -> None:
        """Warn about images that belong together but lie in several given splits.

        Args:
            kind: of what joins them, such as "duplicates".
            joined: a value for each image that those share; None for none.
        """
        found: dict[Hashable, dict[str, int]] = {}
        for i, (value, split) in enumerate(zip(joined, self.given, strict=True)):
            if value is not None:
                found.setdefault(value, {}).setdefault(split, i)
        shared = [members for members in found.values() if len(members) > 1]
        if shared:
            paths = self.paths
            lie = "group of {} lies" if len(shared) == 1 else "groups of {} lie"
            terminal.warn(
                f"{len(shared)} {lie.format(kind)} in several given splits, such as"
                f" {' and '.join(one_line(paths[i]) for i in shared[0].values())}; they stay there,"
                " so results may look too good"
            )

    def assign(
        self,
        classes: Sequence[str],
        plan: SplitPlan,
        *,
        folds: int,
        rebalance: str,
        seed: int,
    ) -> list[ExampleSpec]:
        """Decide the split and fold of each image, and balance the training split.

        Args:
            classes: in the order of their numbers.
            plan: the splits.
            folds: their number; 0 for none.
            rebalance: one of `balance.MODES`.
            seed: of all choices.

        Returns:
            The records to write.

        Raises:
            UserError: a split would be empty.
        """
        groups = [self.catalog.group_of.get(each.ref) for each in self.infos]
        labels, number = self.labels, {name: index for index, name in enumerate(classes)}
        split_of = splits.assign(
            self.keys, labels, plan.fractions, seed, groups, self.clusters, given=self.given
        )
        fold_of = splits.folds(
            self.keys, labels, folds, seed, groups, self.clusters, split_of=split_of
        )
        empty = [split for split in plan.names if split not in split_of]
        if empty and set(empty) <= set(plan.optional):
            then = f", or train with --val_split={plan.training}" if splits.VAL in empty else ""
            terminal.warn(
                f"there is no split {' and no '.join(empty)}, because it would have none of the"
                f" {len(self.infos)} images: add images{then}"
            )
        elif empty:
            raise UserError(
                f"split {empty[0]!r} would have none of the {len(self.infos)} images: add images,"
                " or give fewer `splits`"
            )
        if folds and len(set(fold_of) - {-1}) < folds:
            raise UserError(
                f"`folds={folds}`: some folds would have none of the {len(self.infos)} images: add"
                " images, or give fewer `folds`"
            )
        if self.clusters is not None:
            self._tell_broken(split_of, fold_of)
        divisions.tell_gaps(labels, split_of, fold_of, plan.fractions)
        examples = [
            ExampleSpec(info, number[label], label, split, fold)
            for info, label, split, fold in zip(self.infos, labels, split_of, fold_of, strict=True)
        ]
        if rebalance == "none":
            return examples
        training = [index for index, split in enumerate(split_of) if split == plan.training]
        if rebalance == "copies":
            copies = balance.copies(self.keys, labels, training, seed)
            return examples + [examples[c.original]._replace(copy=c.number) for c in copies]
        dropped = set(balance.drop(self.keys, labels, training, seed))
        detail = "its class has more images than the smallest"
        self.drop(dropped, UNBALANCED, [detail] * len(dropped))
        return [each for index, each in enumerate(examples) if index not in dropped]

    def _tell_broken(self, split_of: Sequence[str], fold_of: Sequence[int]) -> None:
        """Warn about clusters in several splits or folds, and list their images as kept.

        An image whose file equals another one's is with that in any case.
        """
        divided = [
            split if given == split_name.TRAIN else None
            for split, given in zip(split_of, self.given, strict=True)
        ]
        in_folds = [None if fold < 0 else fold for fold in fold_of]
        divisions.tell_broken(self.clusters, self.labels, in_folds, "fold")
        broken = divisions.tell_broken(self.clusters, self.labels, divided, "split")
        files = collections.Counter(self.keys)
        alone = {
            path
            for path, key, cluster in zip(self.paths, self.keys, self.clusters, strict=True)
            if cluster in broken and files[key] == 1
        }
        self.duplicates = [
            each._replace(action="keep") if each.path in alone else each for each in self.duplicates
        ]
