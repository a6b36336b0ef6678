"""Read images from their files, without records."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np
import tensorflow as tf

from tfpipe.core.cores import cores
from tfpipe.core.errors import Rejected
from tfpipe.images import preprocess
from tfpipe.images.store import ORIGINAL, Store
from tfpipe.input.threads import parallel_map
from tfpipe.sources import Source, retry

T = TypeVar("T")


def read_files(
    source: Source,
    names: Iterable[str],
    prepare: Callable[[str, bytes], T],
    *,
    ahead: int,
    store: Store = ORIGINAL,
) -> Iterator[T | Rejected]:
    """Read images of a source by the rules that hold for records, `ahead` of the consumer.

    Args:
        source: of the files.
        names: of the files to read.
        prepare: called with the name and the JPEG or PNG file that a record of the image would
            hold (`tfpipe.images.store`), on any thread.
        ahead: files to read ahead.
        store: how a record would store an image.

    Yields:
        For each name, in order, the result of `prepare`, or why the file cannot be used.
    """

    def read(name: str) -> T | Rejected:
        try:
            encoded = store.convert(retry.read(source, name)).encoded
        except Rejected as rejected:
            return rejected
        return prepare(name, encoded)

    return parallel_map(read, ((name,) for name in names), threads=cores(), ahead=ahead)


def decoder(image_size: int) -> Callable[[bytes], np.ndarray]:
    """Return a decoder of JPEG and PNG files that gives the pixels of evaluation.

    It returns uint8 [image_size, image_size, 3], and is safe to use from several threads.
    """

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
    def decode(encoded: tf.Tensor) -> tf.Tensor:
        with tf.device("CPU:0"):  # also where a GPU could resize
            return preprocess.decode_image(encoded, image_size)

    return lambda encoded: decode(encoded).numpy()
