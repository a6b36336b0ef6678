"""The files of a build and their labels, listed before any file is read."""

import collections
import contextlib
import dataclasses
from collections.abc import Iterable, Sequence

from tfpipe.building import exclude
from tfpipe.core import terminal
from tfpipe.core.errors import Rejected, UserError
from tfpipe.images.image_info import ImageRef
from tfpipe.records.rejects import NOT_AN_IMAGE_NAME, Reject
from tfpipe.sources import Annotation, Source, class_name, labels, list_beside, readings, sniff
from tfpipe.sources.folder_tree import FOLDER
from tfpipe.sources.layout import AUTO
from tfpipe.sources.list_columns import FOUND, Columns
from tfpipe.sources.listing import Listing

# Reasons for images that are left out, which is no failure.
EXCLUDED, UNLABELLED = "excluded", "unlabelled"


@dataclasses.dataclass(frozen=True)
class Catalog:
    """The files of a build.

    Attributes:
        sources: the sources.
        refs: the labelled files that are images by name or contents, in the order of the sources.
        rejects: all others.
        label_of: the label of each of `refs`, and of each file that a list names, missing or not.
        group_of: the group of those that a list puts in one; a group stays in one split.
        split_of: the split of those whose folder or list names one.
        splits_from: who names the splits, such as "the folders say".
        understood: lines that say how labels were read.
    """

    sources: tuple[Source, ...]
    refs: tuple[ImageRef, ...]
    rejects: tuple[Reject, ...]
    label_of: dict[ImageRef, str]
    group_of: dict[ImageRef, str]
    split_of: dict[ImageRef, str]
    splits_from: str
    understood: tuple[str, ...]

    @property
    def class_counts(self) -> collections.Counter[str]:
        """The number of files by class."""
        return collections.Counter(self.label_of.values())

    @property
    def split_counts(self) -> collections.Counter[str]:
        """The number of `refs` by given split; "" for those without one."""
        return collections.Counter(self.split_of.get(ref, "") for ref in self.refs)

    def locate(self, ref: ImageRef) -> str:
        """Return where a file is, for a person."""
        return self.sources[ref.source].locate(ref.name)

    def check_no_class_is_lost(self, kept: Iterable[ImageRef], rejects: Sequence[Reject]) -> None:
        """Raise UserError if none of a class's images is kept.

        Args:
            kept: the files that can be used.
            rejects: all files that cannot.
        """
        lost = sorted(set(self.label_of.values()) - {self.label_of[ref] for ref in kept})
        if not lost:
            return
        paths = {self.locate(ref) for ref, label in self.label_of.items() if label == lost[0]}
        first = min(reject for reject in rejects if reject.path in paths)
        raise UserError(
            f"no image of class {lost[0]!r} can be used, so nothing was written; the first of"
            f" {len(paths)} is {first.path} ({first.reason}: {first.detail}): repair them, or"
            " remove the class"
        )


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
    refs, rejects, lists = _list_files(sources)
    said = [source.annotations(columns) for source in sources]
    listed = [ImageRef(i, name) for i, names in enumerate(said) for name in names]
    gone = _excluded(refs, listed, excluded, exclude_path)
    rejects += [
        Reject(sources[ref.source].locate(ref.name), EXCLUDED, f"{exclude_path} names it")
        for ref in refs
        if ref in gone
    ]
    refs = [ref for ref in refs if ref not in gone]
    if not refs:
        raise UserError(f"`exclude={exclude_path}` names every image: give a shorter list")
    files = [(sources[ref.source].path, ref.name) for ref in refs]
    own = [said[ref.source].get(ref.name) for ref in refs]
    found, origin = labels.annotate(
        files,
        mode,
        own,
        columns=columns,
        classes=classes,
        ask_splits=ask_splits,
        lists=sorted((sources[i].locate(name) for i, name in lists), key=_looks_unlike_labels),
    )
    if mode == AUTO and origin.startswith(FOLDER):
        _compare_lists(sources, lists, refs, found)
    label_of = {
        ref: class_name.normalize(each.label, sources[ref.source].locate(ref.name))
        for ref, each in ((ref, said[ref.source][ref.name]) for ref in listed)
        if each.label and ref not in gone
    }
    label_of |= {ref: each.label for ref, each in zip(refs, found, strict=True) if each.label}
    rejects += [
        Reject(sources[ref.source].locate(ref.name), UNLABELLED, _why_unlabelled(each.split))
        for ref, each in zip(refs, found, strict=True)
        if not each.label
    ]
    for source in sources:
        source.release()
    counts = collections.Counter(each.label for each in found)
    return Catalog(
        sources=tuple(sources),
        refs=tuple(ref for ref, each in zip(refs, found, strict=True) if each.label),
        rejects=tuple(rejects),
        label_of=label_of,
        group_of={ref: each.group for ref, each in zip(refs, found, strict=True) if each.group},
        split_of={ref: each.split for ref, each in zip(refs, found, strict=True) if each.split},
        splits_from="the source says" if any(e and e.split for e in own) else "the folders say",
        understood=(
            f"labels: {origin}: {readings.describe(counts)}",
            *labels.spellings((ref.name for ref in refs), counts),
        ),
    )


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


def _list_files(
    sources: Sequence[Source],
) -> tuple[list[ImageRef], list[Reject], list[ImageRef]]:
    """Return the images, the rejects, and the lists among these; raise UserError without images."""
    refs, rejects, lists = [], [], []
    for index, source in enumerate(sources):
        rejects += [Reject(source.locate(name), *why) for name, *why in source.skipped]
        others = sniff.others(source)
        for name in source.names():
            if name in others:
                rejects.append(Reject(source.locate(name), NOT_AN_IMAGE_NAME, others[name]))
                if name.lower().endswith(list_beside.SUFFIXES):
                    lists.append(ImageRef(index, name))
            else:
                refs.append(ImageRef(index, name))
    if not refs:
        raise UserError(
            f"`source`: none of the {len(rejects)} files in"
            f" {' and '.join(repr(source.path) for source in sources)} is an image: name folders,"
            " archives or lists with .jpg or .png files"
        )
    return refs, rejects, lists


def _excluded(
    refs: Sequence[ImageRef], listed: Sequence[ImageRef], entries: Sequence[str], path: str
) -> set[ImageRef]:
    """Return the files that a list names; warn about its entries that name none."""
    every = list(dict.fromkeys([*refs, *listed]))
    matches = exclude.match(entries, [ref.name for ref in every])
    if matches.unmatched:
        terminal.warn(
            f"{len(matches.unmatched)} of the names in {path} match no image, the first"
            f" {matches.unmatched[0]!r}"
        )
    return {every[i] for i in matches.indices}


def _compare_lists(
    sources: Sequence[Source],
    lists: Sequence[ImageRef],
    refs: Sequence[ImageRef],
    found: Sequence[Annotation],
) -> None:
    """Raise UserError if a list beside the images says other classes than their folders."""
    labelled = [(ref.name, e.label) for ref, e in zip(refs, found, strict=True) if e.label]
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
