"""The files of a build and their labels, listed before any file is read."""

import dataclasses
from collections.abc import Iterable, Sequence

from tfpipe.core.errors import UserError
from tfpipe.images.image_info import ImageRef
from tfpipe.records.rejects import NOT_AN_IMAGE_NAME, Reject
from tfpipe.sources import Annotation, Columns, Source, label_list, labels
from tfpipe.sources.list_columns import FOUND
from tfpipe.sources.member import is_image_name


@dataclasses.dataclass(frozen=True)
class Catalog:
    """The files of a build.

    Attributes:
        sources: the sources.
        refs: the files with names of images, in the order of the sources.
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


def read(sources: Sequence[Source], mode: str, columns: Columns = FOUND) -> Catalog:
    """List the files of the sources and label them.

    Args:
        sources: the sources.
        mode: the option `labels`, see `labels.assign`.
        columns: the columns of the lists that a person names.

    Raises:
        UserError: there is no image, or one has no label.
    """
    refs, rejects = [], []
    for index, source in enumerate(sources):
        rejects += [Reject(source.locate(name), *why) for name, *why in source.skipped]
        for name in source.names():
            if source.holds_images_only or is_image_name(name):
                refs.append(ImageRef(index, name))
            else:
                detail = "its name does not end like an image's, as in .jpg or .png"
                rejects.append(Reject(source.locate(name), NOT_AN_IMAGE_NAME, detail))
    if not refs:
        raise UserError(
            f"`source`: none of the {len(rejects)} files in"
            f" {' and '.join(repr(source.path) for source in sources)} has a name that ends like an"
            " image's: name folders, archives or lists with .jpg or .png files"
        )
    names = [ref.name for ref in refs]
    said = [source.annotations(columns) for source in sources]
    own = [said[ref.source].get(ref.name) for ref in refs]
    if mode.startswith(labels.CSV):
        _annotate(own, refs, sources, mode[len(labels.CSV) :], columns)
    assigned = labels.assign(names, mode, [(each and each.label) or None for each in own])
    groups = [each.group if each else "" for each in own]
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


def _annotate(
    annotations: list[Annotation | None],
    refs: Sequence[ImageRef],
    sources: Sequence[Source],
    path: str,
    columns: Columns,
) -> None:
    """Set what a list says about the files of which their sources say nothing."""
    places = [place for place, each in enumerate(annotations) if each is None]
    files = [
        (refs[place].name, sources[refs[place].source].locate(refs[place].name)) for place in places
    ]
    for place, each in zip(places, label_list.annotate(path, files, columns), strict=True):
        annotations[place] = each
