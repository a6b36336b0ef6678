"""Decide which images become records, and their splits and folds, from their descriptions."""

import collections
import dataclasses
from collections.abc import Container, Hashable, Iterable, Iterator, Sequence

from tfpipe import sources
from tfpipe.building import balance, splits
from tfpipe.building.catalog import EXCLUDED, Catalog
from tfpipe.building.shards import ExampleSpec
from tfpipe.building.splits import SplitPlan
from tfpipe.core import terminal
from tfpipe.core.errors import UserError, one_line
from tfpipe.images import duplicates
from tfpipe.images.duplicates import Member
from tfpipe.images.image_info import ImageInfo, InfoColumn
from tfpipe.records import coverage
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
        if alike and mode != "keep":
            names = sorted(set(alike.values()))
            terminal.warn(
                f"most images look alike in {len(names)} of {len(set(labels))} classes"
                f" ({_first(names)}): they count as different images, and only equal files as"
                f" duplicates; {duplicates.DUPLICATES} lists them"
            )
        clusters = duplicates.loosen(found, keys, alike)
        self.duplicates = duplicates.members(found, clusters, keys, hashes, paths, labels, mode)
        self._say_duplicates(clusters, mode)
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

    def _say_duplicates(self, clusters: Sequence[int], mode: str) -> None:
        """Say how many images are in clusters of duplicates, and of which classes most are."""
        sizes, totals = collections.Counter(clusters), collections.Counter(self.labels)
        labels = [x for x, cluster in zip(self.labels, clusters, strict=True) if sizes[cluster] > 1]
        if not labels:
            return
        held, groups = collections.Counter(labels), sum(size > 1 for size in sizes.values())
        most = [repr(name) for name in sorted(held) if 2 * held[name] > totals[name]]
        of = f", most images of {len(most)} of {len(totals)} classes ({_first(most)})"
        terminal.say(
            f"duplicates: {len(labels)} of {len(clusters)} images are in"
            f" {'one group' if groups == 1 else f'{groups} groups'}{of if most else ''};"
            f" {_MEANING[mode]}"
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
        if empty == [plan.optional]:
            terminal.warn(
                f"there is no split {plan.optional}, because it would have none of the"
                f" {len(self.infos)} images: add images, or train with --val_split={plan.training}"
            )
        elif empty:
            raise UserError(
                f"split {empty[0]!r} would have none of the {len(self.infos)} images: add images,"
                " or give fewer `splits`"
            )
        self._tell_broken([None if fold < 0 else fold for fold in fold_of], "fold")
        divided = [
            split if given == split_name.TRAIN else None
            for split, given in zip(split_of, self.given, strict=True)
        ]
        self._list_as_kept(self._tell_broken(divided, "split"))
        for gaps in filter(None, _gaps(labels, split_of, fold_of, plan)):
            terminal.warn(gaps)
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

    def _tell_broken(self, parts: Sequence[Hashable], kind: str) -> set[int]:
        """Warn about near-duplicates in several splits or folds; return their clusters.

        Args:
            parts: the split or fold of each image; None for those that were not divided.
            kind: "split" or "fold".
        """
        part_of: dict[int, Hashable] = {}
        every = zip(self.clusters or (), self.labels, parts, strict=False)
        clusters = [each for each in every if each[2] is not None]
        broken = {c for c, _, part in clusters if part_of.setdefault(c, part) != part}
        if broken:
            pairs = {(cluster, label) for cluster, label, _ in clusters if cluster in broken}
            counts = collections.Counter(label for _, label in pairs)
            terminal.warn(
                f"{len(broken)} groups of near-duplicates are in several {kind}s, because a class"
                f" would be missing from a {kind} or far from its share:"
                f" {_first([f'{count} of {label!r}' for label, count in sorted(counts.items())])}"
            )
        return broken

    def _list_as_kept(self, broken: Container[int]) -> None:
        """List the images of some clusters as kept, but for those whose files are equal."""
        files = collections.Counter(self.keys)
        alone = {
            path
            for path, key, cluster in zip(self.paths, self.keys, self.clusters or (), strict=False)
            if cluster in broken and files[key] == 1
        }
        self.duplicates = [
            each._replace(action="keep") if each.path in alone else each for each in self.duplicates
        ]


def _gaps(
    labels: Sequence[str],
    split_of: Sequence[str],
    fold_of: Sequence[int],
    plan: SplitPlan,
) -> Iterator[str]:
    """Describe the classes that splits and folds lack, or have far too few or too many of."""
    counts = coverage.count(split_of, labels)
    # Given splits have no fractions to expect.
    yield coverage.describe(counts, None if plan.keeps else coverage.expect(counts, plan.fractions))
    by_fold = coverage.count(fold_of, labels)
    by_fold.pop(-1, None)
    if len(by_fold) > 1:
        least = {name: min(each[name] for each in by_fold.values()) for name in set(labels)}
        yield coverage.describe({f"one of the {len(by_fold)} folds": dict(sorted(least.items()))})


def _first(names: Sequence[str]) -> str:
    """Return the first of some names, for a message."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
