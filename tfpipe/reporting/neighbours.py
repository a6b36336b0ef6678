"""The training images whose features are nearest to those of an image."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from sklearn.neighbors import NearestNeighbors

from tfpipe.core import terminal
from tfpipe.core.errors import one_line
from tfpipe.model.predictor import EnsemblePredictor, Predictor
from tfpipe.page import template, thumbnail
from tfpipe.records.example import ImageExample
from tfpipe.records.subset import Subset
from tfpipe.reporting import named_predictions, record_images

COUNT = 6  # for each image
SIDE = 112  # pixels of a picture's longer side


class Neighbour(NamedTuple):
    """A training image.

    Attributes:
        picture: a thumbnail.
        name: of the image.
        label: its class.
        distance: cosine distance of the features: 0 for the same direction, 1 for orthogonal ones.
    """

    picture: template.Image
    name: str
    label: str
    distance: float


def find(
    predictor: Predictor | EnsemblePredictor,
    records: Sequence[ImageExample],
    part: Subset,
    classes: Sequence[str],
    most: int,
) -> list[list[Neighbour]]:
    """Return the `COUNT` nearest training images of each record, without the record itself.

    Args:
        predictor: its features, the input of the head, are compared.
        records: the images.
        part: the training records.
        classes: names in the order of their labels.
        most: the number of training images to search.
    """
    compute = tf.function(
        lambda batch: predictor.features(tf.cast(batch, tf.float32)), autograph=False
    )

    def features(records: Iterable[ImageExample]) -> np.ndarray:
        rows = []
        for pixels, count in record_images.batches(records, predictor.image_size):
            rows.append(compute(pixels).numpy()[:count])
            advance(count)
        return np.concatenate(rows)

    keys = []

    def sampled() -> Iterator[ImageExample]:
        for fields in record_images.sample(part, most):
            keys.append((fields.filename, fields.sha256))
            yield fields

    total = min(most, part.images) + len(records)
    with terminal.progress("neighbours", total) as advance:
        searched, asked = features(sampled()), features(records)
    count = min(COUNT + 1, len(searched))  # one more, for the image itself
    search = NearestNeighbors(n_neighbors=count, metric="cosine").fit(searched)
    distances, places = search.kneighbors(asked)
    chosen = [
        [
            (place, distance)
            for place, distance in zip(row, apart, strict=True)
            if keys[place] != (fields.filename, fields.sha256)
        ][:COUNT]
        for fields, row, apart in zip(records, places.tolist(), distances.tolist(), strict=True)
    ]
    shown = record_images.read([part], {place for row in chosen for place, _ in row})

    def neighbour(fields: ImageExample, distance: float) -> Neighbour:
        name = one_line(fields.filename)
        label = named_predictions.text(fields.labels, classes)
        small = thumbnail.of_record(fields, SIDE)
        return Neighbour(thumbnail.embed(small, f"{name}, labelled {label}"), name, label, distance)

    return [[neighbour(shown[place], distance) for place, distance in row] for row in chosen]
