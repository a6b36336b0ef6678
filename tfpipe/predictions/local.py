"""What the classifiers of a run and an export share: decoding, and full batches."""

import abc
import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np

from tfpipe.images.preprocess import CHANNELS
from tfpipe.input import files
from tfpipe.model import inference
from tfpipe.predictions.image_classifier import ImageClassifier


@dataclasses.dataclass(frozen=True)
class LocalClassifier(ImageClassifier[np.ndarray]):
    """A classifier in this process; its inputs are uint8 [S, S, 3]."""

    @property
    @abc.abstractmethod
    def image_size(self) -> int:
        """The side of the images in pixels, S."""

    @property
    def batch_size(self) -> int:  # noqa: D102
        return inference.BATCH_SIZE

    def prepare(self, encoded: bytes) -> np.ndarray:  # noqa: D102
        return self._decode(encoded)

    def size(self, prepared: np.ndarray) -> int:  # noqa: D102
        return prepared.nbytes

    def batch(self, images: Sequence[np.ndarray | None]) -> np.ndarray:
        """Return uint8 [batch_size, S, S, 3]; missing images are black.

        The batch is always full, because another shape would be compiled again.
        """
        side = self.image_size
        batch = np.zeros((self.batch_size, side, side, CHANNELS), np.uint8)
        for place, image in enumerate(images):
            if image is not None:
                batch[place] = image
        return batch

    @functools.cached_property
    def _decode(self) -> Callable[[bytes], np.ndarray]:
        return files.decoder(self.image_size)
