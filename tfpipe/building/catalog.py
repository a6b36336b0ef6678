"""The files of a build and their labels, listed before any file is read."""

import array
import collections
import contextlib
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

from tfpipe.building import exclude
from tfpipe.core import terminal
from tfpipe.core.errors import Rejected, UserError
from tfpipe.core.packed_texts import PackedTexts
from tfpipe.images.image_info import ImageRef
from tfpipe.images.image_table import ImageTable
from tfpipe.records import label_set
from tfpipe.records.rejects import NOT_AN_IMAGE_NAME, Reject
from tfpipe.sources import Annotation, Source, class_name, labels, list_beside, readings, sniff
from tfpipe.sources.folder_tree import FOLDER
from tfpipe.sources.layout import AUTO
from tfpipe.sources.list_columns import FOUND, Columns
from tfpipe.sources.listing import Listing
from tfpipe.sources.text_index import TextIndex

# Reasons for images that are left out, which is no failure.
EXCLUDED, UNLABELLED = "excluded", "unlabelled"


@dataclasses.dataclass(frozen=True)
class Catalog:
    """The files of a build.

    Attributes:
        sources: the sources.
        images: the labelled files that are images by name or contents, in the order of the sources,
            with their labels and groups, and the splits that folders or lists give.
        rejects: all others.
        missing: the label of each file that a list names, but that is not among `images`.
        splits_from: who names the splits, such as "the folders say".
        understood: lines that say how labels were read.
    """

    sources: tuple[Source, ...]
    images: ImageTable
    rejects: tuple[Reject, ...]
    missing: dict[ImageRef, str]
    splits_from: str
    understood: tuple[str, ...]

    @property
    def class_counts(self) -> collections.Counter[str]:
        """The number of files by class."""
        return label_set.count([*self.images.texts("label"), *self.missing.values()])

    @property
    def has_sets(self) -> bool:
        """Whether an image has several classes, or none of them."""
        return any(map(label_set.is_set, {*self.images.texts("label")}))

    @property
    def split_counts(self) -> collections.Counter[str]:
        """The number of `images` by given split; "" for those without one."""
        return collections.Counter(self.images.texts("split"))

    def locate(self, ref: ImageRef) -> str:
        """Return where a file is, for a person."""
        return self.sources[ref.source].locate(ref.name)

    def check_no_class_is_lost(self, kept: Iterable[str], rejects: Sequence[Reject]) -> None:
        """Raise UserError if none of a class's images is kept.

        Args:
            kept: the labels of the files that can be used, as of `label_set`.
            rejects: all files that cannot.
        """
        lost = sorted(self.class_counts.keys() - label_set.count(kept).keys())
        if not lost:
            return
        labels = enumerate(self.images.texts("label"))
        refs = [self.images.ref(i) for i, label in labels if lost[0] in label_set.names(label)]
        refs += [ref for ref, label in self.missing.items() if lost[0] in label_set.names(label)]
        paths = {*map(self.locate, refs)}
        first = min(reject for reject in rejects if reject.path in paths)
        raise UserError(
            f"no image of class {lost[0]!r} can be used, so nothing was written; the first of"
            f" {len(paths)} is {first.path} ({first.reason}: {first.detail}): repair them, or"
            " remove the class"
        )


class _Files(Sequence[tuple[str, str]]):
    """The path of the source of each image, and its name there.

    Attributes:
        owners: the index of the source of each.
        names: the name of each.
    """

    def __init__(self, sources: Sequence[Source]):
        self._sources = sources
        self.owners, self.names = array.array("I"), []

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[str, str]:
        return self._sources[self.owners[index]].path, self.names[index]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        paths = [source.path for source in self._sources]
        return zip(map(paths.__getitem__, self.owners), self.names, strict=True)

    def locate(self, index: int) -> str:
        """Return where a file is, for a person."""
        return self._sources[self.owners[index]].locate(self.names[index])

    def keep(self, kept: Sequence[bool]) -> None:
        """Keep some of the files."""
        self.owners = array.array("I", itertools.compress(self.owners, kept))
        self.names = list(itertools.compress(self.names, kept))


