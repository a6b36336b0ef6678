"""How records become batches for training, and the decoding that follows from it."""

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np
import tensorflow as tf

from tfpipe.core.errors import UserError, one_line
from tfpipe.images import decoder, preprocess
from tfpipe.input import cache, tuning
from tfpipe.input.cache import DecodedImages
from tfpipe.records.example import Fields

HOST, DEVICE = "host", "device"

# Pixels of a picture that the device resizes, for each pixel of the result: of a photograph of
# 3 : 2 whose shorter side is the result's, one and a half.
_CANVAS = 2.25

_RAM_BYTES = 4 * 2**30  # that are taken to be free where nothing tells

_ALIGNMENT = 64  # bytes; Eigen's, which TensorFlow asks of the memory of its tensors


@dataclasses.dataclass(frozen=True)
class InputConfig:
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

    def decode(self, images: Sequence[Fields], windows: np.ndarray | None = None) -> DecodedImages:
        """Decodes images.

        Args:
            images: of records.
            windows: float32 [N, 4], what of each is wanted (`decoder.Window`); None for all.

        Raises:
            UserError: one of them is damaged.
        """
        pixels = aligned((len(images), *self.shape))
        sizes = np.zeros((len(images), 2 if self.resize_on == DEVICE else 0), np.int32)
        for i, image in enumerate(images):
            try:
                if self.resize_on == DEVICE:
                    sizes[i] = decoder.canvas(image, self.image_size, pixels[i])
                else:
                    window = decoder.WHOLE if windows is None else windows[i]
                    decoder.square(image, self.image_size, pixels[i], window)
            except (ValueError, OSError, SyntaxError, cv2.error) as error:
                raise UserError(
                    f"the image of {one_line(image.filename)} cannot be decoded"
                    f" ({one_line(error)}): build the records again"
                ) from None
        return DecodedImages(pixels, sizes)

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


def aligned(shape: tuple[int, ...]) -> np.ndarray:
    """Returns a new uint8 array of any contents that TensorFlow can take without a copy."""
    size = int(np.prod(shape))
    buffer = np.empty(size + _ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT
    return buffer[start : start + size].reshape(shape)
