"""The files of a build and their labels, listed before any file is read."""

import dataclasses
import sys
from collections.abc import Iterable, Sequence

from tfpipe.core.errors import UserError
from tfpipe.images.image_info import ImageRef
from tfpipe.records.rejects import NOT_AN_IMAGE_NAME, Reject
from tfpipe.sources import Source, labels, sniff


@dataclasses.dataclass(frozen=True)
class Catalog:
    """The files of a build.

    Attributes:
        sources: the sources.
        refs: the files that are images by name or contents, in the order of the sources.
        rejects: all others.
        label_of: the label of each of `refs`, and of each file that a list names, missing or not.
        group_of: the group of those that a list puts in one; a group stays in one split.
    """

    sources: tuple[Source, ...]
    refs: tuple[ImageRef, ...]
    rejects: tuple[Reject, ...]
    label_of: dict[ImageRef, str]
    group_of: dict[ImageRef, str]

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


def read(sources: Sequence[Source], mode: str, group_column: str) -> Catalog:
    """List the files of the sources and label them.

    Args:
        sources: the sources.
        mode: the option `labels`, see `labels.assign`.
        group_column: the column of the lists with the groups; "" for none.

    Raises:
        UserError: there is no image, or one has no label.
    """
    refs, rejects = [], []
    for index, source in enumerate(sources):
        rejects += [Reject(source.locate(name), *why) for name, *why in source.skipped]
        others = sniff.others(source)
        for name in source.names():
            if name in others:
                rejects.append(Reject(source.locate(name), NOT_AN_IMAGE_NAME, others[name]))
            else:
                refs.append(ImageRef(index, name))
    if not refs:
        raise UserError(
            f"`source`: none of the {len(rejects)} files in"
            f" {' and '.join(repr(source.path) for source in sources)} is an image: name folders,"
            " archives or lists with .jpg or .png files"
        )
    names = [ref.name for ref in refs]
    said = [source.annotations(group_column) for source in sources]
    own = [said[ref.source].get(ref.name) for ref in refs]
    assigned = labels.assign(names, mode, [each and each.label for each in own])
    assigned = [sys.intern(label) for label in assigned]  # one object for each class
    own_groups = [None if each is None else each.group for each in own]
    groups = labels.groups(names, mode, group_column, own_groups)
    label_of = {
        ImageRef(index, name): each.label
        for index, by_name in enumerate(said)
        for name, each in by_name.items()
    }
    for source in sources:
        source.release()
    return Catalog(
        sources=tuple(sources),
        refs=tuple(refs),
        rejects=tuple(rejects),
        label_of=label_of | dict(zip(refs, assigned, strict=True)),
        group_of={ref: group for ref, group in zip(refs, groups, strict=True) if group},
    )
