"""Find the files of a source that are no images, by their names and first bytes."""

import concurrent.futures
from collections.abc import Sequence

from tfpipe.core import remote
from tfpipe.core.errors import Rejected
from tfpipe.images import file_kind
from tfpipe.sources.member import is_image_name
from tfpipe.sources.source import Source

_REQUESTS = 32  # at a time, to a source at a URL; each is mostly waiting


def others(source: Source) -> dict[str, str]:
    """Return what the members are that are no images.

    A member is an image if its name ends as an image's, so that a damaged one is not overlooked, or
    if its first bytes are an image's. Only the beginnings of other names are read.

    Returns:
        A phrase for each such name, such as "text".
    """
    if source.holds_images_only:
        return {}
    odd = [name for name in source.names() if not is_image_name(name)]
    kinds = _kinds(source, odd)
    return {name: kind for name, kind in zip(odd, kinds, strict=True) if kind}


def _kinds(source: Source, names: Sequence[str]) -> list[str]:
    """Return what each file is, "" for an image."""
    if not remote.is_remote(source.path):
        return [_kind(source, name) for name in names]
    source.prepare()
    with concurrent.futures.ThreadPoolExecutor(_REQUESTS) as pool:
        return list(pool.map(lambda name: _kind(source, name), names))


def _kind(source: Source, name: str) -> str:
    try:
        head = source.head(name, file_kind.HEAD_BYTES)
    except Rejected:  # it may be an image; whoever reads it will tell
        return ""
    kind = file_kind.find(head)
    if kind is None:
        return f"begins with {head[:8]!r}"
    return "" if kind.is_image else str(kind)
