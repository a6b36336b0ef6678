"""What a classifier takes an image for, and why: its nearest neighbours among the training's."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from sklearn.neighbors import NearestNeighbors

from tfpipe.core import terminal
from tfpipe.core.errors import one_line
from tfpipe.model.predictor import EnsemblePredictor, Predictor
from tfpipe.page import template
from tfpipe.records.example import Fields
from tfpipe.records.part import Part
from tfpipe.reporting import images, pictures

COUNT = 6  # of each image
SIDE = 112  # pixels of their pictures' longer side


class Neighbour(NamedTuple):
    """An image of the training.

    Attributes:
        picture: a thumbnail.
        name: of the image.
        label: its class.
        distance: of its features, 1 - cosine: 0 for the same direction, 1 for nothing in common.
    """

    picture: template.Image
    name: str
    label: str
    distance: float


def find(
    predictor: Predictor | EnsemblePredictor,
    records: Sequence[Fields],
    part: Part,
    classes: Sequence[str],
    most: int,
) -> list[list[Neighbour]]:
    """Returns the nearest images of the training to each record, in the space of the features.

    Args:
        predictor: whose features are compared: what the head sees.
        records: of the images.
        part: the records of the training.
        classes: names in the order of their labels.
        most: how many of these to look at; their features are computed.
    """
    features = tf.function(
        lambda batch: predictor.features(tf.cast(batch, tf.float32)), autograph=False
    )
    size = predictor.image_size

    def of(records: Iterable[Fields]) -> np.ndarray:
        rows = []
        for pixels, count in images.batches(records, size):
            rows.append(features(pixels).numpy()[:count])
            advance(count)
        return np.concatenate(rows)

    keys = []

    def sampled() -> Iterator[Fields]:
        for fields in images.sample(part, most):
            keys.append((fields.filename, fields.sha256))
            yield fields

    total = min(most, part.images) + len(records)
    with terminal.progress("neighbours", total) as advance:
        there, asked = of(sampled()), of(records)
    count = min(COUNT + 1, len(there))  # one more, as the image itself may be there
    search = NearestNeighbors(n_neighbors=count, metric="cosine").fit(there)
    distances, places = search.kneighbors(asked)
    chosen = [
        [
            (place, distance)
            for place, distance in zip(row, apart, strict=True)
            if keys[place] != (fields.filename, fields.sha256)
        ][:COUNT]
        for fields, row, apart in zip(records, places.tolist(), distances.tolist(), strict=True)
    ]
    shown = images.read([part], {place for row in chosen for place, _ in row})
    return [
        [_neighbour(shown[place], classes, distance) for place, distance in row] for row in chosen
    ]


def _neighbour(fields: Fields, classes: Sequence[str], distance: float) -> Neighbour:
    name, label = one_line(fields.filename), classes[fields.label or 0]
    picture = pictures.thumbnail(fields, f"{name}, labelled {label}", SIDE)
    return Neighbour(picture, name, label, distance)