def read(
    sources: Sequence[Source],
    mode: str,
    columns: Columns = FOUND,
    *,
    excluded: Sequence[str] = (),
    exclude_path: str = "",
    classes: Sequence[str] = (),
    ask_splits: bool = True,
) -> Catalog:
    """List the files of the sources, leave out those that a list excludes, and label the others.

    Args:
        sources: the sources.
        mode: the option `labels`, see `labels.annotate`.
        columns: the columns of the lists that a person names.
        excluded: the entries of the list of names to leave out.
        exclude_path: path of that list, for messages.
        classes: from the option `classes`.
        ask_splits: whether splits that are unclear are an error.

    Raises:
        UserError: there is no image, or the labels are missing or unclear.
    """
    _check_columns(sources, mode, columns)
    files, rejects, lists = _list_files(sources)
    said = []
    for source in sources:
        said.append(source.annotations(columns))
        source.release()  # before other lists grow
    missing = _find_missing(sources, said, files)
    if excluded:
        gone = _excluded([*files.names, *(ref.name for ref in missing)], excluded, exclude_path)
        kept = [i not in gone for i in range(len(files))]
        rejects += [
            Reject(files.locate(i), EXCLUDED, f"{exclude_path} names it")
            for i in sorted(gone)
            if i < len(files)
        ]
        missing = {
            ref: label
            for i, (ref, label) in enumerate(missing.items(), start=len(files))
            if i not in gone
        }
        files.keep(kept)
    if not files:
        raise UserError(f"`exclude={exclude_path}` names every image: give a shorter list")
    own = None
    if any(said):
        own = [said[i].get(name) for i, name in zip(files.owners, files.names, strict=True)]
    found, origin = labels.annotate(
        files,
        mode,
        own,
        columns=columns,
        classes=classes,
        ask_splits=ask_splits,
        lists=sorted((sources[i].locate(name) for i, name in lists), key=_looks_unlike_labels),
    )
    if mode == AUTO and origin.startswith(FOLDER) and lists:
        _compare_lists(sources, lists, files.names, found)
    rejects += [
        Reject(files.locate(i), UNLABELLED, _why_unlabelled(each.split))
        for i, each in enumerate(found)
        if not each.label
    ]
    counts = label_set.count(each.label for each in found)
    understood = (
        f"labels: {origin}: {readings.describe(counts)}",
        *_describe_sets(each.label for each in found if each.label),
        *labels.spellings(files.names, counts),
    )
    splits_from = "the source says" if any(e and e.split for e in own or ()) else "the folders say"
    if counts[""]:
        files.keep([bool(each.label) for each in found])
        found = [each for each in found if each.label]
    owners, names = files.owners, PackedTexts(files.names)
    del files, said, own  # before the table grows
    images = ImageTable.of_names(owners, names)
    for column in ("label", "group", "split"):
        images.set_texts(column, (getattr(each, column) for each in found))
    missing = {ref: label for ref, label in missing.items() if label}
    return Catalog(tuple(sources), images, tuple(rejects), missing, splits_from, understood)


def _describe_sets(labels: Iterable[str]) -> list[str]:
    """Return a line with the number of images by their number of classes; none if all have one."""
    counts: collections.Counter[int] = collections.Counter()
    for label, images in collections.Counter(labels).items():
        counts[len(label_set.names(label))] += images
    if not counts or {*counts} == {1}:
        return []
    held = ", ".join(f"{images} with {number}" for number, images in sorted(counts.items()))
    return [f"labels: an image may have several classes, or none: {held} classes"]


def _find_missing(
    sources: Sequence[Source], said: Sequence[Mapping[str, Annotation]], files: _Files
) -> dict[ImageRef, str]:
    """Return the files that a list names, but that are no images, with their labels or ""."""
    missing: dict[ImageRef, str] = {}
    there = TextIndex(files.names if any(said) else ())
    for index, source in enumerate(sources):
        for name, each in said[index].items():
            places = there.candidates(name)
            if (index, name) not in [(files.owners[i], files.names[i]) for i in places]:
                where = source.locate(name)
                label = each.label and label_set.mapped(
                    each.label, lambda part, where=where: class_name.normalize(part, where)
                )
                missing[ImageRef(index, name)] = label
    return missing


def _check_columns(sources: Sequence[Source], mode: str, columns: Columns) -> None:
    """Raise UserError if a column is named and there is no list."""
    named = [name for name in ("path", "label", "split") if getattr(columns, name)]
    has_list = mode.startswith(labels.CSV) or any(isinstance(each, Listing) for each in sources)
    if named and not has_list:
        raise UserError(
            f"`{named[0]}_column={getattr(columns, named[0])}` is for lists, and there is none:"
            " name one by `labels=csv:FILE` or `source`",
            status=2,
        )


def _list_files(sources: Sequence[Source]) -> tuple[_Files, list[Reject], list[ImageRef]]:
    """Return the images, the rejects, and the lists among these; raise UserError without images."""
    files, rejects, lists = _Files(sources), [], []
    for index, source in enumerate(sources):
        rejects += [Reject(source.locate(name), *why) for name, *why in source.skipped]
        others = sniff.others(source)
        for name in source.names():
            if name in others:
                rejects.append(Reject(source.locate(name), NOT_AN_IMAGE_NAME, others[name]))
                if name.lower().endswith(list_beside.SUFFIXES):
                    lists.append(ImageRef(index, name))
            else:
                files.owners.append(index)
                files.names.append(name)
    if not files:
        raise UserError(
            f"`source`: none of the {len(rejects)} files in"
            f" {' and '.join(repr(source.path) for source in sources)} is an image: name folders,"
            " archives or lists with .jpg or .png files"
        )
    return files, rejects, lists


def _excluded(names: Sequence[str], entries: Sequence[str], path: str) -> set[int]:
    """Return the indices of the files that a list names; warn about its entries that name none."""
    matches = exclude.match(entries, names)
    if matches.unmatched:
        terminal.warn(
            f"{len(matches.unmatched)} of the names in {path} match no image, the first"
            f" {matches.unmatched[0]!r}"
        )
    return set(matches.indices)


def _compare_lists(
    sources: Sequence[Source],
    lists: Sequence[ImageRef],
    names: Sequence[str],
    found: Sequence[Annotation],
) -> None:
    """Raise UserError if a list beside the images says other classes than their folders."""
    labelled = [(name, each.label) for name, each in zip(names, found, strict=True) if each.label]
    for index, name in lists:
        with contextlib.suppress(Rejected):  # too large, or unreadable
            data = sources[index].read(name)
            list_beside.check(sources[index].locate(name), data, labelled)


def _looks_unlike_labels(path: str) -> tuple[bool, int, str]:
    """Order lists by how likely they hold the labels: labels.csv before sample_submission.csv."""
    name = path.rpartition("/")[2].lower()
    return "label" not in name and "train" not in name, path.count("/"), path


def _why_unlabelled(split: str) -> str:
    where = f"split {split} has no class folders" if split else "it lies in no class folder"
    return f"{where}, and neither its name nor a list says its class"
