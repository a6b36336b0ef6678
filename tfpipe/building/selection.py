"""Decide which images become records, and their splits and folds, from their descriptions."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from tfpipe import sources
from tfpipe.building import balance, divisions, splits
from tfpipe.building.catalog import EXCLUDED, Catalog
from tfpipe.building.splits import SplitPlan
from tfpipe.core import terminal
from tfpipe.core.errors import UserError, one_line
from tfpipe.images import duplicates
from tfpipe.images.duplicates import Member
from tfpipe.images.image_table import ImageTable, rank
from tfpipe.records import label_set
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
        images: those that are left.
        rejects: all other files.
        keep_splits: whether given splits are kept.
        clusters: for each image a number that it shares with its duplicates; None before
            `find_duplicates`, and if duplicates need not stay together.
        duplicates: the clusters of duplicates, from `duplicates.members`.
    """

    catalog: Catalog
    images: ImageTable
    rejects: list[Reject]
    keep_splits: bool = False
    clusters: np.ndarray | None = None
    duplicates: list[Member] = dataclasses.field(default_factory=list)

    @property
    def labels(self) -> list[str]:
        """The label of each image, as of `label_set`."""
        return self.images.texts("label")

    @property
    def shown_labels(self) -> list[str]:
        """The label of each image, for a person."""
        return [*map(label_set.shown, self.labels)]

    @property
    def given(self) -> list[str]:
        """The given split of each image; those to be divided have "train"."""
        if not self.keep_splits:
            return [split_name.TRAIN] * len(self.images)
        return [split or split_name.TRAIN for split in self.images.texts("split")]

    def path(self, index: int) -> str:
        """Return where an image is, for a person."""
        return self.catalog.locate(self.images.ref(index))

    def drop(self, indices: Sequence[int], reason: str, details: Sequence[str]) -> None:
        """Take images out.

        Args:
            indices: which.
            reason: for all of them.
            details: for each of them.
        """
        self.rejects += [
            Reject(self.path(i), reason, detail) for i, detail in zip(indices, details, strict=True)
        ]
        stays = np.ones(len(self.images), bool)
        stays[list(indices)] = False
        self.images = self.images.take(stays)
        if self.clusters is not None:
            self.clusters = self.clusters[stays]

    def find_duplicates(self, mode: str) -> None:
        """Find duplicates; for "drop" keep only the first of each cluster in each given split."""
        files, hashes = rank(self.images.rows["file_sha256"])[1], self.images.rows["hash"]
        labels = self.shown_labels
        found = duplicates.clusters(files, hashes)
        alike = duplicates.alike_by_nature(found, files, labels)
        if mode != "keep":
            divisions.tell_alike(list(alike.values()), labels)
        clusters = duplicates.loosen(found, files, alike)
        self.duplicates = duplicates.members(
            found, clusters, files, hashes, self.path, labels, mode
        )
        kept = self.keep_splits and mode == "group"
        divisions.tell_duplicates(
            clusters, labels, "given splits are kept" if kept else _MEANING[mode]
        )
        conflicts = duplicates.conflicts(clusters, labels)
        if conflicts:
            terminal.warn(
                f"{len(conflicts)} groups of duplicates have images with different labels, the"
                f" first {' and '.join(one_line(self.path(i)) for i in conflicts[0][:2])};"
                f" {duplicates.DUPLICATES} lists them"
            )
        self._tell_shared(f"duplicates ({duplicates.DUPLICATES})", clusters)
        groups = self.images.rows["group"].astype(np.int64)
        self._tell_shared("one group column", np.where(groups, groups, -1))
        if mode == "drop":
            splits_of = _numbers(self.given)
            firsts = duplicates.firsts_of(clusters * (splits_of.max(initial=0) + 1) + splits_of)
            copies = duplicates.copies(firsts)
            dropped = {self.path(i) for i in copies}
            self.duplicates = [
                each if each.path in dropped else each._replace(action="keep")
                for each in self.duplicates
            ]
            details = [f"a duplicate of {self.path(int(firsts[i]))}" for i in copies]
            self.drop(copies, DUPLICATE, details)
        elif mode == "group":
            self.clusters = clusters

    def _tell_shared(self, kind: str, joined: np.ndarray) -> None:
        """Warn about images that belong together but lie in several given splits.

        Args:
            kind: of what joins them, such as "duplicates".
            joined: a number for each image that those share; -1 for none.
        """
        given = self.given
        shared = divisions.divided(joined, np.where(joined < 0, -1, _numbers(given)))
        if len(shared):
            members = np.flatnonzero(np.isin(joined, shared))
            first: dict[str, int] = {}
            for i in members[joined[members] == joined[members[0]]].tolist():
                first.setdefault(given[i], i)
            lie = "group of {} lies" if len(shared) == 1 else "groups of {} lie"
            terminal.warn(
                f"{len(shared)} {lie.format(kind)} in several given splits, such as"
                f" {' and '.join(one_line(self.path(i)) for i in first.values())}; they stay there,"
                " so results may look too good"
            )

    def assign(
        self,
        plan: SplitPlan,
        *,
        folds: int,
        rebalance: str,
        seed: int,
    ) -> ImageTable:
        """Decide the split and fold of each image, and balance the training split.

        Args:
            plan: the splits.
            folds: their number; 0 for none.
            rebalance: one of `balance.MODES`.
            seed: of all choices.

        Returns:
            The records to write: the images with their classes, splits and folds, then the copies.

        Raises:
            UserError: a split would be empty.
        """
        images, keys, labels = self.images, self.images.rows["file_sha256"], self.labels
        groups, given = images.texts("group"), self.given
        split_of = splits.assign(
            keys, labels, plan.fractions, seed, groups, self.clusters, given=given
        )
        fold_of = splits.folds(keys, labels, folds, seed, groups, self.clusters, split_of=split_of)
        empty = [split for split in plan.names if split not in split_of]
        if empty and set(empty) <= set(plan.optional):
            then = f", or train with --val_split={plan.training}" if splits.VAL in empty else ""
            terminal.warn(
                f"there is no split {' and no '.join(empty)}, because it would have none of the"
                f" {len(images)} images: add images{then}"
            )
        elif empty:
            raise UserError(
                f"split {empty[0]!r} would have none of the {len(images)} images: add images,"
                " or give fewer `splits`"
            )
        if folds and len(set(fold_of) - {-1}) < folds:
            raise UserError(
                f"`folds={folds}`: some folds would have none of the {len(images)} images: add"
                " images, or give fewer `folds`"
            )
        if self.clusters is not None:
            self._tell_broken(split_of, fold_of)
        divisions.tell_gaps(labels, split_of, fold_of, plan.fractions)
        images.set_texts("split", split_of)
        images.rows["fold"] = fold_of
        if rebalance == "none":
            return images
        training = [index for index, split in enumerate(split_of) if split == plan.training]
        if rebalance == "copies":
            copies = balance.copies(keys, labels, training, seed)
            originals = [each.original for each in copies]
            examples = images.take([*range(len(images)), *originals])
            examples.rows["copy"][len(images) :] = [each.number for each in copies]
            return examples
        dropped = balance.drop(keys, labels, training, seed)
        detail = "its class has more images than the smallest"
        self.drop(dropped, UNBALANCED, [detail] * len(dropped))
        return self.images

    def _tell_broken(self, split_of: Sequence[str], fold_of: Sequence[int]) -> None:
        """Warn about clusters in several splits or folds, and list their images as kept.

        An image whose file equals another one's is with that in any case.
        """
        labels = self.shown_labels
        held_out = np.array([given != split_name.TRAIN for given in self.given], bool)
        parts = np.where(held_out, -1, _numbers(split_of))
        divisions.tell_broken(self.clusters, labels, np.array(fold_of), "fold")
        broken = divisions.tell_broken(self.clusters, labels, parts, "split")
        if not len(broken):
            return
        files = rank(self.images.rows["file_sha256"])[1]
        is_alone = np.isin(self.clusters, broken) & (np.bincount(files)[files] == 1)
        alone = {self.path(i) for i in np.flatnonzero(is_alone).tolist()}
        self.duplicates = [
            each._replace(action="keep") if each.path in alone else each for each in self.duplicates
        ]


def _numbers(names: Sequence[str]) -> np.ndarray:
    """Return a number for each of a few different names."""
    numbers: dict[str, int] = {}
    return np.fromiter((numbers.setdefault(n, len(numbers)) for n in names), np.int64, len(names))
