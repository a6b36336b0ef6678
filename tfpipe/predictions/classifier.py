"""What can classify images: the same interface for a run, an exported model and a server."""

import abc
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import numpy as np

T = TypeVar("T")


class Outcome(NamedTuple):
    """What a classifier says of a batch.

    Attributes:
        outputs: float32 [n, K], of which `Classifier.probabilities` makes probabilities. A row
            means nothing where the image is None, or refused.
        refused: why, by the place of an image in the batch that the classifier refuses.
    """

    outputs: np.ndarray
    refused: Mapping[int, str] = {}


@dataclasses.dataclass(frozen=True)
class Classifier(abc.ABC, Generic[T]):
    """Classifies images, of which it sees the JPEG or PNG file that a record would hold.

    Nothing is loaded before it is needed, so that it may be sent to another process. Safe to use
    from several threads.

    Attributes:
        bounds: that probabilities are clipped to, (low, high) as in
            `tfpipe.model.calibration.Calibration`; None for the model's own.
        batch_size: images that are classified at a time.
        batch_bytes: and no more of them than that, as `size` counts.
        ahead: files that are read before they are needed.
        concurrency: batches that are classified at the same time.
    """

    bounds: tuple[float, float] | None

    batch_bytes: ClassVar[float] = math.inf
    ahead: ClassVar[int] = 32
    concurrency: ClassVar[int] = 1

    @property
    @abc.abstractmethod
    def batch_size(self) -> int: ...  # noqa: D102

    @property
    @abc.abstractmethod
    def classes(self) -> tuple[str, ...]:
        """Names in the order of their probabilities."""

    @property
    @abc.abstractmethod
    def prior(self) -> np.ndarray:
        """What is answered for an image that cannot be read, float32 [C]."""

    @property
    @abc.abstractmethod
    def prior_text(self) -> str:
        """What that is, as in "equal shares"."""

    @property
    @abc.abstractmethod
    def identity(self) -> dict[str, Any]:
        """What outputs follow from; with another value they are another model's."""

    @abc.abstractmethod
    def prepare(self, encoded: bytes) -> T:
        """Makes of a file what is classified; called on many threads."""

    @abc.abstractmethod
    def size(self, prepared: T) -> int:
        """Returns how many bytes that has."""

    @abc.abstractmethod
    def classify(self, images: Sequence[T | None]) -> Outcome:
        """Classifies at most `batch_size` images; None is in the place of one that is not there.

        Raises:
            UserError: there is no answer.
        """

    @abc.abstractmethod
    def probabilities(self, outputs: np.ndarray) -> np.ndarray:
        """Returns the probabilities of all classes, float32 [N, C], for all outputs [N, K]."""

    @abc.abstractmethod
    def heat_maps(self, files: Sequence[bytes]) -> np.ndarray:
        """Returns where the most probable class is seen, float32 [n, S, S] in 0..1.

        Raises:
            UserError: the model cannot tell.
        """

    def __getstate__(self) -> dict[str, Any]:
        # What is loaded stays here.
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


def clipped(probabilities: np.ndarray, bounds: tuple[float, float] | None) -> np.ndarray:
    """Applies bounds, if there are any, to float32 [N, C]."""
    if bounds is None:
        return probabilities
    from tfpipe.model.calibration import Calibration  # which loads TensorFlow

    low, high = bounds
    return np.asarray(Calibration(clip_min=low, clip_max=high).clip(probabilities))
