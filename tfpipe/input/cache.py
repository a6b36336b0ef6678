"""Images in memory, read or decoded once.

encoded    the files as they are stored: for records on a slow disk or another machine
decoded    the pixels: no decoding after the first epoch
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from tfpipe.core.errors import UserError
from tfpipe.core.memory import free_memory
from tfpipe.input import stateless_random
from tfpipe.records import example
from tfpipe.records.example import ImageExample
from tfpipe.records.label_encoding import LabelEncoding
from tfpipe.records.subset import Subset

NONE, ENCODED, DECODED = "none", "encoded", "decoded"

# Of free memory; the model and the batches need some too.
_SHARE = 0.75


class DecodedImages(NamedTuple):
    """Decoded images, and their sizes if the device resizes them."""

    image: np.ndarray  # uint8 [N, S, S, 3], or [N, P, 3]
    size: np.ndarray  # int32 [N, 2], height and width; or [N, 0]


class Examples(NamedTuple):
    """Some examples, encoded or decoded."""

    example_id: np.ndarray  # int64 [N], of `stateless_random.example_id`
    label: np.ndarray  # of `Subset.encoding`, [N, ...]
    images: Sequence[ImageExample]  # encoded; empty if they are decoded
    pictures: DecodedImages | None = None


def check(kind: str, part: Subset, image_bytes: int) -> None:
    """Raise UserError if a cache of images, of `image_bytes` if decoded, exceeds the memory."""
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
    encoding: LabelEncoding,
    decode: Callable[[Sequence[ImageExample]], DecodedImages],
    advance: Callable[[int], object] = lambda n: None,
) -> Examples:
    """Read `count` serialized records into memory, "encoded" or "decoded".

    It calls `advance` with the number of records read since the last call.
    """
    example_id = np.empty(count, np.int64)
    label = np.empty([count, *encoding.shape], encoding.dtype)
    images, pictures = [], None
    for row, record in enumerate(records):
        image = example.deserialize_image(record)
        example_id[row] = stateless_random.example_id(image.sha256)
        label[row] = encoding.encode([image])[0]
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
