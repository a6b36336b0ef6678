"""Predictions for images that a program has, by a trained run."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tfpipe.api import images as forms
from tfpipe.core.cores import cores
from tfpipe.core.errors import Rejected, UserError
from tfpipe.images.store import Store
from tfpipe.input.threads import parallel_map
from tfpipe.predictions.run_classifier import RunClassifier

RAISE, KEEP = "raise", "keep"


@dataclasses.dataclass(frozen=True)
class PredictedImage:
    """The prediction for one image.

    Attributes:
        name: its path, or its position as "image 3", from 0.
        label: the most probable class; None for an unreadable image. Where images may have several
            classes, the most probable one of `labels`, or None without any.
        probability: of that class, or of the most probable one; NaN for an unreadable image.
        probabilities: of each class, by name, in the order of the labels; empty for an unreadable
            image.
        error: why the image cannot be read; empty if it can.
        labels: the classes: `label`, or where images may have several, all whose probability
            reaches the run's threshold for them; empty for an unreadable image.
        unfamiliar: above 1 if it shows none of the classes; None for an unreadable image, and of a
            run without a `reject_rate`.
    """

    name: str
    label: str | None
    probability: float
    probabilities: dict[str, float]
    error: str = ""
    labels: tuple[str, ...] = ()
    unfamiliar: float | None = None


def predict(classifier: RunClassifier, images: Any, on_error: str) -> list[PredictedImage]:
    """Classify images, and return a prediction for each, in their order.

    Raises:
        UserError: an image cannot be read and `on_error` is "raise", or another argument is wrong.
    """
    if on_error not in (RAISE, KEEP):
        raise UserError(f"`on_error={on_error}`: give {RAISE} or {KEEP}", status=2)
    found: list[PredictedImage] = []
    todo = forms.listed(images)
    names = [forms.name_of(image, position) for position, image in enumerate(todo)]
    decoded = _decode(classifier, todo, names, on_error)
    for start in range(0, len(todo), classifier.batch_size):
        some = names[start : start + classifier.batch_size]
        batch = [next(decoded) for _ in some]
        pixels = [None if isinstance(each, str) else each for each in batch]
        outcome = classifier.classify(pixels)
        rows = classifier.probabilities(outcome.outputs)
        answers = classifier.answers(outcome.outputs)
        sets = [None] * len(some) if answers is None else answers
        scores = [None] * len(some) if outcome.unfamiliar is None else outcome.unfamiliar.tolist()
        for name, each, row, answered, score in zip(some, batch, rows, sets, scores, strict=True):
            found.append(_predicted(classifier.classes, name, each, row, answered, score))
    return found


def _decode(
    classifier: RunClassifier, todo: Sequence[Any], names: Sequence[str], on_error: str
) -> Iterator[np.ndarray | str]:
    """Yield the pixels of each image, uint8 [S, S, 3], or why it cannot be read."""
    store = Store(depth16=classifier.depth16)

    def decode(name: str, image: Any) -> np.ndarray | str:
        try:
            return classifier.prepare(store.convert(forms.encoded(image)).encoded)
        except (Rejected, UserError) as error:
            if on_error == RAISE:
                which = "" if name in str(error) else f"{name}: "
                raise UserError(
                    f"{which}{error}; `on_error='{KEEP}'` keeps a row without a label"
                ) from None
            return str(error)

    return parallel_map(
        decode, zip(names, todo, strict=True), threads=cores(), ahead=classifier.ahead
    )


def _predicted(
    classes: Sequence[str],
    name: str,
    decoded: np.ndarray | str,
    row: np.ndarray,
    answered: np.ndarray | None,
    unfamiliar: float | None,
) -> PredictedImage:
    if isinstance(decoded, str):
        return PredictedImage(name, None, math.nan, {}, decoded)
    best = int(row.argmax())
    probabilities = dict(zip(classes, row.tolist(), strict=True))
    if answered is None:
        only = classes[best]
        chance = probabilities[only]
        return PredictedImage(name, only, chance, probabilities, "", (only,), unfamiliar)
    labels = tuple(classes[i] for i in np.flatnonzero(answered).tolist())
    label = max(labels, key=lambda each: probabilities[each], default=None)
    probability = probabilities[label or classes[best]]
    return PredictedImage(name, label, probability, probabilities, "", labels, unfamiliar)
