"""What a signature that classifies images takes and returns."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import grpc
import numpy as np

from tfpipe.protocol.transport import InputError, ServerError

IMAGE_INPUT = "image_bytes"
IMAGE_KEY = "image/encoded"  # the image in a tf.Example
IMAGE_OUTPUTS = ("probabilities", "class_index", "class_name")
ERROR_OUTPUT = "error"
LABELS_OUTPUT = "labels"  # of models whose images may have several classes
UNFAMILIAR_OUTPUT = "unfamiliar"  # of models that were trained with a reject rate
NONE_OF_THESE = "none of these"  # what people read where that is above 1


class Classification(NamedTuple):
    """The most probable class of one image, and the probability of each class.

    Where images may have several classes, `labels` are those whose probability reaches their
    threshold, and `label` is these, joined by "|". Else `labels` is the one class. `unfamiliar` is
    above 1 for an image that shows none of the classes; None if the model has no such output.
    """

    label: str
    index: int
    confidence: float
    probabilities: tuple[float, ...]
    labels: tuple[str, ...] = ()
    unfamiliar: float | None = None


def check_images(images: Sequence[bytes]) -> None:
    """Raise InputError if an image is not the content of a file."""
    if isinstance(images, str | bytes | bytearray | memoryview):
        raise InputError("the images are one file: give a list of files, as bytes")
    for place, image in enumerate(images):
        if not isinstance(image, bytes | bytearray | memoryview):
            raise InputError(
                f"image {place} is {type(image).__name__}, not bytes: give the content of the file"
            )


def classifications(
    outputs: Mapping[str, np.ndarray],
    count: int,
    threshold: float | None,
    labels: Sequence[str],
    server: str,
) -> list[Classification | ServerError]:
    """Return the classification of each of `count` images.

    `labels` are the names of the classes, for a threshold or for several classes of an image.
    """
    columns = [outputs[alias].tolist() for alias in IMAGE_OUTPUTS]
    reasons = outputs[ERROR_OUTPUT].tolist() if ERROR_OUTPUT in outputs else [b""] * count
    sets = outputs[LABELS_OUTPUT].tolist() if LABELS_OUTPUT in outputs else [None] * count
    scores = unfamiliar(outputs, count)
    found: list[Classification | ServerError] = []
    for _, reason, chosen_ones, score, probabilities, index, name in zip(
        range(count), reasons, sets, scores, *columns, strict=True
    ):
        if reason:
            message = f"{server} answers: {reason.decode(errors='replace')}"
            found.append(ServerError(grpc.StatusCode.INVALID_ARGUMENT, message))
            continue
        label = name.decode(errors="replace")
        if chosen_ones is not None:
            several = tuple(n for n, is_set in zip(labels, chosen_ones, strict=True) if is_set)
            values = index, probabilities[index], (*probabilities,)
            found.append(Classification("|".join(several), *values, several, score))
            continue
        if threshold is not None and index != (chosen := int(probabilities[1] >= threshold)):
            index, label = chosen, labels[chosen]
        values = index, probabilities[index], (*probabilities,)
        found.append(Classification(label, *values, (label,), score))
    return found


def unfamiliar(outputs: Mapping[str, np.ndarray], count: int) -> list[float | None]:
    """Return the score of each of `count` images; None if the model has no such output."""
    found = outputs.get(UNFAMILIAR_OUTPUT)
    if found is None or found.shape != (count,) or found.dtype.kind != "f":
        return [None] * count
    return found.tolist()
