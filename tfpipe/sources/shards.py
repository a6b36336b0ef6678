"""Find the shards of a data set of another program, and what their names say."""

import os
import re
from collections.abc import Callable

from tfpipe.core import remote, storage
from tfpipe.sources import member, split_name
from tfpipe.sources.member import is_image_name

# As in pets-train.tfrecord-00000-of-00001, train-00000-of-00002.parquet, default/test/0000.parquet.
_SPLIT = re.compile(r"(?:^|[/_.-])(train|val|valid|validation|dev|test)(?=[/_.-])")


def below(folder: str, is_shard: Callable[[str], bool]) -> list[str]:
    """Return the sorted paths of the shards in a folder; none if it holds an image too.

    Folders in a folder at a URL are not searched: each costs a request.

    Args:
        folder: path or URL.
        is_shard: whether a name is a shard's.
    """
    shards: list[str] = []
    if remote.is_remote(folder):
        levels = [("", storage.names_in(folder))]
    else:
        levels = ((os.path.relpath(top, folder), names) for top, _, names in os.walk(folder))
    for level, names in levels:
        for name in names:
            path = os.path.normpath(os.path.join(level, name))
            if member.is_ignored(path):
                continue
            if is_image_name(name):
                return []
            if is_shard(name):
                shards.append(path)
    return sorted(shards)


def split_of(path: str) -> str:
    """Return the split that the path of a shard names: train, val or test; "" for none."""
    found = _SPLIT.search(path.lower())
    return split_name.recognize(found[1]) if found else ""


def unique(name: str, shard: str, number: int, taken: dict, ending: str = ".jpg") -> str:
    """Return a name for a record that no other has and that ends as an image's.

    Args:
        name: that the record gives; "" for none.
        shard: name of its file.
        number: of the record in it.
        taken: the names of other records.
        ending: for a name without one.
    """
    title = f"{shard}#{number:05d}"
    name = name or title
    if not is_image_name(name):
        name += ending
    while name in taken:  # loops only for names that collide on purpose
        stem, suffix = os.path.splitext(name)
        name = f"{stem}@{title}{suffix}"
    return name
