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


class Classification(NamedTuple):
    """The most probable class of one image, and the probability of each class.

    Where images may have several classes, `labels` are those whose probability reaches their
    threshold, and `label` is these, joined by "|". Else `labels` is the one class.
    """

    label: str
    index: int
    confidence: float
    probabilities: tuple[float, ...]
    labels: tuple[str, ...] = ()


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
    found: list[Classification | ServerError] = []
    for _, reason, chosen_ones, probabilities, index, name in zip(
        range(count), reasons, sets, *columns, strict=True
    ):
        if reason:
            message = f"{server} answers: {reason.decode(errors='replace')}"
            found.append(ServerError(grpc.StatusCode.INVALID_ARGUMENT, message))
            continue
        label = name.decode(errors="replace")
        if chosen_ones is not None:
            several = tuple(n for n, is_set in zip(labels, chosen_ones, strict=True) if is_set)
            values = index, probabilities[index], (*probabilities,)
            found.append(Classification("|".join(several), *values, several))
            continue
        if threshold is not None and index != (chosen := int(probabilities[1] >= threshold)):
            index, label = chosen, labels[chosen]
        values = index, probabilities[index], (*probabilities,)
        found.append(Classification(label, *values, (label,)))
    return found
