"""Images of a report with their predictions and heat maps."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfpipe.core import terminal
from tfpipe.model import heat_map
from tfpipe.model.predictor import EnsemblePredictor, Predictor
from tfpipe.page import heat_overlay, template, thumbnail
from tfpipe.records.example import ImageExample
from tfpipe.reporting import named_predictions, record_images
from tfpipe.reporting.named_predictions import NamedPredictions

SIDE = 200  # pixels of a picture's longer side


@dataclasses.dataclass(frozen=True)
class Card:
    """An image with its label and the predicted class, `guess`, or the classes of both.

    Attributes:
        heat: the picture below its heat map for the predicted class; None without a heat map.
        scores: the two most probable classes, and the label and the guess if they are others, with
            their probabilities.
        note: a remark; "" if none.
    """

    picture: template.Image
    heat: template.Image | None
    name: str
    label: str
    guess: str
    scores: list[tuple[str, float]]
    note: str = ""


@dataclasses.dataclass(frozen=True)
class CardMaker:
    """Makes the cards of one classifier.

    Attributes:
        found: the predictions.
        classes: names in the order of their labels.
        records: the shown records by their numbers in the predictions.
        heats: heat maps by the same numbers, from `heat_maps`.
        notes: remarks by the same numbers.
    """

    found: NamedPredictions
    classes: Sequence[str]
    records: dict[int, ImageExample]
    heats: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)
    notes: dict[int, str] = dataclasses.field(default_factory=dict)

    def card(self, number: int, side: int = SIDE) -> Card:
        """Return the card of an image, its picture's longer side at most `side` pixels."""
        probabilities = self.found.probabilities[number]
        label, guessed = self.found.label(number), self.found.guess(number)
        top = np.argsort(-probabilities, kind="stable")[:2].tolist()
        shown = dict.fromkeys([*top, *label, *guessed])
        name = str(self.found.names[number])
        labelled, guess = (named_predictions.text(each, self.classes) for each in (label, guessed))
        small = thumbnail.of_record(self.records[number], side)
        mapped = None
        if number in self.heats:
            blended = heat_overlay.blend(small, self.heats[number])
            mapped = thumbnail.embed(blended, f"Heat map of {self.classes[top[0]]} in {name}")
        alt = f"{name}, labelled {labelled}, predicted {guess}"
        scores = [(self.classes[each], float(probabilities[each])) for each in shown]
        picture, note = thumbnail.embed(small, alt), self.notes.get(number, "")
        return Card(picture, mapped, name, labelled, guess, scores, note)


def heat_maps(
    predictor: Predictor | EnsemblePredictor,
    records: dict[int, ImageExample],
    found: NamedPredictions,
) -> dict[int, np.ndarray]:
    """Return the heat map of each record for its predicted class: float32 [S, S] in 0..1."""
    numbers = list(records)
    compute = tf.function(
        lambda batch, classes: heat_map.heat_maps(predictor, batch, classes), autograph=False
    )
    heats: list[np.ndarray] = []
    with terminal.progress("heat maps", len(numbers)) as advance:
        for batch, count in record_images.batches(records.values(), predictor.image_size):
            classes = np.zeros(len(batch), np.int64)
            classes[:count] = found.guesses[numbers[len(heats) : len(heats) + count]]
            heats += list(compute(batch, tf.constant(classes)).numpy()[:count])
            advance(count)
    return dict(zip(numbers, heats, strict=True))
