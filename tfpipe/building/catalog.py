"""The files of a build, each with its label: what the sources hold, before any file is read."""

import dataclasses
from collections.abc import Iterable, Sequence

from tfpipe.core.errors import UserError
from tfpipe.images.found import Item
from tfpipe.records.rejects import NOT_AN_IMAGE_NAME, Reject
from tfpipe.sources import Source, labels


@dataclasses.dataclass(frozen=True)
class Catalog:
    """The files of a build.

    Attributes:
        sources: where they are.
        items: those that are meant as images, in the order of their records' making.
        rejects: all others.
        label_of: the label of each item, and of each file that a list names, though it be missing.
        group_of: what an item shares with others that must stay in one split, where a list says.
    """

    sources: tuple[Source, ...]
    items: tuple[Item, ...]
    rejects: tuple[Reject, ...]
    label_of: dict[Item, str]
    group_of: dict[Item, str]

    def locate(self, item: Item) -> str:
        """Returns where a file is, for a person."""
        return self.sources[item.source].locate(item.name)

    def check_no_class_is_lost(self, kept: Iterable[Item], rejects: Sequence[Reject]) -> None:
        """Raises UserError if none of a class's images is kept.

        Args:
            kept: the items that can be used.
            rejects: all files that cannot.
        """
        gone = sorted(set(self.label_of.values()) - {self.label_of[item] for item in kept})
        if not gone:
            return
        paths = {self.locate(item) for item, label in self.label_of.items() if label == gone[0]}
        first = min(reject for reject in rejects if reject.path in paths)
        raise UserError(
            f"no image of class {gone[0]!r} can be used, so nothing was written; the first of"
            f" {len(paths)} is {first.path} ({first.reason}: {first.detail}): mend them, or"
            " remove the class"
        )


def read(sources: Sequence[Source], mode: str, group_column: str) -> Catalog:
    """Lists the files of the sources and labels them.

    Args:
        sources: where they are.
        mode: as `--labels`, see `labels.assign`.
        group_column: the column of the lists that says what stays together; "" for none.

    Raises:
        UserError: there is no image, or one has no label.
    """
    items, lost = [], []
    for index, source in enumerate(sources):
        lost += [Reject(source.locate(name), why, more) for name, why, more in source.skipped]
        for name in source.names():
            if source.holds_images_only or labels.is_image_name(name):
                items.append(Item(index, name))
            else:
                detail = "its name does not end like an image's, as in .jpg or .png"
                lost.append(Reject(source.locate(name), NOT_AN_IMAGE_NAME, detail))
    if not items:
        raise UserError(
            f"--source: none of the {len(lost)} files in"
            f" {' and '.join(repr(source.path) for source in sources)} has a name that ends like an"
            " image's: name folders, archives or lists with .jpg or .png files"
        )
    names = [item.name for item in items]
    labels_of = [source.labels for source in sources]
    own = [labels_of[item.source].get(item.name) for item in items]
    named = labels.assign(names, mode, own)
    by_source = [source.groups(group_column) for source in sources]
    own_groups = [
        None if label is None else by_source[item.source].get(item.name, "")
        for item, label in zip(items, own, strict=True)
    ]
    groups = labels.groups(names, mode, group_column, own_groups)
    listed = {
        Item(index, name): label
        for index, all_ in enumerate(labels_of)
        for name, label in all_.items()
    }
    for source in sources:
        source.release()
    return Catalog(
        sources=tuple(sources),
        items=tuple(items),
        rejects=tuple(lost),
        label_of=listed | dict(zip(items, named, strict=True)),
        group_of={item: group for item, group in zip(items, groups, strict=True) if group},
    )
