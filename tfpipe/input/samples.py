"""Where the samples of training come from: the shards, in each epoch anew, or memory.

Both kinds give the pipeline the same: what stands for the samples of an epoch, in their order, as a
dataset of TensorFlow's; and, outside of it, the samples that some of that stand for.
"""

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np
import tensorflow as tf

from tfpipe.core import terminal
from tfpipe.core.errors import UserError, one_line
from tfpipe.images import preprocess, preprocess_host
from tfpipe.input import cache, draws, tuning
from tfpipe.input.cache import Pictures, Samples
from tfpipe.records import example
from tfpipe.records.example import ImageExample
from tfpipe.records.subset import Subset

# Shards read at once; their records alternate, which mixes neighbours on the disk.
READERS = 4

HOST, DEVICE = "host", "device"

# Pixels of a picture that the device resizes, for each pixel of the result: of a photograph of
# 3 : 2 whose shorter side is the result's, one and a half.
_CANVAS = 2.25

_BLOCK = 8  # records of a shard at a time, which costs less than one by one

_RAM_BYTES = 4 * 2**30  # that are taken to be free where nothing tells

_ALIGNMENT = 64  # bytes; Eigen's, which TensorFlow asks of the memory of its tensors


@dataclasses.dataclass(frozen=True)
class Reading:
    """How records become batches for training.

    Attributes:
        image_size: the side S of the model's input in pixels.
        batch_size: records in a batch of all workers together, B.
        seed: of the order and of the uniform numbers.
        shuffle_mb: encoded bytes that the shuffle buffer may hold, in megabytes.
        cache: what of the images stays in memory: "none", "encoded" or "decoded".
        resize_on: "host"; or "device", to which the pictures then go in their own size.
        deterministic: whether batches come in the same order each time; a sample looks the same
            anyway.
        threads: that decode; 0 for one on each core.
        ram_mb: memory that the buffers together may take; 0 for half of what is free.
        service: address of a tf.data service that reads and decodes; "" to do so here.
        worker: which of the workers this process is, from 0.
        workers: how many processes train together, W. Each is given B / W consecutive rows of every
            batch and decodes only these, but reads, or keeps in memory, all records: so all
            together see the batches that one process would see.

    Raises:
        UserError: the workers cannot share the batches.
    """

    image_size: int
    batch_size: int
    seed: int = 0
    shuffle_mb: int = 256
    cache: str = cache.NONE
    resize_on: str = HOST
    deterministic: bool = True
    threads: int = 0
    ram_mb: int = 0
    service: str = ""
    worker: int = 0
    workers: int = 1

    def __post_init__(self):
        """Checks that every worker gets as many rows of a batch as the others."""
        if self.batch_size % self.workers:
            more = -(-self.batch_size // self.workers) * self.workers
            raise UserError(
                f"--batch_size={self.batch_size} cannot be divided among {self.workers} workers:"
                f" give a multiple of {self.workers}, as --batch_size={more}",
                status=2,
            )
        if self.service and self.workers > 1:
            raise UserError(
                f"--data_service={self.service} cannot feed {self.workers} workers, which must see"
                " parts of the same batches: leave it out",
                status=2,
            )

    @property
    def local_size(self) -> int:
        """Records of a batch that this worker is given."""
        return self.batch_size // self.workers

    @property
    def rows(self) -> slice:
        """Which rows of a batch these are."""
        return slice(self.worker * self.local_size, (self.worker + 1) * self.local_size)

    @property
    def in_order(self) -> bool:
        """Whether batches come in the same order each time, as those that workers share must."""
        return self.deterministic or self.workers > 1

    @property
    def crops(self) -> bool:
        """Whether a crop that augmentation begins with can be cut out before the resize."""
        return self.resize_on == HOST and self.cache != cache.DECODED and not self.service

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an image in a batch."""
        if self.resize_on == DEVICE:
            return int(_CANVAS * self.image_size**2), preprocess.CHANNELS
        return self.image_size, self.image_size, preprocess.CHANNELS

    def decode(self, images: Sequence[ImageExample], windows: np.ndarray | None = None) -> Pictures:
        """Decodes images.

        Args:
            images: of records.
            windows: float32 [N, 4], the part of each to use; None for all.

        Raises:
            UserError: one of them is damaged.
        """
        pixels = aligned((len(images), *self.shape))
        sizes = np.zeros((len(images), 2 if self.resize_on == DEVICE else 0), np.int32)
        for i, image in enumerate(images):
            try:
                if self.resize_on == DEVICE:
                    sizes[i] = preprocess_host.canvas(image, self.image_size, pixels[i])
                else:
                    window = preprocess_host.WHOLE if windows is None else windows[i]
                    preprocess_host.square(image, self.image_size, pixels[i], window)
            except (ValueError, OSError, SyntaxError, cv2.error) as error:
                raise UserError(
                    f"the image of {one_line(image.filename)} cannot be decoded"
                    f" ({one_line(error)}): build the records again"
                ) from None
        return Pictures(pixels, sizes)

    @property
    def cores(self) -> int:
        """How many threads decode."""
        return self.threads or tuning.cores()

    @property
    def batches_ahead(self) -> int:
        """How many batches are decoded, or being decoded, before they are asked for."""
        most = self.ram_bytes // (self.local_size * int(np.prod(self.shape)))
        return max(1, min(2 * self.cores + 2, most))

    @property
    def ram_bytes(self) -> int:
        """What the buffers may take."""
        return self.ram_mb * 10**6 or (cache.free_memory() or _RAM_BYTES) // 2

    def options(self) -> tf.data.Options:
        """Returns how TensorFlow runs the pipeline."""
        options = tf.data.Options()
        options.deterministic = self.in_order
        options.threading.private_threadpool_size = self.cores
        return options


class RecordSource:
    """Samples that are read from the shards in each epoch."""

    def __init__(self, part: Subset, reading: Reading):
        self._part = part
        room = int(reading.shuffle_mb * 2**20 * part.count / part.bytes)
        self._buffer = max(1, min(part.count, room))

    def samples(self, key: tf.Tensor) -> tf.data.Dataset:
        """Returns the records, string scalars, shuffled by `key`, int64 [2]."""
        order = tf.random.experimental.stateless_shuffle(tf.constant(self._part.paths), key)
        records = tf.data.Dataset.from_tensor_slices(order).interleave(
            tf.data.TFRecordDataset,
            cycle_length=READERS,
            block_length=_BLOCK,
            num_parallel_calls=READERS,
        )
        seed = tf.random.stateless_uniform([], key, None, None, tf.int64)
        records = of_part(records, self._part)
        return records.shuffle(self._buffer, seed=seed, reshuffle_each_iteration=False)

    def get(self, records: Sequence[bytes]) -> Samples:
        """Returns the samples that are these records."""
        # TensorFlow's own parser takes three times as long.
        images = [example.deserialize_image(record) for record in records]
        number = np.array([draws.number(image.sha256) for image in images], np.int64)
        return Samples(number, np.array([image.label for image in images], np.int64), images)


class Rows:
    """Samples that were all read into memory before."""

    def __init__(self, part: Subset, reading: Reading):
        cache.check(reading.cache, part, int(np.prod(reading.shape)))
        records = of_part(tf.data.TFRecordDataset(part.paths), part)
        records = tuning.untuned(records).as_numpy_iterator()
        with terminal.progress(f"reading {part.name} into memory", part.count) as advance:
            self._kept = cache.load(reading.cache, records, part.count, reading.decode, advance)

    def samples(self, key: tf.Tensor) -> tf.data.Dataset:
        """Returns the row of each sample, int64 scalars, shuffled by `key`, int64 [2]."""
        rows = tf.range(len(self._kept.label), dtype=tf.int64)
        return tf.data.Dataset.from_tensor_slices(
            tf.random.experimental.stateless_shuffle(rows, key)
        )

    def get(self, rows: np.ndarray) -> Samples:
        """Returns the samples in these rows."""
        kept = self._kept
        number, label = kept.number[rows], kept.label[rows]
        if kept.pictures is None:
            return Samples(number, label, [kept.images[row] for row in rows])
        image, size = kept.pictures
        into = aligned((len(rows), *image.shape[1:]))
        np.take(image, rows, axis=0, out=into, mode="clip")  # with "raise", by a buffer
        return Samples(number, label, [], Pictures(into, size[rows]))


def of_part(records: tf.data.Dataset, part: Subset, *, copies: bool = True) -> tf.data.Dataset:
    """Returns those records of a part's shards that are in the part.

    Args:
        records: string scalars.
        part: whose shards were read.
        copies: whether transformed copies stay, where the part has any.
    """
    without_copies = not copies and part.images < part.count
    if part.fold is None and not without_copies:
        return records

    @tf.autograph.experimental.do_not_convert
    def stays(record: tf.Tensor) -> tf.Tensor:
        fields = example.parse(record, ("image/fold", "image/copy"))
        fold, copy = fields["image/fold"], fields["image/copy"]
        return part.holds(fold, copy) & ((copy == 0) | (not without_copies))

    return records.filter(stays)


def aligned(shape: tuple[int, ...]) -> np.ndarray:
    """Returns a new uint8 array of any contents that TensorFlow can take without a copy."""
    size = int(np.prod(shape))
    buffer = np.empty(size + _ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT
    return buffer[start : start + size].reshape(shape)
