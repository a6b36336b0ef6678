"""The interface of a classifier: a run, an exported model or a server."""

import abc
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import numpy as np

from tfpipe.images import pixels

T = TypeVar("T")


class Outcome(NamedTuple):
    """The result of a batch.

    Attributes:
        outputs: float32 [n, K], input of `ImageClassifier.probabilities`. The row of a missing or
            refused image has no meaning.
        refused: reason by the position of a refused image.
        unfamiliar: float32 [n], above 1 for none of the classes; None if the model has no score.
    """

    outputs: np.ndarray
    refused: Mapping[int, str] = {}
    unfamiliar: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class ImageClassifier(abc.ABC, Generic[T]):
    """Classifies encoded images, in the form that records hold.

    The model is loaded at the first use, so that a classifier can be sent to another process. Safe
    to use from several threads.

    Attributes:
        bounds: (clip_min, clip_max) of the probabilities; None for the model's own.
        batch_size: images in a batch, at most.
        batch_bytes: bytes in a batch, at most, as `size` counts.
        ahead: files that are read ahead.
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
        """Class names in the order of the probabilities."""

    @property
    def depth16(self) -> str:
        """How 16-bit greys become 8-bit ones before the model sees them."""
        return pixels.AUTO

    @property
    def class_shares(self) -> Sequence[float]:
        """Share of each class in the training records; empty if unknown."""
        return ()

    @property
    def prior(self) -> np.ndarray:
        """The probabilities of an unreadable image, float32 [C]."""
        even = 0.5 if self.many else 1 / len(self.classes)
        shares = self.class_shares or [even] * len(self.classes)
        return clipped(np.asarray([shares], np.float32), self.bounds, many=self.many)[0]

    @property
    @abc.abstractmethod
    def identity(self) -> dict[str, Any]:
        """What determines the outputs; it differs between models."""

    @abc.abstractmethod
    def prepare(self, encoded: bytes) -> T:
        """Return the input of `classify` for a file; called on many threads."""

    @abc.abstractmethod
    def size(self, prepared: T) -> int:
        """Return its number of bytes."""

    @abc.abstractmethod
    def classify(self, images: Sequence[T | None]) -> Outcome:
        """Classify at most `batch_size` images; None stands for a missing one.

        Raises:
            UserError: there is no answer.
        """

    @property
    def many(self) -> bool:
        """Whether an image may have several classes, or none."""
        return self.thresholds is not None

    @property
    def thresholds(self) -> tuple[float, ...] | None:
        """The least probability of each class to be answered; None if an image has one class.

        A server does not tell them.
        """
        return None

    def probabilities(self, outputs: np.ndarray) -> np.ndarray:
        """Return the probabilities of all classes, float32 [N, C], for all outputs [N, K]."""
        return clipped(self.own_probabilities(outputs), self.bounds, many=self.many)

    def own_probabilities(self, outputs: np.ndarray) -> np.ndarray:
        """Return the probabilities as the model gives them, without `bounds`."""
        return outputs

    def answers(
        self, outputs: np.ndarray, thresholds: Sequence[float] | None = None
    ) -> np.ndarray | None:
        """Return which classes are answered, for all outputs; `bounds` have no effect.

        Args:
            outputs: float32 [N, K].
            thresholds: of the classes, in place of the model's own.

        Returns:
            Bool [N, C]; None if an image has one class.
        """
        chosen = self.thresholds if thresholds is None else thresholds
        if chosen is None:
            return None
        return self.own_probabilities(outputs).astype(np.float64) >= chosen

    @abc.abstractmethod
    def heat_maps(self, files: Sequence[bytes]) -> np.ndarray:
        """Return heat maps of the most probable class, float32 [n, S, S] in 0..1.

        Raises:
            UserError: the model has none.
        """

    def __getstate__(self) -> dict[str, Any]:
        # Without cached properties: a loaded model stays in its process.
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


def clipped(
    probabilities: np.ndarray, bounds: tuple[float, float] | None, *, many: bool = False
) -> np.ndarray:
    """Return float32 [N, C] clipped to (clip_min, clip_max); None leaves it as it is.

    `many` is whether an image may have several classes.
    """
    if bounds is None:
        return probabilities
    from tfpipe.model.calibration import Calibration  # it imports TensorFlow

    clip_min, clip_max = bounds
    calibration = Calibration(clip_min=clip_min, clip_max=clip_max)
    return np.asarray(calibration.clip(probabilities, many=many))
