"""Images to look at: the most wrong, the least certain, the most certain, each with a heat map."""

import dataclasses
import io
from collections.abc import Sequence

import numpy as np
import PIL.Image
import tensorflow as tf

from tfpipe.core import terminal
from tfpipe.model import heat_map
from tfpipe.model.predictor import EnsemblePredictor, Predictor
from tfpipe.page import template
from tfpipe.records.example import Fields
from tfpipe.reporting import images
from tfpipe.reporting.predictions import Predictions

SIDE = 200  # pixels of a picture's longer side
_QUALITY = 78


@dataclasses.dataclass(frozen=True)
class Card:
    """A picture and what is said of it.

    Attributes:
        picture: a thumbnail.
        heat: the same in grey, with what speaks for the predicted class in colour; None without.
        name: of the image.
        label: its class.
        guess: the predicted class.
        scores: the most probable classes and, if it is not among them, the right one, with their
            probabilities.
        note: what else; "" if nothing.
    """

    picture: template.Image
    heat: template.Image | None
    name: str
    label: str
    guess: str
    scores: list[tuple[str, float]]
    note: str = ""

    @property
    def right(self) -> bool:
        """Whether it was predicted rightly."""
        return self.label == self.guess


def wrong(found: Predictions, most: int) -> list[int]:
    """Returns the images whose class is not the predicted one, those of the highest loss first."""
    order = np.argsort(-found.losses, kind="stable")
    return order[found.guesses[order] != found.labels[order]][:most].tolist()


def uncertain(found: Predictions, most: int) -> list[int]:
    """Returns the images whose two most probable classes are the closest to each other."""
    top = np.sort(found.probabilities, axis=1)[:, -2:]
    return np.argsort(top[:, 1] - top[:, 0], kind="stable")[:most].tolist()


def certain(found: Predictions, most: int) -> list[int]:
    """Returns the images of the highest probability, the classes in turn.

    That is the probability before calibration, as clipping makes many the same.
    """
    order = np.argsort(-found.raw.max(axis=1), kind="stable")
    turn = np.empty(len(order), np.int64)
    for index in range(found.raw.shape[1]):
        members = order[found.guesses[order] == index]
        turn[members] = np.arange(len(members))
    return order[np.argsort(turn[order], kind="stable")][:most].tolist()


GROUPS = {
    "Most wrong": (wrong, "Their class is not the predicted one; the highest log loss first."),
    "Least certain": (uncertain, "The two most probable classes are the closest to each other."),
    "Most certain": (certain, "The highest probabilities before calibration, the classes in turn."),
}


def cards(
    chosen: Sequence[int],
    records: dict[int, Fields],
    found: Predictions,
    classes: Sequence[str],
    heats: dict[int, np.ndarray],
    notes: dict[int, str] | None = None,
    *,
    side: int = SIDE,
) -> list[Card]:
    """Returns the cards of some images.

    Args:
        chosen: their numbers among the predictions.
        records: of them, and others.
        found: the predictions.
        classes: names in the order of their labels.
        heats: as from `heat_maps`; what is not there has no map.
        notes: what is to be said of some of them.
        side: pixels of the pictures' longer side.
    """
    said = notes or {}
    return [
        _card(index, records[index], found, classes, heats.get(index), said.get(index, ""), side)
        for index in chosen
    ]


def heat_maps(
    predictor: Predictor | EnsemblePredictor, records: dict[int, Fields], found: Predictions
) -> dict[int, np.ndarray]:
    """Returns what speaks for the predicted class in each image: float32 [S, S] in 0..1."""
    numbers = list(records)
    compute = tf.function(
        lambda batch, classes: heat_map.heat_maps(predictor, batch, classes), autograph=False
    )
    heats: list[np.ndarray] = []
    with terminal.progress("heat maps", len(numbers)) as advance:
        shown = (records[number] for number in numbers)
        for batch, count in images.batches(shown, predictor.image_size):
            classes = np.zeros(len(batch), np.int64)
            classes[:count] = found.guesses[numbers[len(heats) : len(heats) + count]]
            heats += list(compute(batch, tf.constant(classes)).numpy()[:count])
            advance(count)
    return dict(zip(numbers, heats, strict=True))


def thumbnail(fields: Fields, alt: str, side: int = SIDE) -> template.Image:
    """Returns a small picture of a record, for a page."""
    return _jpeg(images.thumbnail(fields, side), alt)


def overlay(picture: PIL.Image.Image, heat: np.ndarray) -> PIL.Image.Image:
    """Returns a picture in grey under the colours of a heat map.

    Args:
        picture: in RGB.
        heat: float32 [S, S] in 0..1; stretched to the picture.
    """
    from matplotlib import colormaps

    strength = np.asarray(
        PIL.Image.fromarray(heat).resize(picture.size, PIL.Image.Resampling.BILINEAR)
    ).clip(0, 1)
    grey = np.asarray(picture.convert("L"), np.float32)[..., np.newaxis].repeat(3, axis=2)
    colors = 255 * colormaps["inferno"](0.25 + 0.7 * strength)[..., :3]
    share = 0.12 + 0.68 * strength[..., np.newaxis]
    mixed = (1 - share) * grey + share * colors
    return PIL.Image.fromarray(mixed.round().astype(np.uint8))


def _card(
    index: int,
    fields: Fields,
    found: Predictions,
    classes: Sequence[str],
    heat: np.ndarray | None,
    note: str,
    side: int,
) -> Card:
    probabilities, label = found.probabilities[index], int(found.labels[index])
    top = np.argsort(-probabilities, kind="stable")[:2].tolist()
    shown = top if label in top else [*top, label]
    guess, name = classes[top[0]], str(found.names[index])
    small = images.thumbnail(fields, side)
    alt = f"{name}, labelled {classes[label]}, predicted {guess}"
    mapped = None
    if heat is not None:
        mapped = _jpeg(overlay(small, heat), f"What speaks for {guess} in {name}, in colour")
    scores = [(classes[each], float(probabilities[each])) for each in shown]
    return Card(_jpeg(small, alt), mapped, name, classes[label], guess, scores, note)


def _jpeg(picture: PIL.Image.Image, alt: str) -> template.Image:
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=_QUALITY)
    return template.image(data.getvalue(), alt, "jpeg")
