"""Images that were never made into records, as batches."""

import itertools
import os
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from tfpipe.ingest import scan
from tfpipe.ingest.sources import Rejected, Source
from tfpipe.input import preprocess
from tfpipe.input.pipeline import Batch
from tfpipe.input.threads import in_threads

Reject = tuple[str, str, str]  # name, reason, detail


def file_batches(
    source: Source,
    names: list[str],
    *,
    image_size: int,
    batch_size: int,
    rejects: list[Reject],
) -> Iterator[Batch]:
    """Yields the images of a source that was never made into records, in the order of `names`.

    They are read and converted by the same rules as records are (`tfpipe.ingest.scan`), and decoded
    as those are that are evaluated. No more than two batches of them are in memory.

    Args:
        source: where the files are.
        names: which of them.
        image_size: the side of the images in pixels.
        batch_size: images in a batch, B.
        rejects: gets (name, reason, detail) of each file that cannot be used; its picture is black.

    Yields:
        Batches: "image" uint8 [B, S, S, 3], "name" string [B], "weight" float32 [B], 1 for a file
        and 0 for what fills the last batch up.
    """
    shape = (image_size, image_size, preprocess.CHANNELS)

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
    def decode(encoded: tf.Tensor) -> tf.Tensor:
        with tf.device("CPU:0"):  # also where a GPU could resize
            return preprocess.decode_image(encoded, image_size)

    def read(name: str) -> tuple[np.ndarray | None, Reject | None]:
        try:
            encoded = scan.inspect(source.read(name)).encoded
        except Rejected as rejected:
            return None, (name, rejected.reason, rejected.detail)
        return decode(encoded).numpy(), None

    found = in_threads(
        read,
        ((name,) for name in names),
        threads=len(os.sched_getaffinity(0)),
        ahead=batch_size,
    )
    for start in range(0, len(names), batch_size):
        some = names[start : start + batch_size]
        images = np.zeros((batch_size, *shape), np.uint8)
        for row, (image, reject) in enumerate(itertools.islice(found, len(some))):
            if reject is None:
                images[row] = image
            else:
                rejects.append(reject)
        filling = batch_size - len(some)
        written = [name.encode("utf-8", "surrogateescape") for name in some]
        yield {
            "image": tf.constant(images),
            "name": tf.constant(written + [b""] * filling),
            "weight": tf.constant([1.0] * len(some) + [0.0] * filling),
        }
