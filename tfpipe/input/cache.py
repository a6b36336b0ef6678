"""Images in memory, read or decoded once.

encoded    the files as they are stored: for records on a slow disk or another machine
decoded    the pixels: no decoding after the first epoch
"""

import pathlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from tfpipe.core.errors import UserError
from tfpipe.input import stateless_random
from tfpipe.records import example
from tfpipe.records.example import ImageExample
from tfpipe.records.subset import Subset

NONE, ENCODED, DECODED = "none", "encoded", "decoded"

# Of free memory; the model and the batches need some too.
_SHARE = 0.75


class DecodedImages(NamedTuple):
    """Decoded images.

    Attributes:
        image: uint8 [N, S, S, 3]; or [N, P, 3] if the device resizes.
        size: int32 [N, 2], height and width; or [N, 0] if the host resized.
    """

    image: np.ndarray
    size: np.ndarray


class Examples(NamedTuple):
    """Some examples.

    Attributes:
        example_id: int64 [N], independent of shard and order (`stateless_random.example_id`).
        label: int64 [N].
        images: encoded; empty if they are decoded already.
        pictures: decoded; None if they are encoded.
    """

    example_id: np.ndarray
    label: np.ndarray
    images: Sequence[ImageExample]
    pictures: DecodedImages | None = None


def check(kind: str, part: Subset, image_bytes: int) -> None:
    """Check that a cache fits into memory.

    Args:
        kind: "none", "encoded" or "decoded".
        part: of a data set, to be cached.
        image_bytes: bytes of a decoded image.

    Raises:
        UserError: it does not fit.
    """
    free = free_memory()
    if kind == NONE or free is None:
        return
    needed = {ENCODED: part.bytes, DECODED: part.count * image_bytes}
    if needed[kind] <= free * _SHARE:
        return
    least = NONE if kind == ENCODED or needed[ENCODED] > free * _SHARE else ENCODED
    raise UserError(
        f"`cache={kind}` needs {needed[kind] / 10**9:,.1f} GB for {part.count:,} images, and"
        f" {free * _SHARE / 10**9:,.1f} GB of memory may be used: give `cache={least}`"
    )


def load(
    kind: str,
    records: Iterable[bytes],
    count: int,
    decode: Callable[[Sequence[ImageExample]], DecodedImages],
    advance: Callable[[int], object] = lambda n: None,
) -> Examples:
    """Read records into memory.

    Args:
        kind: "encoded" or "decoded".
        records: serialized.
        count: number of records.
        decode: decodes images.
        advance: called with the number of records read since the last call.
    """
    example_id, label = np.empty(count, np.int64), np.empty(count, np.int64)
    images, pictures = [], None
    for row, record in enumerate(records):
        image = example.deserialize_image(record)
        example_id[row], label[row] = stateless_random.example_id(image.sha256), image.label
        if kind == ENCODED:
            images.append(image)
        else:
            one = decode([image])
            if pictures is None:
                shapes = ((count, *part.shape[1:]) for part in one)
                pictures = DecodedImages(
                    *(np.empty(s, p.dtype) for s, p in zip(shapes, one, strict=True))
                )
            for whole, part in zip(pictures, one, strict=True):
                whole[row] = part[0]
        advance(1)
    return Examples(example_id, label, images, pictures)


def free_memory() -> int | None:
    """Return the bytes of memory that are free for this process; None if unknown."""
    limits = []
    meminfo = pathlib.Path("/proc/meminfo")
    if meminfo.is_file() and (match := re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text())):
        limits.append(int(match[1]) * 1024)
    group = pathlib.Path("/sys/fs/cgroup")  # a container's own limit
    most, used = group / "memory.max", group / "memory.current"
    if most.is_file() and used.is_file() and (limit := most.read_text().strip()) != "max":
        limits.append(max(0, int(limit) - int(used.read_text())))
    return min(limits, default=None)
