"""The settings of a training input, and the decoding that follows from them."""

import dataclasses
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import tensorflow as tf

from tfpipe.augment import Augment
from tfpipe.core.cores import cores
from tfpipe.core.errors import UserError, one_line
from tfpipe.images import preprocess, preprocess_host
from tfpipe.input import cache, sampling
from tfpipe.input.cache import DecodedImages
from tfpipe.input.sampling import Sampler
from tfpipe.records.example import ImageExample

HOST, DEVICE = "host", "device"

# Canvas for a picture that the device resizes: 2.25 x the output's pixels; a 3:2 photo needs 1.5 x.
_CANVAS = 2.25

_RAM_BYTES = 4 * 2**30  # assumed to be free where the system does not say

_ALIGNMENT = 64  # bytes; what TensorFlow (Eigen) requires of a tensor's memory


@dataclasses.dataclass(frozen=True)
class InputConfig:
    """How records become batches for training.

    Each of W workers decodes B / W rows of every batch. It reads its own shards where there are
    enough of them (`RecordSource.own_shards`). Else it reads or caches all records, and together
    the workers see the batches that one process would see.

    Raises:
        UserError: the workers cannot share the batches.
    """

    image_size: int  # side S of the model's input in pixels
    batch_size: int  # records in a batch of all workers together, B
    seed: int = 0  # of the order and of the random numbers
    shuffle: bool = True  # anew in each epoch; else the order of the shards
    shuffle_mb: int = 256  # size of the shuffle buffer, of encoded images
    cache: str = cache.NONE  # what stays in memory: "none", "encoded" or "decoded" images
    resize_on: str = HOST  # or "device", which then gets the pictures in their own size
    deterministic: bool = True  # whether batches always have one order; examples look the same
    threads: int = 0  # that decode; 0 for one per core
    ram_mb: int = 0  # memory for all buffers; 0 for half of the free memory
    service: str = ""  # address of a tf.data service that reads and decodes
    worker: int = 0  # from 0
    workers: int = 1  # processes that train together, W
    sampling: float = sampling.NATURAL  # power of the sizes of the classes, 0 to 1

    def __post_init__(self):
        """Check that all workers get the same number of rows."""
        if self.batch_size % self.workers:
            more = -(-self.batch_size // self.workers) * self.workers
            raise UserError(
                f"`batch_size={self.batch_size}` cannot be divided among {self.workers} workers:"
                f" give a multiple of {self.workers}, as `batch_size={more}`",
                status=2,
            )
        if self.service and self.workers > 1:
            raise UserError(
                f"`data_service={self.service}` cannot feed {self.workers} workers, which must see"
                " parts of the same batches: leave it out",
                status=2,
            )

    def sampler(self, labels: Callable[[], np.ndarray]) -> Sampler | None:
        """Return what draws the examples of each epoch; None if each is read once.

        `labels` returns those of all examples, int64 [N], which may have to be read.
        """
        if self.sampling == sampling.NATURAL or not self.shuffle:
            return None
        return Sampler(labels(), self.sampling, self.seed)

    @property
    def local_size(self) -> int:
        """Rows of a batch for this worker."""
        return self.batch_size // self.workers

    @property
    def rows(self) -> slice:
        """This worker's rows of a batch."""
        return slice(self.worker * self.local_size, (self.worker + 1) * self.local_size)

    @property
    def in_order(self) -> bool:
        """Whether the order of batches is fixed, as it must be if workers share them."""
        return self.deterministic or self.workers > 1

    def check(self, augment: Augment) -> None:
        """Raise UserError if the images that are kept cannot be augmented so."""
        if self.cache == cache.DECODED and augment.crops_on_host:
            raise UserError(
                "`augment` begins with a crop, which is cut out of the whole image before the"
                f" resize, and `cache={self.cache}` keeps resized ones: give"
                f" `cache={cache.ENCODED}`, or put the crop behind another operation, as"
                " flip_lr|crop(0.9), to crop resized images"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an image in a batch."""
        if self.resize_on == DEVICE:
            return int(_CANVAS * self.image_size**2), preprocess.CHANNELS
        return self.image_size, self.image_size, preprocess.CHANNELS

    def decode(
        self, images: Sequence[ImageExample], windows: np.ndarray | None = None
    ) -> DecodedImages:
        """Decode images, or a window of each, float32 [N, 4]; raise UserError if one is damaged."""
        pixels = aligned((len(images), *self.shape))
        sizes = np.zeros((len(images), 2 if self.resize_on == DEVICE else 0), np.int32)
        for i, image in enumerate(images):
            try:
                window = preprocess_host.WHOLE if windows is None else windows[i]
                if self.resize_on == DEVICE:
                    sizes[i] = preprocess_host.canvas(image, self.image_size, pixels[i], window)
                else:
                    preprocess_host.square(image, self.image_size, pixels[i], window)
            except (ValueError, OSError, SyntaxError, cv2.error) as error:
                raise UserError(
                    f"the image of {one_line(image.filename)} cannot be decoded"
                    f" ({one_line(error)}): build the records again"
                ) from None
        return DecodedImages(pixels, sizes)

    @property
    def cores(self) -> int:
        """Threads that decode."""
        return self.threads or cores()

    @property
    def batches_ahead(self) -> int:
        """Batches to decode ahead."""
        most = self.ram_bytes // (self.local_size * int(np.prod(self.shape)))
        return max(1, min(2 * self.cores + 2, most))

    @property
    def ram_bytes(self) -> int:
        """Memory for the buffers, in bytes."""
        return self.ram_mb * 10**6 or (cache.free_memory() or _RAM_BYTES) // 2

    def options(self) -> tf.data.Options:
        """Return the options of the tf.data pipeline."""
        options = tf.data.Options()
        options.deterministic = self.in_order
        options.threading.private_threadpool_size = self.cores
        return options


def aligned(shape: tuple[int, ...]) -> np.ndarray:
    """Return a new uint8 array, not initialized, that TensorFlow can use without a copy."""
    size = int(np.prod(shape))
    buffer = np.empty(size + _ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT
    return buffer[start : start + size].reshape(shape)
